"""A config with arms: one run an arm, side by side, and one report over those that finished."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedmem import tracking
from fedmem.config import Config
from fedmem.group import Group, at_once
from fedmem.loading import arm_configs
from fedmem.manifest import find, is_finished, read_manifest
from fedmem.progress import DONE, Event, Progress, silent
from fedmem.rundir import RunDir


@dataclass(frozen=True)
class ArmsRun:
    """What a config with arms leaves behind; `runs` maps an arm to its run directory."""

    path: Path
    report: Path
    runs: dict[str, Path]


def run_arms(config: Config, progress: Progress = silent, resume: bool = False) -> ArmsRun:
    """Run all arms and write the joint report; `resume` goes on with those that were stopped.

    Raises RunError naming each arm that failed, after the others have finished and the report over
    them is written; ConfigError if every arm refused its config or data.
    """
    configs = arm_configs(config)
    tracking.check(*configs.values())
    earlier = find(config, "arms") if resume else None
    if earlier and is_finished(earlier):
        runs = {name: earlier / run for name, run in read_manifest(earlier)["runs"].items()}
        return ArmsRun(earlier, earlier / "report.html", runs)
    taken_up = RunDir.take_up(earlier, config) if earlier else RunDir.create(config, kind="arms")
    with taken_up as parent:
        arms = Group(parent, configs)
        arms.run(at_once(configs), progress)
        page = parent.path / "report.html"
        if arms.runs:
            from fedmem.report import write_report

            progress(Event(config.name, "report", path=str(parent.path)))
            write_report(arms.ordered(), page)
        if failure := arms.failure("arm"):
            raise failure
        parent.finish()
        progress(Event(config.name, DONE, path=str(parent.path)))
        return ArmsRun(parent.path, page, {name: arms.runs[name] for name in configs})
