"""Runs whose files another version wrote: one line that names the file or column, no traceback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakerun import write_run

from fedmem.errors import DataError
from fedmem.metrics import tokens
from fedmem.metrics.summary import summarise
from fedmem.report import write_report


def change(file: Path, column: str, value: Any = None) -> None:
    """Put `value` in every row of the column; None takes the column away."""
    table = pq.read_table(file)
    if value is None:
        table = table.drop_columns([column])
    elif column in table.column_names:
        made = pa.array([value] * len(table))
        table = table.set_column(table.column_names.index(column), column, made)
    else:
        table = table.append_column(column, pa.array([value] * len(table)))
    pq.write_table(table, file)


@pytest.mark.parametrize(
    ("name", "column", "value", "told"),
    [
        ("scores.parquet", "longest", None, "run: the table has no column longest; was it"),
        ("scores.parquet", "hit", "yes", "run: the table's column hit holds string; was it"),
        ("scores.parquet", "round", "1", "run: the table's column round holds string"),
        ("scores.parquet", "attack", "later", "run: scores: no attack is called 'later'"),
        ("canaries.parquet", "chars", None, "run: the table has no column chars"),
        ("canaries.parquet", "copies", "x", "run: the table's column copies holds string"),
        ("canaries.parquet", "owners", "a", "run: the table's column owners holds string"),
        ("canaries.parquet", "phi_values", None, "run: the table has no column phi_values"),
    ],
)
def test_columns_of_another_version_are_named(
    tmp_path: Path, name: str, column: str, value: Any, told: str
) -> None:
    run = write_run(tmp_path / "run")
    change(run / name, column, value)
    with pytest.raises(DataError) as caught:
        write_report([run], tmp_path / "r.html")
    assert told in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "r.html").exists()


def test_an_unknown_column_is_left_alone(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    before = summarise(run)
    for name in ("scores.parquet", "canaries.parquet"):
        change(run / name, "of_later", 1)
    assert summarise(run) == before


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("metrics.jsonl", '{"round": "x", "participants": []}\n', "its round is no whole number"),
        ("timings.jsonl", '{"round": 0, "seconds": "x"}\n', r"timings\.jsonl cannot be read"),
        ("utility.json", "[1]", "row 0 lacks round"),
    ],
)
def test_values_of_another_kind(tmp_path: Path, name: str, text: str, told: str) -> None:
    run = write_run(tmp_path / "run")
    (run / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=told):
        summarise(run)


@pytest.mark.parametrize(("column", "value"), [("rank", None), ("zlib", "x"), ("logprob", 1.0)])
def test_tokens_of_another_version(tmp_path: Path, column: str, value: Any) -> None:
    row = {"round": 0, "model": "global", "canary": "n", "zlib": 9}
    row |= {name: [0.0] for name in tokens.LISTS} | {"ok": [True]}
    file = tmp_path / tokens.TOKENS
    pq.write_table(pa.Table.from_pylist([row], tokens.schema(0)), file)
    assert len(tokens.read_tokens(tmp_path)) == 1
    change(file, column, value)
    with pytest.raises(DataError, match=f"column {column}.*another version"):
        tokens.read_tokens(tmp_path)
