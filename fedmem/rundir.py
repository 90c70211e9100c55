"""A run's directory: `runs/<YYYYmmdd-HHMMSS>-<name>-<hash8>/`, and files in it that are never half.

Every file is written aside, flushed to disk and renamed into place. `manifest.json` says `running`
from the start and `finished` or `failed` at the very end; without `finished` nothing is trusted.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from fedmem.config import Config
from fedmem.errors import ConfigError, DataError, RunError
from fedmem.loading import config_hash8, dump_config
from fedmem.versions import environment

if TYPE_CHECKING:
    import pyarrow as pa

MANIFEST = "manifest.json"
METRICS = "metrics.jsonl"


class RunDir:
    """One run's directory. As a context manager it marks a run that raises as failed."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest

    @classmethod
    def create(cls, config: Config, kind: Literal["run", "arms"] = "run") -> RunDir:
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
        run.write_json(MANIFEST, run.manifest)
        run.write_text("config.yaml", dump_config(config))
        return run

    # --- whole files ---

    def write_bytes(self, name: str, data: bytes) -> Path:
        """Write `name` (may hold folders) whole or not at all; replaces an older one."""
        with self.aside(name) as part:
            part.write_bytes(data)
        return self.path / name

    def write_text(self, name: str, text: str) -> Path:
        """UTF-8 text with the line ends it has."""
        return self.write_bytes(name, text.encode())

    def write_json(self, name: str, value: object) -> Path:
        """Indented JSON; numbers that JSON does not know (NaN, infinities) become null."""
        return self.write_text(name, json.dumps(_plain(value), indent=2, allow_nan=False) + "\n")

    def write_table(self, name: str, table: pa.Table) -> Path:
        """An Arrow table as Parquet; the same table gives the same bytes."""
        import pyarrow.parquet as pq

        with self.aside(name) as part:
            pq.write_table(table, part, compression="zstd")
        return self.path / name

    @contextmanager
    def aside(self, name: str) -> Iterator[Path]:
        """A path to write a file to; renamed to `name` at the end, removed if the body raises."""
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        part = _part(target)
        try:
            yield part
            _sync(part)
            os.replace(part, target)
            _sync(target.parent)
        finally:
            part.unlink(missing_ok=True)

    @contextmanager
    def directory(self, name: str) -> Iterator[Path]:
        """A new folder to fill, such as `adapters/round_001`; appears as `name` only when whole.

        Raises RunError if `name` is already there.
        """
        target = self.path / name
        if target.exists():
            raise RunError(f"{target}: is already there and is not overwritten")
        target.parent.mkdir(parents=True, exist_ok=True)
        part = _part(target)
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        try:
            yield part
            for file in sorted(part.rglob("*")):
                _sync(file)
            _sync(part)
            os.rename(part, target)
            _sync(target.parent)
        finally:
            shutil.rmtree(part, ignore_errors=True)

    # --- lines ---

    def append_metrics(self, row: Mapping[str, object]) -> None:
        """Add a round's line to `metrics.jsonl`; on disk when this returns."""
        line = json.dumps(_plain(row), allow_nan=False) + "\n"
        with (self.path / METRICS).open("ab") as file:
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl` so far; a torn last line (a crash) is left out."""
        file = self.path / METRICS
        if not file.is_file():
            return []
        lines = file.read_bytes().split(b"\n")[:-1]
        return [json.loads(line) for line in lines]

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

    def kept(self) -> str:
        """What a run that stopped early leaves behind, in a few words."""
        if self.manifest["kind"] == "arms":
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
        except OSError:  # a full disk: the manifest stays at `running`, which is not whole either
            error.add_note("the manifest could not be written")


def open_finished(path: str | Path) -> RunDir:
    """A run directory whose manifest says `finished`. Raises DataError for anything else."""
    folder = Path(path)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such run directory")
    file = folder / MANIFEST
    if not file.is_file():
        raise DataError(f"{folder}: is not a run directory (it has no {MANIFEST})")
    try:
        manifest = json.loads(file.read_bytes())
        status = manifest["status"]
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{file}: is not a manifest that fedmem wrote") from None
    if status == "finished":
        return RunDir(folder, manifest)
    if status == "failed":
        raise DataError(f"{folder}: the run failed ({manifest.get('error')}); run it again")
    raise DataError(f"{folder}: the run is still going or was killed; it is not whole")


def finished_runs(path: str | Path) -> list[Path]:
    """The finished run itself, or, for the directory of a config with arms, its arms' runs.

    A directory of arms counts even if one of its arms failed: the whole ones are returned.
    Raises DataError if there is none.
    """
    folder = Path(path)
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        arms = manifest["arms"] if manifest["kind"] == "arms" else None
    except (OSError, ValueError, KeyError, TypeError):
        arms = None
    if arms is None:
        return [open_finished(folder).path]
    runs = [folder / name for name in arms.values() if name]
    if not runs:
        raise DataError(f"{folder}: none of its arms has finished")
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


def _part(target: Path) -> Path:
    """Where `target` is written first: hidden, in the same folder, so that a rename is enough."""
    return target.with_name(f".{target.name}.{os.getpid()}.part")


def _sync(path: Path) -> None:
    """Flush a file or folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _plain(value: object) -> object:
    """Only what JSON can hold: paths to text, NumPy numbers and arrays to Python's, NaN to null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(value, key=repr) if isinstance(value, set | frozenset) else value
        return [_plain(inner) for inner in items]
    if isinstance(value, Path):
        return value.as_posix()
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return value
