"""A config with `sweep`: one run a point of its grid, side by side, and an index of them all."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fedmem import tracking
from fedmem.config import Config
from fedmem.errors import ConfigError
from fedmem.grid import points
from fedmem.group import Group, at_once
from fedmem.index import INDEX, Index
from fedmem.manifest import find, is_finished, read_manifest
from fedmem.progress import DONE, FAILED, Event, Progress, has_ended, silent
from fedmem.report.view import seconds
from fedmem.rundir import RunDir
from fedmem.workers import STARTING, WAITING


@dataclass(frozen=True)
class SweepRun:
    """What a sweep leaves behind; `runs` maps a point's name to its run directory.

    `report`: the joint one, of the arms alone where there are too many runs; None without runs.
    """

    path: Path
    index: Path
    report: Path | None
    runs: dict[str, Path]


def run_sweep(
    config: Config, progress: Progress = silent, resume: bool = False, jobs: int | None = None
) -> SweepRun:
    """Run every point of the grid, `jobs` at once (None: what the cores hold, one on a GPU).

    `resume` goes on with the newest sweep of this very config: points that finished are left as
    they are, those that were stopped are taken up. Raises ConfigError for a grid that cannot be;
    RunError naming the points that failed, after the others have finished.
    """
    if not config.sweep:
        raise ConfigError("sweep: has no keys to vary; start a single run with `fedmem run CONFIG`")
    grid = points(config)
    configs = {name: point.config for name, point in grid.items()}
    tracking.check(*configs.values())
    earlier = find(config, "sweep") if resume else None
    if earlier and is_finished(earlier):
        runs = {name: earlier / run for name, run in read_manifest(earlier)["runs"].items()}
        page = earlier / "report.html"
        return SweepRun(earlier, earlier / INDEX, page if page.is_file() else None, runs)
    taken_up = RunDir.take_up(earlier, config) if earlier else RunDir.create(config, kind="sweep")
    with taken_up as parent:
        group = Group(parent, configs)
        index = Index(parent, grid, group)
        slots = min(len(grid), jobs or at_once(configs))
        overall = Overall(config.name, len(grid), len(group.runs), slots, progress)
        index.write()
        group.run(slots, overall, index.update)
        page = parent.path / "report.html"
        if group.runs:
            from fedmem.report import write_report

            write_report(group.ordered(), page)
        if failure := group.failure("point"):
            raise failure
        parent.finish()
        progress(Event(config.name, DONE, path=str(parent.path)))
        done = {name: group.runs[name] for name in grid}
        return SweepRun(parent.path, index.path, page if page.is_file() else None, done)


class Overall:
    """Passes on what points tell, and after each that ends how many are done and what remains."""

    def __init__(self, name: str, total: int, done: int, slots: int, progress: Progress) -> None:
        self.name, self.total, self.slots, self.progress = name, total, slots, progress
        self.done, self.failed = done, 0
        self._began: dict[str, float] = {}
        self._took: list[float] = []
        self._say()

    def __call__(self, event: Event) -> None:
        if event.stage == WAITING:
            return  # there may be thousands
        self.progress(event)
        if event.stage == STARTING:
            self._began[event.run] = time.monotonic()
        if has_ended(event):
            well = not event.stage.startswith(FAILED)
            self.done += well
            self.failed += not well
            if well:
                self._took.append(time.monotonic() - self._began[event.run])
            self._say()

    def _say(self) -> None:
        failed = f", {self.failed} failed" if self.failed else ""
        text = f"{self.done} of {self.total} points done{failed}"
        left = self.total - self.done - self.failed
        if left and self._took:
            text += f", about {seconds(remaining(self._took, left, self.slots))} left"
        self.progress(Event(self.name, text))


def remaining(took: Iterable[float], left: int, slots: int) -> float:
    """Seconds until `left` more points are done, if they take as long as those before did."""
    durations = list(took)
    return sum(durations) / len(durations) * left / slots
