from collections import Counter
from pathlib import Path

import pytest

from fedmem.data import prompts, sources
from fedmem.data.records import QARecord
from fedmem.errors import DataError


def convert(row: sources.Row, line: int) -> QARecord:
    if "q" not in row:
        raise ValueError("the column 'q' is missing")
    return prompts.open_question(row.get("id", f"line-{line}"), row["q"], "a")


def read(path: Path, on_bad_row: sources.OnBadRow = "error") -> tuple[list[str], Counter[str]]:
    counts: Counter[str] = Counter()
    return [r.id for r in sources.read(path, convert, on_bad_row, counts)], counts


def test_rows_are_read_in_order_and_blank_lines_passed_over(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes('\ufeff{"q": "é"}\r\n\n  \n{"q": "b"}'.encode())
    assert read(path) == (["line-1", "line-4"], Counter())


def test_reading_is_lazy(write_jsonl):
    path = write_jsonl("a.jsonl", [{"q": "a"}, "broken"])
    rows = sources.read(path, convert, "error", Counter())
    assert next(rows).id == "line-1"
    with pytest.raises(DataError):
        next(rows)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON: "),
        ("[1]", "must be a JSON object, not list"),
        ('{"q": NaN}', "NaN is not JSON"),
        ('{"p": 1}', "the column 'q' is missing"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(write_jsonl, line, message):
    path = write_jsonl("bad.jsonl", [{"q": "a"}, line, {"q": "b"}])
    with pytest.raises(DataError, match=f"bad.jsonl:2: .*{message}") as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert read(path, "skip") == (["line-1", "line-3"], Counter(bad_rows=1))


def test_bytes_that_are_not_utf8_are_named(tmp_path):
    path = tmp_path / "latin.jsonl"
    path.write_bytes(b'{"q": "a"}\n{"q": "\xe9"}\n')
    with pytest.raises(DataError, match=r"latin.jsonl:2: not UTF-8 at byte 8"):
        read(path)


def test_duplicate_ids_name_both_lines_or_are_counted(write_jsonl):
    path = write_jsonl("a.jsonl", [{"id": "x", "q": "a"}, {"id": "y", "q": "b"}] * 2)
    with pytest.raises(DataError, match=r"a.jsonl:3: the id 'x' stands in line 1"):
        read(path)
    assert read(path, "skip") == (["x", "y"], Counter(duplicate_ids=2))


def test_missing_empty_and_unusable_files(tmp_path, write_jsonl):
    with pytest.raises(DataError, match=r"none.jsonl: no such file"):
        read(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match=r"empty.jsonl: the file holds no rows"):
        read(write_jsonl("empty.jsonl", ["", " "]))
    with pytest.raises(DataError, match=r"all.jsonl: no usable row, 2 skipped"):
        read(write_jsonl("all.jsonl", ["x", "y"]), "skip")
    with pytest.raises(DataError, match=r"cannot be read"):
        read(tmp_path)


def test_sha256_is_of_the_bytes(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    assert sources.sha256(path) == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
