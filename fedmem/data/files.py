"""A single file given on the command line, as a source of records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fedmem.config.sources import Source, StoredSource
from fedmem.errors import ConfigError, DataError
from fedmem.explain import explain

KINDS = {".jsonl": "jsonl", ".csv": "csv", ".parquet": "parquet"}


def source_of(file: Path, adapter: str, **columns: Any) -> StoredSource:
    """The source that reads `file`, by its suffix. `columns` as in a config: prompt, id, ...

    Raises DataError if there is no such file or its kind is not known, ConfigError for an adapter
    that is not.
    """
    if not file.is_file():
        raise DataError(f"{file}: no such file")
    if file.suffix.lower() not in KINDS:
        raise DataError(f"{file}: its name must end in {', '.join(KINDS)}")
    tree = {"kind": KINDS[file.suffix.lower()], "path": str(file), "adapter": adapter, **columns}
    try:
        source = TypeAdapter(Source).validate_python(tree)
    except ValidationError as error:
        raise ConfigError(f"--adapter {adapter}: {explain(error, tree)[1]}") from None
    assert isinstance(source, StoredSource)
    return source
