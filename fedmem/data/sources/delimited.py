"""CSV: a header row, then one record a row; cells may hold line breaks between quotes."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from fedmem.data.rows import (
    SAVE_AS_UTF8,
    Cell,
    Found,
    Row,
    readable,
    refuse_utf16,
)
from fedmem.errors import DataError

MAX_CELL = 2**24  # characters; Python's own limit of 131,072 is less than a long patient file


def read(path: Path, delimiter: str) -> Iterator[Found]:
    """Every row behind the header, by the line it begins at. An empty cell is null.

    Raises DataError if the file cannot be read, its header is unusable, or a quote is left open:
    all rows behind that one would be lost in it.
    """
    csv.field_size_limit(MAX_CELL)
    with readable(path), path.open("rb") as file:
        refuse_utf16(path, file.read(1000))
    # bytes that are not UTF-8 become lone surrogates, so that the row they stand in can be named
    with (
        readable(path),
        path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines,
    ):
        table = csv.reader(lines, delimiter=delimiter, strict=True)
        header: list[str] | None = None
        while True:
            line = table.line_num + 1
            place = f"{path}:{line}"
            try:
                cells = next(table)
            except StopIteration:
                return
            except csv.Error as error:
                fault = _fault(error)
                if header is None or "never closed" in fault:
                    raise DataError(f"{place}: {fault}; mend the file") from None
                yield Found(place, f"line-{line}", ValueError(fault))
                continue
            if not cells:
                continue  # a blank line
            if header is None:
                header = _header(cells, place, delimiter)
            else:
                yield Found(place, f"line-{line}", _row(header, cells))


def _fault(error: csv.Error) -> str:
    """The csv module's message, in terms of the file."""
    text = str(error)
    if "end of data" in text or "field larger" in text:
        return "a quote that opens in this row is never closed"
    if "expected after" in text:
        return 'text behind a closed quote (a quote inside a cell is written "")'
    return "not CSV"


def _header(cells: list[str], place: str, delimiter: str) -> list[str]:
    names = [cell.strip() for cell in cells]
    if not _is_utf8(names):
        raise DataError(f"{place}: the header is not UTF-8; {SAVE_AS_UTF8}")
    if len(names) == 1:
        raise DataError(f"{place}: the header has one column; is {delimiter!r} the `delimiter`?")
    if "" in names or len(set(names)) < len(names):
        raise DataError(f"{place}: a column's name is empty or stands twice; mend the header")
    return names


def _row(header: list[str], cells: list[str]) -> Row | ValueError:
    if len(cells) != len(header):
        return ValueError(f"{len(cells)} cells, and the header has {len(header)}")
    if not _is_utf8(cells):
        return ValueError(f"not UTF-8; {SAVE_AS_UTF8}")
    return {name: Cell(cell) if cell else None for name, cell in zip(header, cells, strict=True)}


def _is_utf8(cells: list[str]) -> bool:
    try:
        "".join(cells).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
