"""Where records come from: a reader a kind of source, each giving its rows one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from fedmem.config.sources import (
    CsvSource,
    DiskSource,
    HubSource,
    I2b2Source,
    JsonlSource,
    LocalSource,
    ParquetSource,
    StoredSource,
)
from fedmem.data import i2b2
from fedmem.data.rows import Found
from fedmem.data.sources import delimited, fingerprints, huggingface, jsonl, parquet

READERS: dict[type[StoredSource], Callable[..., Iterator[Found]]] = {
    JsonlSource: lambda source, root: jsonl.read(resolve(source, root)),
    CsvSource: lambda source, root: delimited.read(resolve(source, root), source.delimiter),
    ParquetSource: lambda source, root: parquet.read(resolve(source, root)),
    DiskSource: lambda source, root: huggingface.from_disk(source, resolve(source, root)),
    HubSource: lambda source, root: huggingface.from_hub(source),
    I2b2Source: lambda source, root: i2b2.read(resolve(source, root)),
}


def read(source: StoredSource, root: Path | None) -> Iterator[Found]:
    """Every row of a source, lazily; `root` is the folder that relative paths start at.

    Raises DataError, naming the file or set and what to do, if it cannot be read.
    """
    return READERS[type(source)](source, root)


def resolve(source: LocalSource, root: Path | None) -> Path:
    """A source's path: absolute as it is, relative from `root` (or where the command runs)."""
    return root / source.path if root else source.path


def name(source: StoredSource) -> str:
    """The source as people know it: its path as in the config; of the hub, path and commit."""
    if isinstance(source, HubSource):
        parts = (source.path, source.name, source.data_dir, source.split)
        return f"hub:{'/'.join(part for part in parts if part)}@{source.revision}"
    assert isinstance(source, LocalSource)
    path = source.path.as_posix()
    return f"{path}/{source.split}" if isinstance(source, DiskSource) and source.split else path


def fingerprint(source: StoredSource, root: Path | None) -> dict[str, str]:
    """The source's name -> SHA-256 of its file (of a folder: over names and bytes of its files).

    For the hub, whose commits are hashes themselves: the commit.
    """
    if isinstance(source, HubSource):
        return {name(source): source.revision}
    assert isinstance(source, LocalSource)
    path = resolve(source, root)
    if isinstance(source, DiskSource | I2b2Source):
        return {name(source): fingerprints.of_folder(path)}
    return {name(source): fingerprints.of_file(path)}
