import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fedmem.config.sources import CsvSource
from fedmem.data import prompts
from fedmem.data.adapters import read_records
from fedmem.data.records import Note
from fedmem.errors import DataError

HEAD = "id,prompt,completion\n"


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def table(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A CSV file in which lists and mappings are JSON."""
    with path.open("w", encoding="utf-8", newline="") as file:
        out = csv.DictWriter(file, list(rows[0]))
        out.writeheader()
        for row in rows:
            out.writerow(
                {k: json.dumps(v) if isinstance(v, list | dict) else v for k, v in row.items()}
            )
    return path


def read(path: Path, adapter: str = "generic", skip: bool = False, **more: Any) -> list[Any]:
    source = CsvSource(kind="csv", path=path, adapter=adapter, **more)
    return list(read_records(source, None, "skip" if skip else "error", Counter()))


def test_quotes_line_breaks_blank_lines_and_a_mark(tmp_path):
    text = '\ufeffprompt,completion\r\n"q, ""one""\nand\r\nmore",a\r\n\r\nq2,é\r\n'
    records = read(write(tmp_path / "a.csv", text))
    assert [r.prompt for r in records] == ['q, "one"\nand\r\nmore', "q2"]
    assert [r.id for r in records] == ["line-2", "line-6"]


def test_another_delimiter(tmp_path):
    path = write(tmp_path / "a.tsv", "prompt\tcompletion\nq, s\ta\n")
    assert read(path, delimiter="\t")[0].prompt == "q, s"
    with pytest.raises(DataError, match=r"a.tsv:1: the header has one column; is ',' the `delimi"):
        read(path)


def test_cells_hold_json_where_columns_are_lists_mappings_or_numbers(tmp_path):
    rows: list[dict[str, Any]] = [
        {"question": "Q?", "choices": ["a", 'b "x"', "c\n", "d"], "answer": 1, "subject": "s"}
    ]
    record = read(table(tmp_path / "mmlu.csv", rows), "mmlu", id="subject")[0]
    assert record == prompts.mcq("s", "Q?", ["a", 'b "x"', "c", "d"], 1)
    context = {"contexts": ["One.", "Two."], "labels": []}
    rows = [{"pubid": 7, "question": "Q?", "context": context, "final_decision": "maybe"}]
    record = read(table(tmp_path / "pub.csv", rows), "pubmedqa")[0]
    assert record == prompts.closed("7", "One. Two.", "Q?", "maybe")
    options = dict(zip("ABCD", "wxyz", strict=True))
    rows = [{"question": "12", "options": options, "answer_idx": "B"}]
    record = read(table(tmp_path / "medqa.csv", rows), "medqa")[0]
    assert record == prompts.mcq("line-2", "12", list("wxyz"), 1)  # text that looks like a number
    tag = {"start": 8, "end": 11, "category": "NAME", "type": "DOCTOR"}
    rows = [
        {"id": "n1", "patient": 12, "text": "Seen by Ann.\n", "phi": [tag]},
        {"id": "n2", "patient": None, "text": "x", "phi": None},
    ]
    first, second = read(table(tmp_path / "notes.csv", rows), "notes")
    assert isinstance(first, Note)
    assert (first.patient, first.text, first.value(first.phi[0])) == ("12", "Seen by Ann.\n", "Ann")
    assert type(first.text) is str
    assert (second.patient, second.phi) == ("n2", ())


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("x,q", "2 cells, and the header has 3"),
        ("x,q,a,b", "4 cells, and the header has 3"),
        ("x,q,", "'completion' must be str, not null"),
        ('x,"q"s,a', "text behind a closed quote"),
        ("x,caf\udce9,a", "not UTF-8; save the file as UTF-8"),
    ],
)
def test_a_bad_row_is_named_by_the_line_it_begins_at(tmp_path, row, message):
    text = f'{HEAD}a,"q\n1",a\n{row}\nb,q2,a\n'.encode(errors="surrogateescape")
    path = write(tmp_path / "bad.csv", text)
    with pytest.raises(DataError, match=rf"bad.csv:4: {message}"):
        read(path)
    assert [r.id for r in read(path, skip=True)] == ["a", "b"]


def test_wrong_json_in_a_cell_is_named_by_its_column(tmp_path):
    for cell, message in [("['a']", "must be list, as JSON in its cell"), ("3", "not int")]:
        path = write(tmp_path / "m.csv", f'question,choices,answer\nQ?,"{cell}",1\n')
        with pytest.raises(DataError, match=rf"m.csv:2: 'choices' .*{message}"):
            read(path, "mmlu")


@pytest.mark.parametrize("skip", [False, True])
def test_a_quote_left_open_would_swallow_all_rows_behind_it(tmp_path, skip):
    path = write(tmp_path / "open.csv", f'{HEAD}a,q,a\nb,"q,a\n' + "c,q,a\n" * 9)
    with pytest.raises(DataError, match=r"open.csv:3: a quote .* is never closed"):
        read(path, skip=skip)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no rows"),
        (HEAD, "holds no rows"),
        ("a,a\n1,2\n", "a.csv:1: a column's name is empty or stands twice"),
        ("a,,b\n1,2,3\n", "a.csv:1: a column's name is empty or stands twice"),
        ("prompt,answer\nq,a\n", "a.csv:2: the column 'completion' is missing"),
        ("prömpt,b\n".encode("latin-1"), "a.csv:1: the header is not UTF-8; save the file as"),
        (f"{HEAD}a,q,a\n".encode("utf-16"), "a.csv: is not UTF-8 but UTF-16"),
        (f"{HEAD}a,q,a\n".encode("utf-16-be"), "a.csv: is not UTF-8 but UTF-16"),
    ],
)
def test_unusable_files(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read(write(tmp_path / "a.csv", text))


def test_a_folder_and_a_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"is a folder; `path` must name the file"):
        read(tmp_path)
    with pytest.raises(DataError, match=r"none.csv: no such file"):
        read(tmp_path / "none.csv")


def test_cells_longer_than_the_csv_modules_own_limit(tmp_path):
    text = "word " * 60_000
    path = table(tmp_path / "long.csv", [{"id": "a", "text": text}])
    assert read(path, "notes")[0].text == text
