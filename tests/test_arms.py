"""Arms side by side: run directories, the joint report, one that fails, all that fail, Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import listen_to_ctrl_c, rounds_done

from fedmem.arms import run_arms
from fedmem.config import Config
from fedmem.errors import ConfigError, RunError
from fedmem.group import at_once
from fedmem.loading import arm_configs, load_config
from fedmem.progress import Event
from fedmem.rundir import finished_runs, open_finished
from fedmem.versions import cores
from fedmem.workers import environment

ROOT = Path(__file__).resolve().parents[1]
SMALL = """\
name: small
rounds: {count: 1, local_steps: 1}
data:
  clients:
    - {name: a, source: {kind: synthetic, adapter: mcq, records: 20}}
    - {name: b, source: {kind: synthetic, adapter: flashcards, records: 20}}
  canaries:
    source: {kind: synthetic, adapter: notes, records: 40}
    levels: [{copies: 2, notes: 2}]
    twins: 2
attack: {prefix_lengths: [10], continuation: 10, own_prefixes: 1}
utility: {max_records: 4}
arms:
  full: {model: {method: full}}
  lora: {}
"""
MISSING = "{kind: jsonl, path: none.jsonl, adapter: medmcqa}"


def config(folder: Path, *changes: str) -> Config:
    file = folder / "small.yaml"
    file.write_text(SMALL)
    return load_config(file, [f"output={folder / 'runs'}", *changes])


def test_arms_share_the_cores(tmp_path: Path) -> None:
    arms = arm_configs(config(tmp_path))
    assert at_once(arms) == min(2, cores())
    wide = arm_configs(config(tmp_path, f"arms.full.engine.threads={min(256, cores() * 2)}"))
    assert at_once(wide) == 1
    assert at_once(arm_configs(config(tmp_path, "engine.device=cuda"))) == 1  # they share a GPU


def test_an_arm_gets_its_threads_and_this_copy_of_fedmem() -> None:
    env = environment(3)
    assert env["OMP_NUM_THREADS"] == "3"
    assert env["PYTHONPATH"].split(os.pathsep)[0] == str(ROOT)


def test_each_arm_is_a_run_and_all_have_one_report(tmp_path: Path) -> None:
    events: list[Event] = []
    done = run_arms(config(tmp_path), events.append)
    assert list(done.runs) == ["full", "lora"]
    assert done.report.is_file()
    assert finished_runs(done.path) == list(done.runs.values())
    for name, run in done.runs.items():
        assert run.parent == done.path
        assert open_finished(run).manifest["name"] == f"small-{name}"
    assert open_finished(done.path).manifest["kind"] == "arms"
    assert {event.run for event in events} == {"small-full", "small-lora", "small"}
    rounds = [event for event in events if event.seconds is not None]
    assert {(event.run, event.round) for event in rounds} >= {("small-full", 1), ("small-lora", 1)}


def test_a_failed_arm_is_named_and_the_other_finishes(tmp_path: Path) -> None:
    changed = config(tmp_path, f"arms.full.data.clients.a.source={MISSING}")
    with pytest.raises(RunError, match=r"arm full: .*none\.jsonl.*report shows the other"):
        run_arms(changed)
    (parent,) = (tmp_path / "runs").iterdir()
    manifest = json.loads((parent / "manifest.json").read_text())
    assert manifest["status"] == "failed"
    assert manifest["runs"]["full"] is None
    assert [run.name for run in finished_runs(parent)] == [manifest["runs"]["lora"]]
    assert (parent / "report.html").is_file()


def test_if_every_arm_refuses_the_data_so_does_the_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"arm full, lora: .*none\.jsonl"):
        run_arms(config(tmp_path, f"data.clients.a.source={MISSING}"))
    (parent,) = (tmp_path / "runs").iterdir()
    assert not (parent / "report.html").exists()


def test_ctrl_c_stops_all_arms_and_says_what_is_kept(tmp_path: Path) -> None:
    config(tmp_path)
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "fedmem", "run", str(tmp_path / "small.yaml")),
            *("rounds.count=2000", f"output={tmp_path / 'runs'}"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=listen_to_ctrl_c,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    for _ in range(900):
        if process.poll() is not None or rounds_done(tmp_path.glob("runs/*/*/metrics.jsonl")) >= 4:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors
    assert "Traceback" not in errors
    assert "fedmem: error: interrupted; rounds up to " in errors.splitlines()[-1]
    manifests = list(tmp_path.glob("runs/*/*/manifest.json"))
    assert [json.loads(file.read_text())["error"] for file in manifests] == ["interrupted"] * 2
