"""What every reader gives: rows one at a time, each with its place, or with what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from fedmem.errors import DataError

Row = dict[str, Any]
SAVE_AS_UTF8 = "save the file as UTF-8"


class Cell(str):
    """Text of a CSV cell: where an adapter wants a number, a list or a mapping, it is JSON."""


class Found(NamedTuple):
    """A row where it stands: `place` for people, `name` its id where it has none of its own.

    `row` is a ValueError, said and not raised, where the row cannot be read at all.
    """

    place: str
    name: str
    row: Row | ValueError


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns the system's refusals to open or read `path` into a DataError."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(
            f"{path}: no such file; check `path`, and `data.root` that relative paths start at"
        ) from None
    except IsADirectoryError:
        raise DataError(f"{path}: is a folder; `path` must name the file in it") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or 'damaged'}") from None


def folder(path: Path) -> Path:
    """The path itself; DataError unless it is a folder."""
    if path.is_dir():
        return path
    if path.exists():
        raise DataError(f"{path}: is a file; `path` must name the folder")
    raise DataError(
        f"{path}: no such folder; check `path`, and `data.root` that relative paths start at"
    )


def refuse_utf16(path: Path, start: bytes) -> None:
    """DataError if a text file begins as UTF-16 or UTF-32 does: no row of it can be read."""
    if start.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in start:
        raise DataError(f"{path}: is not UTF-8 but UTF-16 or no text at all; {SAVE_AS_UTF8}")
