"""A run that is killed and taken up again ends as if nothing had happened, to the byte."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import config

from fedmem.config import Config
from fedmem.errors import DataError, RunError
from fedmem.loading import dump_config
from fedmem.manifest import find
from fedmem.progress import Event
from fedmem.rundir import RunDir
from fedmem.simulation import run

ROOT = Path(__file__).parents[1]
# what differs between two equal runs: times, places, when it was made
DIFFER = {"manifest.json", "timings.jsonl", "summary.json", "report.html", "config.yaml", ".lock"}


def results(path: Path) -> dict[str, bytes]:
    """Every file of a run that its config and seed decide: name -> content."""
    files = (file for file in sorted(path.rglob("*")) if file.is_file())
    found = {file.relative_to(path).as_posix(): file.read_bytes() for file in files}
    return {name: data for name, data in found.items() if name not in DIFFER}


def plan(base: Path, output: Path, **sections: Any) -> Config:
    sections = {"rounds": {"count": 3}, **sections}
    return config(base, output=str(output), **sections)


class Stop(Exception):
    """Raised in the middle of a run."""


def stop_when(count: int, stage: str) -> Callable[[Event], None]:
    """A progress that raises as soon as a stage of a round is announced."""

    def progress(event: Event) -> None:
        if event.round == count and event.stage == stage:
            raise Stop

    return progress


@pytest.mark.parametrize(
    ("topology", "method", "per_round", "rule"),
    [
        ("federated", "lora", "all", "fedavg"),
        ("federated", "full", 1, "fedavg"),
        ("local", "lora", 1, "freeze_a"),
        ("centralized", "lora", "all", "product"),
    ],
)
def test_a_stopped_run_is_taken_up_to_the_same_bytes(
    base_folder: Path,
    tmp_path: Path,
    topology: str,
    method: str,
    per_round: int | str,
    rule: str,
) -> None:
    sections: dict[str, Any] = {
        "rounds": {"count": 3, "topology": topology, "clients_per_round": per_round},
        "model": {"method": method},
        "aggregation": {"rule": rule},
    }
    whole = run(plan(base_folder, tmp_path / "whole", **sections))
    broken = plan(base_folder, tmp_path / "broken", **sections)
    # in round 1, in round 2 while it is attacked, and in the middle of round 3
    for number, stage in ((1, "training"), (2, "attack"), (3, "training")):
        with pytest.raises(Stop):
            run(broken, stop_when(number, stage), resume=True)
    (folder,) = (tmp_path / "broken").iterdir()
    done = run(broken, resume=True)
    assert done.path == folder
    assert results(done.path) == results(whole.path)
    manifest = json.loads((done.path / "manifest.json").read_text())
    assert manifest["status"] == "finished" and len(manifest["resumed"]) == 3
    # and once it is finished, there is nothing left to do
    stamp = (done.path / "report.html").stat().st_mtime_ns
    assert run(broken, resume=True).path == folder
    assert (done.path / "report.html").stat().st_mtime_ns == stamp


def kill_at_random(base: Path, tmp_path: Path, times: int, seed: int) -> None:
    """Start, kill -9 at a random moment, go on; `times` times, then compare with a whole run."""
    made = plan(base, tmp_path / "runs", rounds={"count": 4})
    file = tmp_path / "run.yaml"
    file.write_text(dump_config(made), encoding="utf-8")
    command = [sys.executable, "-m", "fedmem", "run", str(file)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def start(*more: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*command, *more], env=env, stderr=subprocess.PIPE)

    began = time.monotonic()
    process = start(f"output={tmp_path / 'whole'}")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()
    whole = time.monotonic() - began
    (undisturbed,) = (tmp_path / "whole").iterdir()

    rng = random.Random(seed)
    killed = finished = 0
    while killed < times:
        process = start("--resume")
        try:
            process.wait(rng.uniform(0.4, 1.0) * whole)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            killed += 1
            process.communicate()
            continue
        _, errors = process.communicate()
        assert process.returncode == 0, errors.decode()
        finished += 1
        (folder,) = (tmp_path / "runs").iterdir()
        assert results(folder) == results(undisturbed)
        shutil.rmtree(folder)  # finished between two kills: begin another
    process = start("--resume")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()
    (folder,) = (tmp_path / "runs").iterdir()
    assert results(folder) == results(undisturbed)
    assert not list(folder.rglob("*.part"))


def test_a_killed_process_is_taken_up(base_folder: Path, tmp_path: Path) -> None:
    kill_at_random(base_folder, tmp_path, times=2, seed=1)


@pytest.mark.heavy
@pytest.mark.parametrize("seed", range(4))
def test_five_kills_a_seed(base_folder: Path, tmp_path: Path, seed: int) -> None:
    kill_at_random(base_folder, tmp_path, times=5, seed=10 + seed)


# --- what cannot be taken up, says why -------------------------------------------------------


@pytest.fixture
def stopped(base_folder: Path, tmp_path: Path) -> tuple[Config, Path]:
    """A run that stopped in round 2, and its directory."""
    made = plan(base_folder, tmp_path / "runs")
    with pytest.raises(Stop):
        run(made, stop_when(2, "training"))
    found = find(made)
    assert found is not None
    return made, found


@pytest.mark.parametrize(
    "file",
    ["state/round_001.safetensors", "state/round_001.json", "scores.parquet", "tokens.parquet"],
)
def test_a_torn_file_is_named(stopped: tuple[Config, Path], file: str) -> None:
    made, folder = stopped
    data = (folder / file).read_bytes()
    (folder / file).write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=rf"{file}.*start anew"):
        run(made, resume=True)
    (folder / file).unlink()
    with pytest.raises(DataError, match=f"{file}.*start anew"):
        run(made, resume=True)


def test_a_torn_line_is_named_and_a_half_last_line_is_no_round(
    stopped: tuple[Config, Path],
) -> None:
    made, folder = stopped
    file = folder / "metrics.jsonl"
    lines = file.read_bytes()
    file.write_bytes(lines + b'{"round": 2, "part')
    assert RunDir(folder, {}).undo_unfinished() == 1
    assert file.read_bytes() == lines
    file.write_bytes(b'{"rou\n' + lines)
    with pytest.raises(DataError, match=r"metrics\.jsonl:1: torn or changed"):
        run(made, resume=True)


def test_other_versions_or_data_are_refused(stopped: tuple[Config, Path]) -> None:
    made, folder = stopped
    manifest = json.loads((folder / "manifest.json").read_text())
    for change, message in (
        ({"format": 1}, "format 1, written by fedmem .*; this fedmem reads format 2"),
        ({"versions": {**manifest["versions"], "torch": "1.0"}}, r"begun with torch 1\.0, here is"),
        ({"threads": 7}, "begun with threads 7, here is 1"),
    ):
        (folder / "manifest.json").write_text(json.dumps(manifest | change))
        with pytest.raises(DataError, match=message):
            run(made, resume=True)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    stats = json.loads((folder / "data.json").read_text())
    stats["files"] = {"other.jsonl": "0" * 64}
    (folder / "data.json").write_text(json.dumps(stats))
    with pytest.raises(DataError, match=r"the data changed since the run began \(files\)"):
        run(made, resume=True)


def test_a_run_that_another_process_finished_meanwhile_is_left_alone(
    base_folder: Path, tmp_path: Path
) -> None:
    made = plan(base_folder, tmp_path, rounds={"count": 1})
    done = run(made).path
    before = (done / "manifest.json").read_bytes()
    with pytest.raises(DataError, match="another process has just finished this run"):
        RunDir.take_up(done, made)
    assert (done / "manifest.json").read_bytes() == before


def test_another_config_is_another_run(stopped: tuple[Config, Path]) -> None:
    made, folder = stopped
    other = made.model_copy(update={"seed": 5})
    assert find(made) == folder and find(other) is None
    assert run(other, resume=True).path != folder


def test_one_process_at_a_time(
    stopped: tuple[Config, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, folder = stopped
    monkeypatch.setattr("fedmem.rundir.LOCK_SECONDS", 0.3)
    held = RunDir.take_up(folder, made)
    with pytest.raises(DataError, match="another process works on this run"):
        run(made, resume=True)
    held.fail("let go")
    assert run(made, resume=True).path == folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of its own, with room for the first files of a run."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system can be mounted by root alone")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_told_in_one_line_and_the_run_goes_on_later(
    base_folder: Path, tmp_path: Path, small_disk: Path
) -> None:
    made = plan(base_folder, small_disk)
    with pytest.raises(RunError, match=r"no space left on the disk; free some, then go on") as told:
        run(made)
    assert str(small_disk) in str(told.value) and "\n" not in str(told.value)
    assert not list(small_disk.rglob("*.part"))
    subprocess.run(["mount", "-o", "remount,size=50m", str(small_disk)], check=True)
    done = run(made, resume=True)
    whole = run(plan(base_folder, tmp_path / "whole"))
    assert results(done.path) == results(whole.path)
