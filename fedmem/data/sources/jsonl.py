"""JSONL: one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from fedmem.data.rows import SAVE_AS_UTF8, Found, Row, readable, refuse_utf16


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def parse(line: bytes) -> Row:
    """One line of a JSONL file as a row; ValueError with a clear message if it is none."""
    try:
        row = json.loads(line.decode("utf-8"), parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        at = error.start + 1
        raise ValueError(f"not UTF-8 at byte {at} of the line; {SAVE_AS_UTF8}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise ValueError("not usable JSON: nested too deeply") from None
    except ValueError as error:
        if "digits" in str(error):  # Python's own limit, in Python's own terms
            raise ValueError("not usable JSON: a number of too many digits") from None
        raise
    if not isinstance(row, dict):
        raise ValueError(f"must be a JSON object, not {type(row).__name__}")
    return row


def read(path: Path) -> Iterator[Found]:
    """Every line that is not blank; DataError if the file cannot be read."""
    with readable(path), path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if number == 1:
                refuse_utf16(path, line[:1000])
                line = line.removeprefix(b"\xef\xbb\xbf")  # a byte order mark is harmless
            if not line.strip():
                continue
            row: Row | ValueError
            try:
                row = parse(line)
            except ValueError as error:
                row = error
            yield Found(f"{path}:{number}", f"line-{number}", row)
