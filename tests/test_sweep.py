"""Sweeps: every point is a run, an index over all, one that fails, a kill, and going on."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from fakerun import Truth, write_run
from tiny import config

import fedmem
from fedmem.config import Config
from fedmem.errors import ConfigError, RunError
from fedmem.index import FIGURES, figures
from fedmem.loading import dump_config
from fedmem.metrics.summary import summarise
from fedmem.progress import Event, plain
from fedmem.report.page import short_names
from fedmem.rundir import finished_runs, open_finished
from fedmem.sweep import Overall, remaining, run_sweep

ROOT = Path(__file__).resolve().parents[1]


def swept(base: Path, output: Path, **sections: Any) -> Config:
    """Two seeds of a run of one round."""
    sections = {"rounds": {"count": 1}, "sweep": {"seed": [0, 1]}, **sections}
    return config(base, output=str(output), **sections)


def rows(parent: Path) -> list[dict[str, str]]:
    with (parent / "index.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def half_failed(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two points of which one cannot find its records; returns its directory."""
    output = tmp_path_factory.mktemp("sweep")
    synthetic = {"kind": "synthetic", "adapter": "flashcards", "records": 6}
    missing = {"kind": "jsonl", "path": "none.jsonl", "adapter": "medmcqa"}
    made = swept(base_folder, output, sweep={"data.clients.a.source": [synthetic, missing]})
    with pytest.raises(RunError, match=r"point tiny-source2: .*none\.jsonl.*the other points"):
        run_sweep(made)
    (parent,) = output.iterdir()
    return parent


def test_a_point_that_fails_is_named_and_the_others_finish(half_failed: Path) -> None:
    good, bad = rows(half_failed)
    assert (good["point"], good["status"], good["error"]) == ("tiny-source1", "finished", "")
    assert (bad["point"], bad["status"], bad["run"]) == ("tiny-source2", "failed", "")
    assert "none.jsonl" in bad["error"]
    manifest = json.loads((half_failed / "manifest.json").read_text())
    assert manifest["kind"] == "sweep" and manifest["status"] == "failed"
    assert manifest["runs"] == {"tiny-source1": good["run"], "tiny-source2": None}
    assert finished_runs(half_failed) == [half_failed / good["run"]]
    assert (half_failed / "report.html").is_file()


def test_the_index_has_the_figures_of_the_summary(half_failed: Path) -> None:
    row = rows(half_failed)[0]
    run = half_failed / row["run"]
    assert open_finished(run).manifest["name"] == "tiny-source1"
    summary = json.loads((run / "summary.json").read_text())
    assert json.loads(row["data.clients.a.source"])["adapter"] == "flashcards"
    found = figures(summary)
    assert set(found) == set(FIGURES)  # a whole run has them all
    for name, value in found.items():
        assert float(row[name]) == pytest.approx(value), name


def test_the_figures_are_those_of_the_last_round_and_most_copies(tmp_path: Path) -> None:
    truth = Truth(phi=(0, 0, 0, 0, 9, 7), twins_phi=(0, 0, 0, 0, 0, 1), own=(0, 0, 0, 0, 0, 3))
    found = figures(summarise(write_run(tmp_path / "run", truth)))
    assert (found["last_round"], found["copies"]) == (5, 10)
    assert (found["phi_k"], found["phi_n"], found["phi_twins_k"], found["phi_twins_n"]) == (
        *(7, 16),
        *(1, 32),
    )
    assert found["phi_low"] < 7 / 16 < found["phi_high"]
    assert found["own_phi_k"] == 3
    assert found["accuracy"] == 0.6 and found["nll"] == pytest.approx(1.0)


KILLED = """\
import sys
from pathlib import Path
from fedmem.loading import load_config
from fedmem.sweep import run_sweep
run_sweep(load_config(Path(sys.argv[1])), resume=True, jobs=1)
"""


