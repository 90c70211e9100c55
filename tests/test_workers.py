"""Processes side by side: progress, slots, failures, and that none is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fedmem.progress import Event
from fedmem.workers import Worker, work

ROOT = Path(__file__).resolve().parents[1]
ENV = {**os.environ, "PYTHONPATH": str(ROOT)}
BEGIN = "import os, sys, time\nfrom fedmem.progress import Event, json_lines\n"

Make = Callable[[str, str], Worker]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def worker(name: str, script: str) -> Worker:
        command = [sys.executable, "-c", BEGIN + script]
        return Worker(name, command, ENV, tmp_path / f"{name}.log")

    return worker


def run(workers: list[Worker], slots: int = 2) -> list[Event]:
    events: list[Event] = []
    work(workers, slots, events.append)
    return events


def test_progress_comes_through_between_lines_of_libraries(make: Make) -> None:
    script = "print('a library talks')\njson_lines(Event('x', 'training', 1, 3, 0.5, 'runs/x'))"
    worker = make("a", script)
    events = run([worker])
    assert events == [
        Event("a", "starting"),
        Event("a", "training", 1, 3, 0.5, "runs/x"),
        Event("a", "done"),
    ]
    assert worker.run == Path("runs/x")
    assert worker.code == 0


def test_no_more_at_once_than_slots(make: Make) -> None:
    events = run([make("a", "time.sleep(0.1)"), make("b", "")], slots=1)
    stages = [(event.run, event.stage) for event in events]
    assert stages == [
        ("b", "waiting for a free core"),
        ("a", "starting"),
        ("a", "done"),
        ("b", "starting"),
        ("b", "done"),
    ]


@pytest.mark.parametrize(
    ("script", "code", "error"),
    [
        ("sys.exit('fedmem: error: client a, round 2: NaN')", 1, "client a, round 2: NaN"),
        ("print('trouble', file=sys.stderr); os._exit(5)", 5, "exit code 5: trouble; see"),
        ("os.kill(os.getpid(), 9)", -9, "killed by SIGKILL (out of memory?); see"),
    ],
)
def test_one_fails_and_the_others_finish(make: Make, script: str, code: int, error: str) -> None:
    bad, good = make("bad", script), make("good", "time.sleep(0.3)")
    events = run([bad, good])
    assert bad.code == code
    assert error in bad.error()
    assert good.code == 0
    assert any(event.run == "bad" and error in event.stage for event in events)


STOPPABLE = """
from fedmem.workers import stop_with_starter
stop_with_starter()
try:
    json_lines(Event('x', 'training', path='p'))
    time.sleep(60)
except KeyboardInterrupt:
    sys.exit('fedmem: error: interrupted')
"""


def test_all_are_stopped_when_the_starter_is_interrupted(make: Make) -> None:
    workers = [make("a", STOPPABLE), make("b", STOPPABLE)]

    def interrupted(event: Event) -> None:
        if event.stage == "training" and event.run == "b":
            raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        work(workers, 2, interrupted)
    assert time.monotonic() - began < 15
    assert workers[1].code == 1
    assert workers[1].error() == "interrupted"
    assert workers[0].code is not None


STARTER = """
import os, sys
from pathlib import Path
from fedmem.workers import Worker, work
command = [sys.executable, "-c", sys.argv[2]]
worker = Worker("a", command, os.environ, Path(sys.argv[1]) / "log")
work([worker], 1, lambda event: print(event.stage, event.path, flush=True))
"""
SAYS_ITS_ID = STOPPABLE.replace("path='p'", "path=str(os.getpid())")


def test_a_worker_stops_when_its_starter_is_killed(tmp_path: Path) -> None:
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(tmp_path), BEGIN + SAYS_ITS_ID],
        stdout=subprocess.PIPE,
        env=ENV,
        text=True,
    )
    assert starter.stdout is not None
    assert starter.stdout.readline() == "starting None\n"
    worker = int(starter.stdout.readline().split()[1])
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    starter.stdout.close()
    for _ in range(200):
        if not alive(worker):
            return
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker went on without its starter")


def alive(process: int) -> bool:
    """Whether it runs; a process that nobody has waited for (a zombie) has ended."""
    try:
        os.kill(process, 0)
        stat = Path(f"/proc/{process}/stat")
        return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
