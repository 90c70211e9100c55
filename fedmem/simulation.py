"""A run, from top to bottom: data, model, rounds (train, aggregate, attack, evaluate), report."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fedmem import checkpoint, protection, tracking
from fedmem import workspace as workspaces
from fedmem.config import Config
from fedmem.errors import ConfigError, RunError
from fedmem.manifest import find, is_finished
from fedmem.metrics import audit
from fedmem.metrics.summary import summarise
from fedmem.model.hub import fetch, is_hub_name
from fedmem.progress import Event, Progress, silent
from fedmem.recorder import Recorder
from fedmem.report import write_report
from fedmem.report.card import write_card
from fedmem.rounds import OnRound, Start
from fedmem.rundir import RunDir
from fedmem.workspace import Workspace

Rounds = Callable[[Config, OnRound, Start | None], object]


@dataclass(frozen=True)
class Run:
    """A finished run on disk, and its report."""

    path: Path
    report: Path


def run(
    config: Config,
    progress: Progress = silent,
    resume: bool = False,
    rounds: Rounds | None = None,
) -> Run:
    """Simulate the run that `config` describes; returns its directory and report.

    `resume` goes on with the newest run of this very config, to the same result as if it had never
    been stopped; a finished one is returned as it is. `rounds` replaces the config's engine.

    Raises ConfigError or DataError before anything is trained, RunError afterwards; what was
    saved by then stays, and the manifest says that the run failed.
    """
    earlier = find(config) if resume else None
    if earlier and is_finished(earlier):
        progress(Event(config.name, "was finished before"))
        return Run(earlier, earlier / "report.html")
    if resume and earlier is None:
        progress(Event(config.name, "no run of this config to go on with: a new one begins"))
    engine = rounds or engine_of(config)
    tracking.check(config)
    progress(Event(config.name, "loading"))
    say = partial(_say, progress, config.name)
    if is_hub_name(config.model):
        fetch(config.model, say)
    workspace = Workspace(config, say)  # wrong data or models end here, with nothing written
    workspaces.keep(workspace)
    with RunDir.take_up(earlier, config) if earlier else RunDir.create(config) as directory:
        progress(Event(config.name, "loaded", path=str(directory.path)))
        recorder = Recorder(config, workspace, directory, progress)
        engine(config, recorder.on_round, recorder.begin())

        summary = summarise(directory.path)
        directory.write_json("summary.json", summary)
        directory.write_json("privacy.json", protection.document(summary))
        if config.attack.audit:
            directory.write_json("audit.json", summary["audit"])
        report = write_report([directory.path], directory.path / "report.html")
        write_card(directory)
        if warning := audit.warning(summary["audit"]):
            recorder.warn(warning)
        if bug := audit.bug(summary["audit"]):  # everything is written; the run counts as failed
            raise RunError(f"{directory.path}: {bug}")
        directory.finish(
            data=recorder.read_json("data.json")["files"], peak_memory_mb=peak_memory_mb()
        )
        checkpoint.forget(directory, keep=None)
    return Run(directory.path, report)


def _say(progress: Progress, name: str, text: str) -> None:
    progress(Event(name, text))


def engine_of(config: Config) -> Rounds:
    """What runs the rounds: `inline`, in this process, or `ray`, over the nodes of a cluster."""
    if config.engine.kind == "ray":
        from fedmem.engine.ray import check, run_ray

        check(config.engine)  # a wrong address ends here, with nothing loaded or written
        return run_ray
    if config.engine.kind == "deployment":
        raise ConfigError(
            "engine.kind: deployment is started by Flower's own command, `flwr run .`; "
            "for a simulation set engine.kind to inline or ray"
        )
    from fedmem.engine.inline import run_inline

    return run_inline


def peak_memory_mb() -> float | None:
    """The process's highest resident memory so far, in MB; None where the system does not say."""
    if os.name != "posix":
        return None
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1024 if sys.platform != "darwin" else 1024**2), 1)
