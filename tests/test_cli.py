"""The command line: help, exit codes, one clear line for each error, never a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import listen_to_ctrl_c, rounds_done
from typer.testing import CliRunner

from fedmem.cli import app, error_line
from fedmem.errors import RunError

ROOT = Path(__file__).resolve().parents[1]
ENV = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
ENV.pop("FEDMEM_DEBUG", None)

SMALL = """\
name: small
seed: 1
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
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    file = tmp_path / "small.yaml"
    file.write_text(SMALL + f"output: {tmp_path / 'runs'}\n")
    return file


def command(*arguments: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    """The real command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "fedmem", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**ENV, **env},
        timeout=300,
    )


def refused(done: subprocess.CompletedProcess[str], code: int = 2) -> str:
    """The one line of a command that was refused."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("fedmem: error: ")
    return lines[0]


@pytest.mark.parametrize("name", ["run", "report", "data preview", "doctor", "base"])
def test_each_command_has_a_help_with_an_example(name: str) -> None:
    result = CliRunner().invoke(app, [*name.split(), "--help"])
    assert result.exit_code == 0
    assert f"Example:  fedmem {name} " in result.output


def test_help_does_not_load_the_heavy_libraries() -> None:
    script = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from fedmem.cli import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "heavy = {'torch', 'transformers', 'flwr', 'pyarrow', 'numpy', 'peft'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], env=ENV, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["runn", "x"], "No such command 'runn'"),
        (["run"], "Missing argument"),
        (["report"], "Missing argument"),
        (["base", "--seed", "x"], "--seed"),
        (["run", "--nope"], "No such option"),
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: list[str], expected: str) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert expected in result.output


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("training.lrr=1", "did you mean `lr`?"),
        ("training.lr=fast", "must be a valid number, not 'fast'"),
        ("training.lr=-1", "must be greater than 0"),
        ("nonsense", "key=value"),
    ],
)
def test_bad_overrides_are_one_line_and_exit_code_2(
    small: Path, change: str, expected: str
) -> None:
    result = CliRunner().invoke(app, ["run", str(small), change])
    assert result.exit_code == 2
    assert result.output.startswith("fedmem: error: ")
    assert result.output.count("\n") == 1
    assert expected in result.output


def test_a_misspelt_key_from_a_real_shell(small: Path) -> None:
    assert "did you mean `training`?" in refused(command("run", small, "trainin.lr=1"))


def test_a_missing_config_is_named(tmp_path: Path) -> None:
    assert "no such config file" in refused(command("run", tmp_path / "none.yaml"))


def test_reports_of_what_is_no_run_are_refused(tmp_path: Path) -> None:
    assert "no such run directory" in refused(command("report", tmp_path / "none"))
    assert "not a run directory" in refused(command("report", tmp_path))


def test_an_existing_folder_is_not_written_over(tmp_path: Path) -> None:
    assert "already there" in refused(command("base", "--out", tmp_path))
    assert "--seed -1" in refused(command("base", "--seed", "-1"))


def test_a_missing_data_file_ends_doctor_with_its_name(small: Path) -> None:
    source = "data.clients.0.source={kind: jsonl, path: none.jsonl, adapter: medmcqa}"
    done = command("doctor", small, source)
    assert done.returncode == 2
    assert "none.jsonl: MISSING" in done.stdout
    assert "missing: none.jsonl" in refused(done)


def test_doctor_tells_versions_and_counts_what_is_trained(small: Path) -> None:
    done = command("doctor", small)
    assert done.returncode == 0, done.stderr
    for word in ("fedmem", "torch", "cores", "memory", "disk", "small: 2 clients", "(lora)"):
        assert word in done.stdout


def test_preview_shows_each_client(small: Path) -> None:
    done = command("data", "preview", small)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith("client")
    assert [line.split()[0] for line in done.stdout.splitlines()[1:3]] == ["a", "b"]
    assert "canaries: " in done.stdout


def test_a_run_writes_one_directory_and_says_where(small: Path, tmp_path: Path) -> None:
    done = command("run", small)
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs").iterdir()
    assert f"run:    {run}" in done.stdout
    assert (run / "report.html").is_file()
    again = command("report", run, "--out", tmp_path / "again.html")
    assert again.returncode == 0, again.stderr
    twice = command("report", run, f"{run}/", run, "--out", tmp_path / "twice.html")
    assert twice.returncode == 0, twice.stderr
    assert (tmp_path / "twice.html").read_bytes() == (tmp_path / "again.html").read_bytes()


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_interrupted_says_what_is_kept(
    small: Path, tmp_path: Path, sign: signal.Signals
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "fedmem", "run", str(small), "rounds.count=2000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=listen_to_ctrl_c,
        env=ENV,
    )
    for _ in range(600):
        if process.poll() is not None or rounds_done(tmp_path.glob("runs/*/metrics.jsonl")) >= 2:
            break
        time.sleep(0.1)
    process.send_signal(sign)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors
    assert "Traceback" not in errors
    last = errors.strip().splitlines()[-1]
    assert last.startswith("fedmem: error: interrupted; rounds up to ")
    (run,) = (tmp_path / "runs").iterdir()
    assert str(run) in last
    assert "failed (interrupted)" in refused(command("report", run))


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = command("run", tmp_path / "none.yaml", FEDMEM_DEBUG="1")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_unexpected_errors_are_one_line_with_their_notes() -> None:
    error = ValueError("two\nlines")
    error.add_note("rounds up to 3 are kept")
    assert error_line(error) == (
        "ValueError: two lines (set FEDMEM_DEBUG=1 for the traceback); rounds up to 3 are kept"
    )
    assert error_line(RunError("client a, round 2: NaN")) == "client a, round 2: NaN"
