"""One Parquet file, in batches of rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from fedmem.data.rows import Found, readable
from fedmem.errors import DataError

BATCH = 256  # rows in memory at once
BUFFER = 2**20  # bytes of a column that are read at once, so that row groups may be of any size


def read(path: Path) -> Iterator[Found]:
    """Every row, counted from 1; DataError if the file is no Parquet or damaged."""
    with readable(path), path.open("rb"):
        pass  # the system's refusals in the same words as for every other file
    number = 0
    try:
        with pq.ParquetFile(path, buffer_size=BUFFER, pre_buffer=False) as file:
            names = file.schema_arrow.names
            if len(set(names)) < len(names):
                raise DataError(f"{path}: a column's name stands twice; write it with one of each")
            for batch in file.iter_batches(BATCH):
                yield from rows(batch, f"{path} row", number)
                number += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        behind = f" behind row {number}" if number else ""
        raise DataError(
            f"{path}: is no Parquet file, or torn or damaged{behind} ({type(error).__name__}); "
            "write or download it again"
        ) from None


def rows(batch: pa.RecordBatch, place: str, before: int) -> Iterator[Found]:
    """The rows of a batch; one with bytes that are no text is told as such."""
    try:
        found = batch.to_pylist()
    except UnicodeDecodeError:
        if batch.num_rows > 1:
            for index in range(batch.num_rows):
                yield from rows(batch.slice(index, 1), place, before + index)
            return
        found = [ValueError("holds text that is not UTF-8")]
    for index, row in enumerate(found, start=before + 1):
        yield Found(f"{place} {index}", f"row-{index}", row)
