"""Rows of single questions and notes, from a run's files, and back from an arm's file."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakerun import Truth, answers, write_answers, write_run

from fedmem.comparison import observations, sheets
from fedmem.comparison.observations import arm_of, by_arm, observe
from fedmem.errors import DataError
from fedmem.metrics.summary import read_config


@pytest.fixture
def run(tmp_path):
    made = write_run(tmp_path / "a", seed=3, training={"lr": 2e-3})
    write_answers(made, answers())
    return made


def test_a_row_for_every_question_and_note_of_every_round(run) -> None:
    table = observe(run)
    assert table.schema == observations.SCHEMA
    rows = table.to_pylist()
    assert {(row["seed"], row["lr"]) for row in rows} == {(3, 2e-3)}
    notes = [row for row in rows if row["task"] is None and row["round"] == 5]
    truth = Truth()
    for copies, count in ((0, truth.twins), (1, 12), (10, 16)):
        level = [row for row in notes if row["copies"] == copies]
        assert len(level) == count
    top = [row for row in notes if row["copies"] == 10]
    assert sum(row["phi"] for row in top) == truth.phi[5]
    assert sum(row["window"] for row in top) == truth.window[5]
    assert sum(row["exact"] for row in top) == truth.exact[5]
    asked = [row for row in rows if row["copies"] is None and row["round"] == 0]
    # both tasks number their questions alike: told apart, none lost
    assert len({row["unit"] for row in asked}) == len(asked) == 120
    sheet = sheets.arm("demo", table).seeds[3]
    assert sheet.nll.shape == (1, 6, 120) and sheet.hits["phi"].shape == (1, 6, 60)


def test_what_makes_an_arm(tmp_path) -> None:
    runs = [
        write_run(tmp_path / "a", seed=1, training={"lr": 1e-3}),
        write_run(tmp_path / "b", seed=2, training={"lr": 3e-3}, name="other"),
        write_run(tmp_path / "c", seed=1, training={"lr": 1e-3, "batch_size": 4}),
    ]
    assert [paths for _, paths in by_arm(runs)] == [runs[:2], runs[2:]]
    assert arm_of(read_config(runs[0])) == arm_of(read_config(runs[1]))


def test_an_arms_file_comes_back_as_it_was(run, tmp_path) -> None:
    file = tmp_path / "arm.parquet"
    observations.write(file, observe(run), {"arm": "demo", "runs": [1]})
    table, about = observations.read(file)
    assert about == {"arm": "demo", "runs": [1]}
    keys = ["lr", "seed", "unit", "round"]
    sort = [(key, "ascending") for key in keys]
    assert table.sort_by(sort).to_pylist() == observe(run).sort_by(sort).to_pylist()
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".parquet"] == [file.name]
    other = tmp_path / "other.parquet"
    pq.write_table(pa.table({"seed": [1]}), other)
    with pytest.raises(DataError, match=r"other\.parquet: lacks the column lr"):
        observations.read(other)
    other.write_bytes(b"PAR1 torn")
    with pytest.raises(DataError, match=r"other\.parquet cannot be read"):
        observations.read(other)


def test_runs_without_a_shared_model_are_no_arm(tmp_path) -> None:
    made = write_run(tmp_path / "a", rounds={"count": 5, "topology": "local"})
    with pytest.raises(DataError, match="topology local shares no model"):
        observe(made)
