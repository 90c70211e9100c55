from collections import Counter
from pathlib import Path

import pytest

from fedmem.config.sources import JsonlSource
from fedmem.data.adapters import OnBadRow, read_records
from fedmem.errors import DataError


def read(path: Path, on_bad_row: OnBadRow = "error") -> tuple[list[str], Counter[str]]:
    source = JsonlSource(kind="jsonl", path=path, adapter="generic", prompt="q", completion="q")
    counts: Counter[str] = Counter()
    return [record.id for record in read_records(source, None, on_bad_row, counts)], counts


def test_rows_are_read_in_order_and_blank_lines_passed_over(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes('\ufeff{"q": "é"}\r\n\n  \n{"q": "b"}'.encode())
    assert read(path) == (["line-1", "line-4"], Counter())


def test_reading_is_lazy(write_jsonl):
    path = write_jsonl("a.jsonl", [{"q": "a"}, "broken"])
    source = JsonlSource(kind="jsonl", path=path, adapter="generic", prompt="q", completion="q")
    rows = read_records(source, None, "error", Counter())
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
        ('{"q": ' + "1" * 5000 + "}", "a number of too many digits"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(write_jsonl, line, message):
    path = write_jsonl("bad.jsonl", [{"q": "a"}, line, {"q": "b"}])
    with pytest.raises(DataError, match=f"bad.jsonl:2: .*{message}") as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert read(path, "skip") == (["line-1", "line-3"], Counter(bad_rows=1))


def test_other_encodings_are_named(tmp_path):
    path = tmp_path / "latin.jsonl"
    path.write_bytes(b'{"q": "a"}\n{"q": "\xe9"}\n')
    with pytest.raises(DataError, match=r"latin.jsonl:2: not UTF-8 at byte 8.*save the file as"):
        read(path)
    for encoding in ("utf-16", "utf-16-le", "utf-32"):
        path.write_bytes('{"q": "a"}\n'.encode(encoding))
        with pytest.raises(DataError, match=r"latin.jsonl: is not UTF-8 but UTF-16.*save the file"):
            read(path, "skip")


def test_duplicate_ids_name_both_lines_but_not_the_id_or_are_counted(write_jsonl):
    path = write_jsonl("a.jsonl", [{"id": "xyz", "q": "a"}, {"id": "y", "q": "b"}] * 2)
    with pytest.raises(DataError, match=r"a.jsonl:3: .* same id, .*a.jsonl:1;") as caught:
        read(path)
    assert "xyz" not in str(caught.value)
    assert read(path, "skip") == (["xyz", "y"], Counter(duplicate_ids=2))


def test_missing_empty_and_unusable_files(tmp_path, write_jsonl):
    with pytest.raises(DataError, match=r"none.jsonl: no such file"):
        read(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match=r"empty.jsonl: holds no rows"):
        read(write_jsonl("empty.jsonl", ["", " "]))
    with pytest.raises(DataError, match=r"all.jsonl: no usable row, 2 skipped"):
        read(write_jsonl("all.jsonl", ["x", "y"]), "skip")
    with pytest.raises(DataError, match=r"is a folder; `path` must name the file"):
        read(tmp_path)
