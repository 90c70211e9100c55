"""A config with arms: one process an arm, as many at once as the cores allow, one joint report.

`runs/<time>-<name>-<hash8>/` holds a config `<arm>.yaml`, a log `<arm>.log` and a run directory
for each arm, and `report.html` over the arms that finished.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedmem.config import Config
from fedmem.errors import ConfigError, RunError
from fedmem.loading import arm_configs, dump_config, load_config
from fedmem.progress import DONE, Event, Progress, json_lines, silent
from fedmem.rundir import RunDir, open_finished
from fedmem.versions import cores
from fedmem.workers import Worker, stop_with_starter, work

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class ArmsRun:
    """What a config with arms leaves behind; `runs` maps an arm to its run directory."""

    path: Path
    report: Path
    runs: dict[str, Path]


def run_arms(config: Config, progress: Progress = silent) -> ArmsRun:
    """Run all arms and write the joint report.

    Raises RunError naming each arm that failed, after the others have finished and the report over
    them is written; ConfigError if every arm refused its config or data.
    """
    with RunDir.create(config, kind="arms") as parent:
        configs = arm_configs(config)
        arms = {name: _worker(name, arm, parent) for name, arm in configs.items()}
        runs: dict[str, Path] = {}
        try:
            work(list(arms.values()), at_once(configs), progress)
        finally:
            for name, worker in arms.items():
                if worker.code == 0 and worker.run is not None:
                    runs[name] = open_finished(worker.run).path
            parent.manifest["arms"] = {
                name: runs[name].name if name in runs else None for name in arms
            }
        page = parent.path / "report.html"
        if runs:
            from fedmem.report import write_report

            progress(Event(config.name, "report", path=str(parent.path)))
            write_report(list(runs.values()), page)
        if failed := {name: arms[name] for name in arms if name not in runs}:
            raise _failure(failed, bool(runs))
        parent.finish()
        progress(Event(config.name, DONE, path=str(parent.path)))
        return ArmsRun(parent.path, page, runs)


def at_once(configs: Mapping[str, Config]) -> int:
    """How many arms run side by side: what the cores hold, at least one."""
    threads = max(arm.engine.threads for arm in configs.values())
    return max(1, min(len(configs), cores() // threads))


def _worker(arm: str, config: Config, parent: RunDir) -> Worker:
    """The process of an arm, from its resolved config; it makes its run under the parent's."""
    resolved = dump_config(config.model_copy(update={"output": parent.path}))
    file = parent.write_text(f"{arm}.yaml", resolved)
    command = [sys.executable, "-P", "-m", "fedmem", "arm", str(file)]
    log = parent.path / f"{arm}.log"
    return Worker(config.name, command, environment(config.engine.threads), log)


def environment(threads: int) -> dict[str, str]:
    """The environment of an arm: its number of threads, and this very copy of fedmem."""
    package = str(Path(__file__).parent.parent)
    path = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    counts = dict.fromkeys(THREAD_VARIABLES, str(threads))
    return {**os.environ, **counts, "PYTHONPATH": os.pathsep.join(path), "PYTHONUTF8": "1"}


def run_arm(file: Path) -> None:
    """What the process of one arm does: `fedmem arm FILE`, started by `run_arms`."""
    stop_with_starter()
    from fedmem import simulation

    config = load_config(file)
    done = simulation.run(config, progress=json_lines)
    json_lines(Event(config.name, DONE, path=str(done.path)))


def _failure(failed: dict[str, Worker], others_finished: bool) -> RunError | ConfigError:
    by_error: dict[str, list[str]] = {}  # a missing file is told once, not once an arm
    for name, worker in failed.items():
        by_error.setdefault(worker.error(), []).append(name)
    text = "; ".join(f"arm {', '.join(names)}: {error}" for error, names in by_error.items())
    if others_finished:
        return RunError(f"{text}; the report shows the other arms")
    refused = all(worker.code == ConfigError.exit_code for worker in failed.values())
    return ConfigError(text) if refused else RunError(text)
