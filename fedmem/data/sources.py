"""JSONL files, read lazily: one JSON object a line, every fault named by file and line."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NoReturn, Protocol, TypeVar

from fedmem.errors import DataError

Row = dict[str, Any]
OnBadRow = Literal["error", "skip"]


class _Identified(Protocol):
    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=_Identified)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def parse(line: bytes) -> Row:
    """One line of a JSONL file as a row; ValueError with a clear message if it is none."""
    try:
        row = json.loads(line.decode("utf-8"), parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start + 1} of the line") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise ValueError("not usable JSON: nested too deeply") from None
    if not isinstance(row, dict):
        raise ValueError(f"must be a JSON object, not {type(row).__name__}")
    return row


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(line number from 1, line) of every line that is not blank; DataError if unreadable."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")  # a byte order mark is harmless
                if line.strip():
                    yield number, line
    except FileNotFoundError:
        raise DataError(
            f"{path}: no such file; check `path`, and `data.root` that relative paths start at"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None


def read(
    path: Path,
    convert: Callable[[Row, int], T],
    on_bad_row: OnBadRow,
    counts: Counter[str],
) -> Iterator[T]:
    """Records of a JSONL file, one at a time.

    `convert(row, line)` makes a record or raises ValueError. A bad row or an id seen before is a
    DataError naming file and line, or with `skip` is left out and counted in `counts` under
    `bad_rows` and `duplicate_ids`. A file without any usable row is a DataError always.
    """
    first_line: dict[str, int] = {}
    for number, line in read_lines(path):
        try:
            record = convert(parse(line), number)
        except ValueError as error:
            if on_bad_row == "error":
                raise DataError(
                    f"{path}:{number}: {error}; mend the row, or set data.on_bad_row=skip"
                ) from None
            counts["bad_rows"] += 1
            continue
        if record.id in first_line:
            if on_bad_row == "error":
                raise DataError(
                    f"{path}:{number}: the id {record.id!r} stands in line "
                    f"{first_line[record.id]} already; mend the row, or set data.on_bad_row=skip"
                )
            counts["duplicate_ids"] += 1
            continue
        first_line[record.id] = number
        yield record
    if not first_line:
        skipped = counts["bad_rows"]
        raise DataError(
            f"{path}: no usable row, {skipped} skipped as bad; check the source's `adapter`"
            if skipped
            else f"{path}: the file holds no rows"
        )


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes: which data a run was made of."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
