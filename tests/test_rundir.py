"""Run directories: nothing half-written, nothing overwritten, nothing unfinished trusted."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedmem.config import Config
from fedmem.errors import ConfigError, DataError, RunError
from fedmem.loading import load_config
from fedmem.rundir import RunDir, finished_runs, open_finished

ROOT = Path(__file__).resolve().parents[1]


def config(output: Path) -> Config:
    client = {"name": "a", "source": {"kind": "synthetic", "adapter": "mcq"}}
    return Config.model_validate({"name": "x", "output": output, "data": {"clients": [client]}})


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_run_from_start_to_end(tmp_path: Path) -> None:
    with RunDir.create(config(tmp_path)) as run:
        with pytest.raises(DataError, match="still going or was killed"):
            open_finished(run.path)
        run.append_metrics({"round": 1, "loss": np.float32(0.5)})
        run.append_metrics({"round": 2, "loss": math.nan})
        table = pa.table({"a": [1, 2]})
        run.write_table("scores.parquet", table)
        with run.directory("adapters/round_001") as folder:
            (folder / "weights.bin").write_bytes(b"w")
        run.finish(answer=42)
    opened = open_finished(run.path)
    assert opened.manifest["answer"] == 42
    assert opened.manifest["seed"] == 0
    assert opened.manifest["versions"]["torch"]
    assert opened.metrics() == [{"round": 1, "loss": 0.5}, {"round": 2, "loss": None}]
    assert pq.read_table(run.path / "scores.parquet").equals(table)
    assert load_config(run.path / "config.yaml") == config(tmp_path)
    assert names(run.path) == [
        ".lock",
        "adapters",
        "adapters/round_001",
        "adapters/round_001/weights.bin",
        "config.yaml",
        "manifest.json",
        "metrics.jsonl",
        "scores.parquet",
    ]


def test_two_runs_of_one_second_get_two_directories(tmp_path: Path) -> None:
    paths = [RunDir.create(config(tmp_path)).path for _ in range(4)]
    assert len(set(paths)) == 4


def test_raising_inside_a_writer_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    run = RunDir.create(config(tmp_path))
    run.write_text("report.html", "old")
    before = names(run.path)
    with pytest.raises(ValueError, match="stop"), run.aside("report.html") as part:
        part.write_text("half")
        raise ValueError("stop")
    with pytest.raises(ValueError, match="stop"), run.directory("adapters/round_001") as folder:
        (folder / "half.bin").write_bytes(b"h")
        raise ValueError("stop")
    assert (run.path / "report.html").read_text() == "old"
    assert names(run.path) == sorted([*before, "adapters"])


def test_a_folder_is_never_overwritten(tmp_path: Path) -> None:
    run = RunDir.create(config(tmp_path))
    with run.directory("adapters/round_001") as folder:
        (folder / "w").write_text("1")
    with pytest.raises(RunError, match="round_001"), run.directory("adapters/round_001"):
        pass


def test_a_run_that_raises_is_marked_failed_and_says_what_is_kept(tmp_path: Path) -> None:
    with pytest.raises(RunError) as caught, RunDir.create(config(tmp_path)) as run:
        run.append_metrics({"round": 1})
        raise RunError("client a, round 2: the loss is NaN")
    assert "rounds up to 1 are kept" in caught.value.__notes__[0]
    assert str(run.path) in caught.value.__notes__[0]
    with pytest.raises(DataError, match=r"client a, round 2"):
        open_finished(run.path)


def test_interrupted_and_forgotten_runs_are_not_whole(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), RunDir.create(config(tmp_path)) as run:
        raise KeyboardInterrupt
    with pytest.raises(DataError, match="interrupted"):
        open_finished(run.path)
    with RunDir.create(config(tmp_path)) as run:
        pass
    with pytest.raises(DataError, match="failed"):
        open_finished(run.path)


def test_a_torn_last_line_of_metrics_is_left_out(tmp_path: Path) -> None:
    run = RunDir.create(config(tmp_path))
    run.append_metrics({"round": 1})
    with (run.path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"round": 2, "lo')
    assert run.metrics() == [{"round": 1}]
    assert run.last_round() == 1


@pytest.mark.parametrize("content", ["", "{", "[]", '{"state": 1}', "\udcff"])
def test_a_broken_manifest_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match="manifest"):
        open_finished(tmp_path)


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such run directory"):
        open_finished(tmp_path / "none")
    with pytest.raises(DataError, match="not a run directory"):
        open_finished(tmp_path)


def test_output_that_cannot_be_written_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="output: cannot write"):
        RunDir.create(config(tmp_path / "file"))


def test_the_directory_of_arms_gives_its_whole_runs(tmp_path: Path) -> None:
    with RunDir.create(config(tmp_path), kind="arms") as parent:
        with RunDir.create(config(parent.path)) as arm:
            arm.finish()
        parent.fail("arm b: out of memory", runs={"a": arm.path.name, "b": None})
    assert finished_runs(parent.path) == [arm.path]
    assert finished_runs(arm.path) == [arm.path]
    (parent.path / "manifest.json").write_text(json.dumps({"kind": "arms", "runs": {"b": None}}))
    with pytest.raises(DataError, match="none of its runs"):
        finished_runs(parent.path)


WRITER = """
import sys
from pathlib import Path
from fedmem.config import Config
from fedmem.rundir import RunDir
source = {"kind": "synthetic", "adapter": "mcq"}
config = Config.model_validate(
    {"output": sys.argv[1], "data": {"clients": [{"name": "a", "source": source}]}}
)
with RunDir.create(config) as run:
    run.append_metrics({"round": 1})
    with run.aside("scores.parquet") as part, run.directory("adapters/round_001") as folder:
        with part.open("wb") as file, (folder / "w").open("wb") as weights:
            file.write(b"x" * 100_000)
            file.flush()
            weights.write(b"x")
            weights.flush()
            print("writing", flush=True)
            while True:
                file.write(b"x" * 1000)
    run.finish()
"""


def test_a_killed_process_leaves_no_half_file_under_its_name(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"writing\n"
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    (run,) = tmp_path.iterdir()
    assert not (run / "scores.parquet").exists()
    assert not (run / "adapters" / "round_001").exists()
    assert RunDir(run, {}).last_round() == 1
    with pytest.raises(DataError, match="killed"):
        open_finished(run)
