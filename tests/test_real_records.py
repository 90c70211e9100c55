"""The whole path on real records from files: the shipped config, made small, to a report."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import fedmem
from fedmem.simulation import Run

HERE = Path(__file__).parents[1]
REAL = HERE.parent / "shared" / "data"

pytestmark = pytest.mark.skipif(not REAL.is_dir(), reason=f"no real records in {REAL}")


def test_real_records_run_to_a_report_without_a_word_of_a_note(tmp_path: Path) -> None:
    config = fedmem.load_config(
        str(HERE / "configs" / "real.yaml"),
        [
            "arms={}",
            f"data.root={REAL}",
            f"output={tmp_path}",
            "data.max_records=12",
            "data.canaries.levels=[{copies: 1, notes: 2}, {copies: 3, notes: 2}]",
            "data.canaries.twins=3",
            "rounds.count=1",
            "utility.max_records=12",
        ],
    )

    done = fedmem.run(config)

    assert isinstance(done, Run)
    canaries = pq.read_table(done.path / "canaries.parquet").to_pylist()
    assert sorted(row["copies"] for row in canaries) == [0, 0, 0, 1, 1, 3, 3]
    assert all(row["phi"] > 0 and row["text"] is None for row in canaries)
    tasks = {row["task"] for row in json.loads((done.path / "utility.json").read_text())}
    assert tasks == {"all", "mcq", "closed", "open"}
    assert "data" in json.loads((done.path / "manifest.json").read_text())
    notes = [json.loads(line) for line in (REAL / "clinical_notes.jsonl").open(encoding="utf-8")]
    used = {row["canary"] for row in canaries}
    phrases = [note["text"][100:160] for note in notes if note["id"] in used]
    assert len(phrases) == 7
    for file in done.path.rglob("*"):
        if file.is_file():
            text = file.read_bytes().decode("utf-8", "ignore")
            assert not any(phrase in text for phrase in phrases), file
