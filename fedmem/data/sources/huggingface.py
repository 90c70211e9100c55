"""Datasets of the Hugging Face library: a folder of `save_to_disk`, and the hub at one commit."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from fedmem.config.sources import DiskSource, HubSource
from fedmem.data.rows import Found, folder
from fedmem.data.sources.parquet import BATCH, rows
from fedmem.errors import DataError

ELSEWHERE = "or download a file of it elsewhere and name that with kind: parquet or jsonl"


def from_disk(source: DiskSource, path: Path) -> Iterator[Found]:
    """Every row of a folder that `save_to_disk` wrote, counted from 1.

    Raises DataError if it is none, is damaged, or holds several splits and none is named.
    """
    datasets = _library()
    try:
        loaded = datasets.load_from_disk(str(folder(path).absolute()))
    except DataError:
        raise
    except Exception as error:  # whatever its JSON and Arrow files may hold
        raise DataError(
            f"{path}: is no folder written by save_to_disk, or a file in it is missing or damaged "
            f"({type(error).__name__}); save it again"
        ) from None
    if isinstance(loaded, datasets.DatasetDict):
        if source.split not in loaded:
            there = ", ".join(loaded)
            raise DataError(f"{path}: holds the splits {there}; name one of them as `split`")
        loaded = loaded[source.split]
        path = path / str(source.split)
    elif source.split is not None and str(loaded.split) != source.split:
        raise DataError(f"{path}: holds no split {source.split!r} but one set; remove `split`")
    yield from _rows(loaded, f"{path} row")


def from_hub(source: HubSource) -> Iterator[Found]:
    """Every row of a split of a dataset on the hub, counted from 1.

    The library's cache is asked first: a commit does not change. A token for gated sets is taken
    from HF_TOKEN (or the hub's own login) by the library, and told nowhere. Raises DataError if
    the set cannot be had, saying what to do.
    """
    datasets = _library()
    where = f"hub:{source.path}@{source.revision[:8]}"
    try:
        builder = _cached(datasets, source) or _builder(datasets, source, source.name)
        # without a connection the library falls back on the latest commit that it has
        if builder.hash != source.revision:
            raise ConnectionError
        builder.download_and_prepare()
        loaded = builder.as_dataset(split=source.split)
    except Exception as error:  # of three libraries, each with its own
        raise DataError(f"{where}: {_why(error, source)}") from None
    if not isinstance(loaded, datasets.Dataset):
        raise DataError(f"{where}: `split` names several; name one, such as train")
    yield from _rows(loaded, f"{where} {source.split} row")


def _builder(datasets: Any, source: HubSource, name: str | None) -> Any:
    # `hf://` so that a local folder of the same name is not taken for it
    return datasets.load_dataset_builder(
        f"hf://datasets/{source.path}", name, data_dir=source.data_dir, revision=source.revision
    )


def _cached(datasets: Any, source: HubSource) -> Any | None:
    """The set as it was loaded before, if that was this commit; the hub is not asked."""
    was = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = True
    try:
        builder = _builder(datasets, source, source.name or "default")
    except Exception:  # not there, or not readable: the hub's answer tells more
        return None
    finally:
        datasets.config.HF_HUB_OFFLINE = was
    return builder if builder.hash == source.revision else None


def _library() -> Any:
    """The module `datasets`, quiet: no progress bars, warnings or download counts."""
    import datasets
    import huggingface_hub

    huggingface_hub.logging.set_verbosity(logging.ERROR)  # its retries are no lines of ours
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    return datasets


def _rows(dataset: Any, place: str) -> Iterator[Found]:
    number = 0
    try:
        for table in dataset.with_format("arrow").iter(batch_size=BATCH):
            table.validate(full=True)  # a damaged file is mapped as it is: offsets may point away
            yield from rows(table, place, number)
            number += table.num_rows
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{place} {number + 1}: from here on the files are damaged ({type(error).__name__}); "
            "save or download them again"
        ) from None


def _why(error: Exception, source: HubSource) -> str:
    """What went wrong and what to do. Only texts that name sets, splits and files are passed on:
    others may hold rows, or the request with its token.
    """
    from datasets.exceptions import DatasetNotFoundError
    from httpx import TransportError
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    text = _without_token(" ".join(str(error).split()))
    if "scripts are no longer supported" in text:
        return (
            "is made by a script, and those are not run; take its Parquet twin, the branch "
            f"refs/convert/parquet: data_dir: {source.name or 'default'}, no `name`, and as "
            "revision the hash that `git ls-remote https://huggingface.co/datasets/"
            f"{source.path} refs/convert/parquet` shows"
        )
    if isinstance(error, DatasetNotFoundError):
        return f"{text[:300]} Check `path` and `revision`; for a gated set give HF_TOKEN"
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code if error.response is not None else "no answer"
        return f"the hub refused ({status}); check HF_TOKEN and `revision`, {ELSEWHERE}"
    offline = isinstance(error, OfflineModeIsEnabled | ConnectionError | TransportError)
    if offline or text.startswith("Couldn't find cache"):
        unfound = " (nor can a `data_dir` be found there)" if source.data_dir else ""
        return (
            "the hub cannot be reached (or HF_HUB_OFFLINE=1 is set), and this commit is not what "
            f"the cache holds{unfound}; "
            "load it once where there is a connection and copy the cache (HF_HOME), " + ELSEWHERE
        )
    if isinstance(error, ValueError | FileNotFoundError) and type(error).__module__ in (
        "builtins",
        "datasets.exceptions",
    ):
        return f"{text[:300]}; check `name`, `data_dir` and `split`"
    return f"cannot be loaded ({type(error).__name__}); check the set's page, {ELSEWHERE}"


def _without_token(text: str) -> str:
    from huggingface_hub import get_token

    token = get_token()
    return text.replace(token, "***") if token else text
