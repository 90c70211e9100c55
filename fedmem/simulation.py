"""A run, from top to bottom: data, model, rounds (train, aggregate, attack, evaluate), report."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import pyarrow as pa

from fedmem import workspace as workspaces
from fedmem.attacks import audit as auditing
from fedmem.attacks import rows as score_rows
from fedmem.config import Config
from fedmem.data.preview import plan_table
from fedmem.metrics.summary import summarise
from fedmem.model import state
from fedmem.progress import Event, Progress, silent
from fedmem.report import write_report
from fedmem.rundir import RunDir
from fedmem.workspace import Workspace


@dataclass(frozen=True)
class Run:
    """A finished run on disk, and its report."""

    path: Path
    report: Path


def run(config: Config, progress: Progress = silent) -> Run:
    """Simulate the run that `config` describes; returns its directory and report.

    Raises ConfigError or DataError before anything is trained, RunError afterwards; what was
    saved by then stays, and the manifest says that the run failed.
    """
    from fedmem.engine.inline import run_inline

    progress(Event(config.name, "loading"))
    workspace = Workspace(config)  # wrong data or models end here, with nothing written
    workspaces.keep(workspace)
    with RunDir.create(config) as directory:
        progress(Event(config.name, "loaded", path=str(directory.path)))
        directory.write_table("canaries.parquet", plan_table(workspace.data, config.privacy.redact))
        directory.write_json("data.json", workspace.data.stats)

        recorder = Recorder(config, workspace, directory, progress)
        run_inline(config, recorder.on_round)

        directory.write_json("summary.json", summarise(directory.path))
        report = write_report([directory.path], directory.path / "report.html")
        directory.finish(data=workspace.data.stats["files"], peak_memory_mb=peak_memory_mb())
    return Run(directory.path, report)


class Recorder:
    """What happens after each round: audit, utility, and everything written down."""

    def __init__(
        self, config: Config, workspace: Workspace, directory: RunDir, progress: Progress
    ) -> None:
        self.config, self.workspace = config, workspace
        self.directory, self.progress = directory, progress
        self.scores: list[pa.Table] = []
        self.utility: list[dict[str, Any]] = []
        self.started = perf_counter()

    def start_round(self, round_: int) -> None:
        """Say what comes next."""
        count = self.config.rounds.count
        self.progress(Event(self.config.name, "training", round_, count))

    def on_round(
        self,
        round_: int,
        arrays: dict[str, state.Arrays],
        participants: list[str],
        train_metrics: dict[str, dict[str, float]],
        score_bytes: list[bytes],
        seconds: dict[str, float],
    ) -> None:
        """A round has been aggregated (0: the untouched base). State is on disk when it returns."""
        count = self.config.rounds.count
        last = round_ == count
        ties = 0
        if round_ % self.config.attack.every == 0 or last:
            self.progress(Event(self.config.name, "attack", round_, count))
            started = perf_counter()
            rows = []
            for name, model in sorted(arrays.items()):
                rows += self.workspace.audit(round_, model, name)
            ties = auditing.ties(rows)
            tables = [score_rows.from_bytes(data) for data in score_bytes]
            self.scores += [score_rows.table(rows), *tables]
            seconds["attack"] += perf_counter() - started
        started = perf_counter()
        if round_ % self.config.utility.every == 0 or last:
            for name, model in sorted(arrays.items()):
                self.utility += self.workspace.evaluate(round_, model, name)
        seconds["utility"] = perf_counter() - started

        started = perf_counter()
        if round_ > 0:
            self.save_models(round_, arrays)
        if self.scores:
            self.directory.write_table("scores.parquet", pa.concat_tables(self.scores))
        self.directory.write_json("utility.json", self.utility)
        seconds["saving"] = perf_counter() - started
        total = perf_counter() - self.started
        self.started = perf_counter()
        self.directory.append_metrics(
            {
                "round": round_,
                "participants": participants,
                "train": train_metrics,
                **{f"{stage}_seconds": value for stage, value in seconds.items()},
                "seconds": total,
                "ties": ties,
            }
        )
        stage = "" if round_ else "untouched base scored"
        self.progress(Event(self.config.name, stage, round_, count, seconds=total))
        if not last:
            self.start_round(round_ + 1)

    def save_models(self, round_: int, arrays: dict[str, state.Arrays]) -> None:
        """One folder a round; under `local` one below it for each client."""
        with self.directory.directory(f"adapters/round_{round_:03d}") as folder:
            for name, model in sorted(arrays.items()):
                target = folder if name == "global" else folder / name
                state.save(self.workspace.load(model), target)


def peak_memory_mb() -> float | None:
    """The process's highest resident memory so far, in MB; None where the system does not say."""
    if os.name != "posix":
        return None
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1024 if sys.platform != "darwin" else 1024**2), 1)
