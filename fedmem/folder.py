"""A directory whose files are never half: written aside, flushed to disk and renamed into place."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmem.errors import DataError, RunError
from fedmem.files import part as part_of
from fedmem.files import plain, sync, told

if TYPE_CHECKING:
    import pyarrow as pa


class Folder:
    """A directory, and ways to write into it that leave a file whole or not there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write_bytes(self, name: str, data: bytes) -> Path:
        """Write `name` (may hold folders) whole or not at all; replaces an older one."""
        with self.aside(name) as part:
            part.write_bytes(data)
        return self.path / name

    def write_text(self, name: str, text: str) -> Path:
        """UTF-8 text with the line ends it has."""
        return self.write_bytes(name, text.encode())

    def write_json(self, name: str, value: object) -> Path:
        """Indented JSON; numbers that JSON does not know (NaN, infinities) become null."""
        return self.write_text(name, json.dumps(plain(value), indent=2, allow_nan=False) + "\n")

    def write_table(self, name: str, table: pa.Table) -> Path:
        """An Arrow table as Parquet; the same table gives the same bytes."""
        import pyarrow.parquet as pq

        with self.aside(name) as part:
            # how a table was put together must not show in the file
            pq.write_table(table.combine_chunks(), part, compression="zstd")
        return self.path / name

    @contextmanager
    def aside(self, name: str) -> Iterator[Path]:
        """A path to write a file to; renamed to `name` at the end, removed if the body raises."""
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        part = part_of(target)
        try:
            with told(target):
                yield part
                sync(part)
                os.replace(part, target)
                sync(target.parent)
        finally:
            part.unlink(missing_ok=True)

    @contextmanager
    def directory(self, name: str) -> Iterator[Path]:
        """A new folder to fill, such as `adapters/round_001`; appears as `name` only when whole.

        Raises RunError if `name` is already there.
        """
        target = self.path / name
        if target.exists():
            raise RunError(f"{target}: is already there and is not overwritten")
        target.parent.mkdir(parents=True, exist_ok=True)
        part = part_of(target)
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        try:
            with told(target):
                yield part
                for file in sorted(part.rglob("*")):
                    sync(file)
                sync(part)
                os.rename(part, target)
                sync(target.parent)
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def append_line(self, name: str, row: Mapping[str, object]) -> None:
        """Add a line of JSON to `name`; on disk when this returns."""
        line = json.dumps(plain(row), allow_nan=False) + "\n"
        with told(self.path / name), (self.path / name).open("ab") as file:
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The lines of `name`, each with its round; a torn last line (a crash) is left out.

        Raises DataError naming the file and line for any other.
        """
        file = self.path / name
        if not file.is_file():
            return []
        rows = []
        for number, line in enumerate(file.read_bytes().split(b"\n")[:-1], start=1):
            try:
                rows.append(json.loads(line))
                rows[-1]["round"]
            except (ValueError, KeyError, TypeError):
                raise DataError(f"{file}:{number}: torn or changed; start anew") from None
        return rows
