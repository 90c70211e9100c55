"""A run's directory: `runs/<YYYYmmdd-HHMMSS>-<name>-<hash8>/`.

`manifest.json` says `running`
from the start and `finished` or `failed` at the very end; without `finished` nothing is trusted.
One process at a time works on a run: it holds a lock on the file `.lock`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import IO, Any, Self

from fedmem.config import Config
from fedmem.errors import ConfigError, DataError, RunError
from fedmem.folder import Folder
from fedmem.loading import config_hash8, dump_config
from fedmem.manifest import FORMAT, MANIFEST, Kind, read_manifest
from fedmem.versions import environment

METRICS = "metrics.jsonl"
TIMINGS = "timings.jsonl"
LOCK = ".lock"
LOCK_SECONDS = 20.0  # an arm whose starter was killed takes a moment to stop
# what must be the same for the same bytes
SAME = ("fedmem", "python", "threads", "versions")


class RunDir(Folder):
    """One run's directory. As a context manager it marks a run that raises as failed."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        super().__init__(path)
        self.manifest = manifest
        self._lock: IO[bytes] | None = None

    @classmethod
    def create(cls, config: Config, kind: Kind = "run") -> RunDir:
        """Make a new directory under `config.output` with `config.yaml` and a first manifest.

        Raises ConfigError if nothing can be written there.
        """
        began = datetime.now(UTC)
        hash8 = config_hash8(config)
        stem = f"{began.astimezone():%Y%m%d-%H%M%S}-{config.name}-{hash8}"
        path = _new_directory(config.output, stem)
        run = cls(
            path,
            {
                "status": "running",
                "kind": kind,
                "format": FORMAT,
                "name": config.name,
                "config_hash8": hash8,
                "seed": config.seed,
                "started": began.isoformat(timespec="seconds"),
                "finished": None,
                "seconds": None,
                "error": None,
                **environment(config.engine.threads),
            },
        )
        run._take_lock()
        run.write_json(MANIFEST, run.manifest)
        run.write_text("config.yaml", dump_config(config))
        return run

    @classmethod
    def take_up(cls, path: Path, config: Config) -> RunDir:
        """A run that was stopped, to go on with it.

        Raises DataError if another process works on it, or if it was begun by other versions: the
        result would not be that of an undisturbed run.
        """
        run = cls(path, read_manifest(path))
        run._take_lock()
        run.manifest = read_manifest(path)  # as the process before left it
        if run.manifest["status"] == "finished":
            raise DataError(f"{path}: another process has just finished this run")
        now = {**json.loads(json.dumps(environment(config.engine.threads)))}
        for key in SAME:
            if run.manifest.get(key) != now[key]:
                raise DataError(
                    f"{path}: was begun with {_difference(key, run.manifest.get(key), now[key])}; "
                    "go on with the same, or start anew without --resume"
                )
        resumed = [
            *run.manifest.get("resumed", []),
            datetime.now(UTC).isoformat(timespec="seconds"),
        ]
        run.manifest.update(status="running", error=None, resumed=resumed)
        run.write_json(MANIFEST, run.manifest)
        run.write_text("config.yaml", dump_config(config))
        return run

    def _take_lock(self) -> None:
        """Hold the run's lock until the process ends or the run is closed. DataError if held."""
        try:
            import fcntl
        except ImportError:  # not on Windows
            return
        lock = (self.path / LOCK).open("ab")
        until = monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if monotonic() > until:
                    lock.close()
                    raise DataError(f"{self.path}: another process works on this run") from None
                sleep(0.2)
        self._lock = lock

    # --- rounds ---

    def append_metrics(self, row: Mapping[str, object]) -> None:
        """Add a round's line to `metrics.jsonl`; on disk when this returns."""
        self.append_line(METRICS, row)

    def append_timings(self, row: Mapping[str, object]) -> None:
        """Add a round's line to `timings.jsonl`; on disk when this returns."""
        self.append_line(TIMINGS, row)

    def undo_unfinished(self) -> int | None:
        """Take back what lies behind the last finished round; returns it, None if there is none."""
        rows = self.metrics()
        done = rows[-1]["round"] if rows else None
        last = -1 if done is None else done
        for file in (METRICS, TIMINGS):
            kept = [row for row in self.lines(file) if row["round"] <= last]
            if (self.path / file).exists():
                self.write_text(file, "".join(json.dumps(row) + "\n" for row in kept))
        for folder in ("adapters", "state"):
            for found in (self.path / folder).glob("round_*"):
                if int(found.name[6:].partition(".")[0]) > last:
                    shutil.rmtree(found) if found.is_dir() else found.unlink()
        for part in self.path.rglob(".*.part"):
            shutil.rmtree(part) if part.is_dir() else part.unlink()
        return done

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl` so far; a torn last line (a crash) is left out."""
        return self.lines(METRICS)

    # --- the end ---

    def finish(self, **more: object) -> None:
        """Mark the run as whole. Call it last; `more` goes into the manifest."""
        self._close("finished", None, more)

    def fail(self, error: str, **more: object) -> None:
        """Mark the run as failed, with a line that says why."""
        self._close("failed", error, more)

    def _close(self, status: str, error: str | None, more: Mapping[str, object]) -> None:
        now = datetime.now(UTC)
        began = datetime.fromisoformat(self.manifest["started"])
        self.manifest.update(more)
        self.manifest.update(
            status=status,
            error=error,
            finished=now.isoformat(timespec="seconds"),
            seconds=round((now - began).total_seconds(), 1),
        )
        self.write_json(MANIFEST, self.manifest)
        if self._lock is not None:
            self._lock.close()  # which lets go of the lock
            self._lock = None

    def kept(self) -> str:
        """What a run that stopped early leaves behind, in a few words."""
        if self.manifest["kind"] != "run":
            runs = [RunDir(file.parent, {}) for file in sorted(self.path.glob(f"*/{METRICS}"))]
            rounds = max((run.last_round() for run in runs), default=0)
        else:
            rounds = self.last_round()
        saved = f"rounds up to {rounds} are kept" if rounds else "no round was finished"
        return f"{saved}, see {self.path}"

    def last_round(self) -> int:
        """The last round that was finished; 0 if none was."""
        return max((row["round"] for row in self.metrics() if row.get("round")), default=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            if self.manifest["status"] == "running":
                self.fail("the run ended without calling finish")
            return
        if isinstance(error, KeyboardInterrupt):
            text = "interrupted"
        else:
            text = str(error) or type(error).__name__
        error.add_note(self.kept())  # the command line prints notes; so does a traceback
        try:
            self.fail(text)
        except (OSError, RunError):  # a full disk: it stays at `running`, which is not whole either
            error.add_note("the manifest could not be written")


def open_finished(path: str | Path) -> RunDir:
    """A run directory whose manifest says `finished`. Raises DataError for anything else."""
    folder = Path(path)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such run directory")
    manifest = read_manifest(folder)
    if manifest["status"] == "finished":
        return RunDir(folder, manifest)
    if manifest["status"] == "failed":
        raise DataError(
            f"{folder}: the run failed ({manifest.get('error')}); take it up with "
            "`fedmem run CONFIG --resume`"
        )
    raise DataError(
        f"{folder}: the run is still going or was killed; take a killed one up with "
        "`fedmem run CONFIG --resume`"
    )


def _difference(key: str, then: Any, now: Any) -> str:
    if isinstance(then, dict) and isinstance(now, dict):
        name = next(name for name in {**then, **now} if then.get(name) != now.get(name))
        return f"{name} {then.get(name)}, here is {now.get(name)}"
    return f"{key} {then}, here is {now}"


def finished_runs(path: str | Path) -> list[Path]:
    """The finished run itself, or, for the directory of arms or of a sweep, the runs in it.

    Such a directory counts even if one of its runs failed: the whole ones are returned.
    Raises DataError if there is none.
    """
    folder = Path(path)
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        named = manifest["runs"] if manifest["kind"] != "run" else None
    except (OSError, ValueError, KeyError, TypeError):
        named = None
    if named is None:
        return [open_finished(folder).path]
    runs = [folder / name for name in named.values() if name]
    if not runs:
        raise DataError(f"{folder}: none of its runs has finished")
    return [open_finished(run).path for run in runs]


def _new_directory(parent: Path, stem: str) -> Path:
    """A directory that was not there before; a run begun in the same second gets `-2`."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for number in range(1, 1000):
            path = parent / (stem if number == 1 else f"{stem}-{number}")
            try:
                path.mkdir()
            except FileExistsError:
                continue
            return path
    except OSError as error:
        raise ConfigError(f"output: cannot write under {parent}: {error.strerror}") from None
    raise ConfigError(f"output: {parent / stem} and 999 more are there already")
