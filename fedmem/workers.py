"""Runs as processes side by side: start, follow their progress, stop them, say how they ended.

A worker writes progress as JSON lines on standard output (`progress.json_lines`), its error on
standard error, and stops when its standard input ends: so it also stops if its starter is killed.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from fedmem.progress import DONE, FAILED, Event, Progress, parse_line

ERROR = "fedmem: error: "  # how the command line begins its one line
WAITING, STARTING = "waiting for a free core", "starting"  # stages of a worker
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
STOP_SECONDS = 15.0  # time for a worker to mark its run as failed before it is killed
Inbox = queue.Queue[tuple["Worker", Event | None]]  # None: this worker has ended


class Worker:
    """One process. `run` is the run directory that it named, None until then."""

    def __init__(
        self, name: str, command: Sequence[str], env: Mapping[str, str], log: Path
    ) -> None:
        self.name = name
        self.run: Path | None = None
        self._command = list(command)
        self._env = dict(env)
        self._log = log
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    def start(self, inbox: Inbox) -> None:
        """Start the process, away from the terminal's Ctrl-C; its events go to `inbox`."""
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,  # held open until it shall stop
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                encoding="utf-8",
                errors="replace",
                env=self._env,
                start_new_session=True,
            )
        self._reader = threading.Thread(target=self._read, args=(self._process, inbox), daemon=True)
        self._reader.start()

    def _read(self, process: subprocess.Popen[str], inbox: Inbox) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if event := parse_line(line):
                inbox.put((self, event))
        process.wait()
        inbox.put((self, None))

    def ask_to_stop(self) -> None:
        """End its standard input: it then acts as on Ctrl-C."""
        if self._process is not None and self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()

    def end(self) -> None:
        """Wait for the process; kill it if it does not end in time."""
        if self._process is None or self._reader is None:
            return
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.ask_to_stop()
        self._reader.join(STOP_SECONDS)
        if self._process.stdout is not None and not self._reader.is_alive():
            self._process.stdout.close()

    @property
    def code(self) -> int | None:
        """Its exit code, negative for a signal; None if it is at work or was never started."""
        return None if self._process is None else self._process.poll()

    def error(self) -> str:
        """Its one-line error, or how it ended if it could not say."""
        lines = self._log.read_text(errors="replace").strip().splitlines()
        for line in reversed(lines):
            if line.startswith(ERROR):
                return line.removeprefix(ERROR)
        if self.code is not None and self.code < 0:
            return f"killed by {signal.Signals(-self.code).name} (out of memory?); see {self._log}"
        last = f": {lines[-1]}" if lines else ""
        return f"ended with exit code {self.code}{last}; see {self._log}"


def work(workers: Sequence[Worker], slots: int, progress: Progress) -> None:
    """Keep `slots` workers going until all have ended, whatever the way.

    If this is interrupted or `progress` raises, all are stopped before that goes on.
    """
    inbox: Inbox = queue.Queue()
    waiting = list(workers)
    working: list[Worker] = []
    try:
        for worker in waiting[slots:]:
            progress(Event(worker.name, WAITING))
        while waiting or working:
            while waiting and len(working) < slots:
                worker = waiting.pop(0)
                progress(Event(worker.name, STARTING))
                working.append(worker)
                worker.start(inbox)
            worker, event = inbox.get()
            if event is not None:
                if event.path is not None:
                    worker.run = Path(event.path)
                if event.stage != DONE:
                    progress(replace(event, run=worker.name))
                continue
            worker.end()
            working.remove(worker)
            well = worker.code == 0
            progress(Event(worker.name, DONE if well else f"{FAILED}: {worker.error()}"))
    finally:
        for worker in working:
            worker.ask_to_stop()
        for worker in working:
            worker.end()


def environment(threads: int) -> dict[str, str]:
    """The environment of a run: its number of threads, and this very copy of fedmem."""
    package = str(Path(__file__).parent.parent)
    path = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    counts = dict.fromkeys(THREAD_VARIABLES, str(threads))
    return {**os.environ, **counts, "PYTHONPATH": os.pathsep.join(path), "PYTHONUTF8": "1"}


def stop_with_starter() -> None:
    """Call first in a worker: from now on the end of standard input acts as Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # may have been inherited as ignored

    def watch() -> None:
        # not `sys.stdin`: a thread that holds its lock aborts Python when it shuts down
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=watch, daemon=True).start()
