from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedmem.config.sources import ParquetSource
from fedmem.data import prompts
from fedmem.data.adapters import read_records
from fedmem.data.records import QARecord
from fedmem.errors import DataError

ROWS = [{"prompt": f"q{n}", "completion": "a" * 40} for n in range(1000)]
MMLU = {"question": "Q?", "subject": "anatomy", "choices": ["a", "b", "c", "d"], "answer": 3}


def write(path: Path, rows: Any, **more: Any) -> Path:
    pq.write_table(rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows), path, **more)
    return path


def read(path: Path, adapter: str = "generic", skip: bool = False, **more: Any) -> list[Any]:
    source = ParquetSource(kind="parquet", path=path, adapter=adapter, **more)
    return list(read_records(source, None, "skip" if skip else "error", Counter()))


def test_rows_are_read_over_batches_and_row_groups(tmp_path):
    records = read(write(tmp_path / "a.parquet", ROWS, row_group_size=300))
    assert [r.prompt for r in records] == [row["prompt"] for row in ROWS]
    assert [records[0].id, records[-1].id] == ["row-1", "row-1000"]


def test_lists_and_class_labels_come_as_they_are(tmp_path):
    rows = [MMLU, MMLU | {"answer": 0}]
    table = pa.Table.from_pylist(rows)
    answer = table.column("answer").cast(pa.int8())
    subject = table.column("subject").dictionary_encode()
    table = table.set_column(3, "answer", answer).set_column(1, "subject", subject)
    records = read(write(tmp_path / "m.parquet", table), "mmlu", patient="subject")
    expected = prompts.mcq("row-1", "Q?", ["a", "b", "c", "d"], 3)
    assert [r.correct for r in records] == [3, 0]
    assert isinstance(records[0], QARecord)
    assert (records[0].prompt, records[0].patient) == (expected.prompt, "anatomy")


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("answer", pa.array([3.0, 3.0]), "'answer' must be int, not float"),
        ("answer", pa.array(["D", "D"]), "'answer' must be int, not str"),
        ("answer", pa.array([3, None]), "row 2: 'answer' must be int, not null"),
        ("choices", pa.array(["a", "b"]), "'choices' must be list, not str"),
        ("question", pa.array([b"a", b"b"]), "'question' must be str, not bytes"),
        ("question", pa.array([1, 2]), "'question' must be str, not int"),
    ],
)
def test_wrong_types_name_row_and_column(tmp_path, column, values, message):
    table = pa.Table.from_pylist([MMLU, MMLU])
    at = table.column_names.index(column)
    path = write(tmp_path / "m.parquet", table.set_column(at, column, values))
    with pytest.raises(DataError, match=rf"m.parquet row \d: .*{message.split(': ')[-1]}"):
        read(path, "mmlu")


def test_text_that_is_not_utf8_is_one_bad_row(tmp_path):
    data = pa.array([b"q1", b"caf\xe9", b"q3"])
    text = pa.Array.from_buffers(pa.string(), 3, data.buffers())
    path = write(tmp_path / "l.parquet", pa.table({"prompt": text, "completion": ["a"] * 3}))
    with pytest.raises(DataError, match=r"l.parquet row 2: holds text that is not UTF-8"):
        read(path)
    assert [r.id for r in read(path, skip=True)] == ["row-1", "row-3"]


def test_a_row_group_is_not_read_whole(tmp_path):
    pool = pa.default_memory_pool()
    path = tmp_path / "one.parquet"
    rows = [{"prompt": f"{n} {'word' * 250}", "completion": "a"} for n in range(30_000)]
    write(path, rows, compression="none", use_dictionary=False)
    del rows
    assert path.stat().st_size > 30e6
    before = pool.bytes_allocated()
    source = ParquetSource(kind="parquet", path=path, adapter="generic")
    held = [pool.bytes_allocated() for _ in read_records(source, None, "error", Counter())]
    assert max(held) - before < 8e6


@pytest.mark.parametrize("kept", [0, 3, 2000, -1])
def test_a_torn_file_is_refused(tmp_path, kept):
    path = write(tmp_path / "t.parquet", ROWS)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"t.parquet: is no Parquet file, or torn or damaged"):
        read(path, skip=True)


def test_a_file_damaged_in_the_middle_is_refused(tmp_path):
    path = write(tmp_path / "d.parquet", ROWS, row_group_size=500, compression="gzip")
    data = bytearray(path.read_bytes())
    middle = len(data) * 6 // 10
    data[middle : middle + 200] = b"\xff" * 200
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"d.parquet: is no Parquet file, or torn or damaged"):
        read(path, skip=True)


def test_a_column_that_stands_twice_is_refused(tmp_path):
    table = pa.table([["q"], ["a"], ["b"]], names=["prompt", "completion", "completion"])
    with pytest.raises(DataError, match=r"t.parquet: a column's name stands twice"):
        read(write(tmp_path / "t.parquet", table))


def test_other_files_folders_and_missing_ones(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "q", "completion": "a"}\n')
    with pytest.raises(DataError, match=r"a.jsonl: is no Parquet file"):
        read(path)
    with pytest.raises(DataError, match=r"is a folder; `path` must name the file"):
        read(tmp_path)
    with pytest.raises(DataError, match=r"none: no such file"):
        read(tmp_path / "none")
    with pytest.raises(DataError, match=r"e.parquet: holds no rows"):
        read(write(tmp_path / "e.parquet", pa.table({"prompt": pa.array([], pa.string())})))