@pytest.mark.slow
def test_a_killed_sweep_goes_on_where_it_was(base_folder: Path, tmp_path: Path) -> None:
    made = swept(base_folder, tmp_path / "runs", rounds={"count": 6})
    file = tmp_path / "sweep.yaml"
    file.write_text(dump_config(made), encoding="utf-8")
    command = [sys.executable, "-c", KILLED, str(file)]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)})
    for _ in range(1200):  # until the first point has finished and the second has done a round
        lines = [f.read_bytes().count(b"\n") for f in tmp_path.glob("runs/*/*/metrics.jsonl")]
        if (len(lines) == 2 and min(lines) >= 2) or process.poll() is not None:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (parent,) = (tmp_path / "runs").iterdir()
    first, second = rows(parent)
    assert (first["status"], second["status"]) == ("finished", "open")
    assert json.loads((parent / "manifest.json").read_text())["status"] == "running"
    stamp = (parent / first["run"] / "report.html").stat().st_mtime_ns

    events: list[Event] = []
    done = run_sweep(made, events.append, resume=True)
    assert done.path == parent and list(done.runs) == ["tiny-seed0", "tiny-seed1"]
    assert [row["status"] for row in rows(parent)] == ["finished"] * 2
    assert (parent / first["run"] / "report.html").stat().st_mtime_ns == stamp
    assert any(event.stage.startswith("taken up after round") for event in events)
    assert {event.run for event in events} == {"tiny", "tiny-seed1"}  # seed 0 was not started
    assert open_finished(done.runs["tiny-seed1"]).manifest["resumed"]
    assert done.report and open_finished(parent).path == parent
    # and now that it is whole, there is nothing to do; without `resume` it would begin anew
    assert run_sweep(made, resume=True) == done


def test_run_says_to_use_sweep_and_sweep_to_use_run(base_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="start it with `fedmem sweep CONFIG`"):
        fedmem.run(swept(base_folder, tmp_path / "runs"))
    with pytest.raises(ConfigError, match=r"sweep: .*`fedmem run CONFIG`"):
        run_sweep(config(base_folder, output=str(tmp_path / "runs")))
    assert not (tmp_path / "runs").exists()


def test_the_command_names_config_key_and_value(base_folder: Path, tmp_path: Path) -> None:
    tree = yaml.safe_load(dump_config(swept(base_folder, tmp_path / "runs")))
    file = tmp_path / "bad.yaml"
    file.write_text(yaml.safe_dump({**tree, "sweep": {"training.lr": [1, 20]}}))
    command = [sys.executable, "-m", "fedmem", "sweep", str(file)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "bad.yaml: sweep: training.lr: must be less than or equal to 10, not 20" in line


def test_progress_counts_points_and_says_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("fedmem.sweep.time.monotonic", lambda: now[0])
    out = StringIO()
    overall = Overall("grid", total=6, done=1, slots=2, progress=plain(out, whole="grid"))
    overall(Event("p1", "waiting for a free core"))
    for run, seconds, end in (("p1", 60, "done"), ("p2", 20, "failed: no memory")):
        overall(Event(run, "starting"))
        overall(Event(run, "training", 1, 2))
        now[0] += seconds
        overall(Event(run, "", 1, 2, seconds=1.0))
        overall(Event(run, end))
    assert out.getvalue().splitlines() == [
        "grid: 1 of 6 points done",
        "p1: done",
        "grid: 2 of 6 points done, about 2 min 00 s left",
        "p2: failed: no memory",
        "grid: 2 of 6 points done, 1 failed, about 1 min 30 s left",
    ]
    assert remaining([10, 20], left=4, slots=2) == 30


def test_points_keep_their_values_in_the_report() -> None:
    assert short_names(["q-lr1e-3", "q-lr1e-4"]) == ["lr1e-3", "lr1e-4"]
    assert short_names(["q-full", "q-lora"]) == ["full", "lora"]
