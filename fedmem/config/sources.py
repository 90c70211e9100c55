"""Where records come from: a class a kind of source."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from fedmem.config.section import COMMIT, HUB_NAME, Section

Adapter = Literal["medmcqa", "medqa", "mmlu", "pubmedqa", "medical_meadow", "generic", "notes"]


class StoredSource(Section):
    """Records that people have. `adapter`: their columns, as on the Hugging Face hub."""

    adapter: Adapter
    prompt: str = Field("prompt", description="generic: the column with the prompt")
    completion: str = Field("completion", description="generic: the column with the answer")
    id: str | None = Field(None, description="column with a record's id; default: `id` if present")
    patient: str | None = Field(
        None, description="column with a record's patient; default: none (notes: `patient`)"
    )


class LocalSource(StoredSource):
    """Records in a file or folder; a relative path starts at `data.root`."""

    path: Path


class JsonlSource(LocalSource):
    """One JSON object a line."""

    kind: Literal["jsonl"]


class CsvSource(LocalSource):
    """A header row and one record a row; lists and mappings stand in their cells as JSON."""

    kind: Literal["csv"]
    delimiter: str = Field(",", pattern=r'^[^"\r\n]$', description="one character")


class ParquetSource(LocalSource):
    """One Parquet file."""

    kind: Literal["parquet"]


class DiskSource(LocalSource):
    """A folder written by `save_to_disk` of Hugging Face datasets."""

    kind: Literal["disk"]
    split: str | None = Field(None, description="which split, where the folder holds several")


class HubSource(StoredSource):
    """A dataset of the Hugging Face hub, at one commit: the same records for everybody."""

    kind: Literal["hub"]
    path: str = Field(pattern=HUB_NAME, description="such as qiaojin/PubMedQA")
    name: str | None = Field(None, description="the dataset's configuration, such as pqa_labeled")
    data_dir: str | None = Field(
        None, description="folder in its repository, such as a configuration of a Parquet twin"
    )
    split: str = "train"
    revision: str = Field(pattern=COMMIT, description="the commit's hash")


class I2b2Source(LocalSource):
    """A folder of i2b2/n2c2 2014 de-identification XML files, PATIENT-NN.xml."""

    kind: Literal["i2b2_xml"]
    adapter: Literal["notes"] = "notes"


class SyntheticSource(Section):
    """Records rendered from the built-in medical knowledge base; the same bytes from a seed."""

    kind: Literal["synthetic"]
    adapter: Literal["mcq", "closed", "flashcards", "mixed", "notes"]
    records: int = Field(200, ge=1, le=100_000)


Source = Annotated[
    JsonlSource | CsvSource | ParquetSource | DiskSource | HubSource | I2b2Source | SyntheticSource,
    Field(discriminator="kind"),
]
