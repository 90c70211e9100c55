"""Shadow runs: the same run with a random half of the canaries, or all but one client.

`fedmem shadows RUN` makes them side by side under RUN/shadows/, each an ordinary run whose models
and scores are kept, and works out the run's figures again (`fedmem.metrics.shadows`). One that is
finished is left as it is, one that was stopped goes on.

A shadow shares everything with its run but what it leaves out: records, base, seed, the fresh LoRA.
That is the auditor's position, not a client's: an upper bound of what shadows tell.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmem.config import Config
from fedmem.errors import ConfigError, DataError
from fedmem.group import Group, at_once
from fedmem.loading import vary
from fedmem.metrics.shadows import FOLDER
from fedmem.metrics.summary import read_config, summarise
from fedmem.progress import Event, Progress, silent
from fedmem.rundir import SAME, RunDir, open_finished
from fedmem.versions import environment


@dataclass(frozen=True)
class Shadows:
    """The finished shadows by name, and the run's new summary."""

    runs: dict[str, Path]
    summary: dict[str, Any]


def train(
    run: str | Path,
    count: int = 8,
    leave_one_out: bool = False,
    progress: Progress = silent,
    jobs: int | None = None,
) -> Shadows:
    """Make `count` random halves of the finished `run`, and a run without each client if asked.

    Each costs what the run cost, less its attacks but the last round's. `jobs` at once: by cores.
    Raises ConfigError or DataError where they would not be like the run, RunError naming those that
    failed, after the others have finished.
    """
    directory = open_finished(run)
    config = read_config(directory.path)
    check(config, directory, count, leave_one_out)
    folder = directory.path / FOLDER
    folder.mkdir(exist_ok=True)
    group = Group(RunDir(folder, {}), configs(config, count, leave_one_out))
    group.run(jobs or at_once(group.configs), progress)
    if failure := group.failure("shadow"):
        raise failure
    progress(Event(config.name, "summary and report"))
    summary = summarise(directory.path)
    directory.write_json("summary.json", summary)
    from fedmem.report import write_report

    write_report([directory.path], directory.path / "report.html")
    return Shadows(group.runs, summary)


def configs(config: Config, count: int, leave_one_out: bool) -> dict[str, Config]:
    """The shadows' configs by name: half-000, half-001, ... and without-00-CLIENT, ..."""
    tree = config.model_dump(mode="json")
    found = {}
    for number in range(count):
        name = f"half-{number:03d}"
        found[name] = vary(tree, name, {**_sparing(config), "data.canaries.shadow": number}, name)
    for number, client in enumerate(config.data.clients if leave_one_out else ()):
        name = f"without-{number:02d}-{client.name}"[:40].rstrip("-_")
        found[name] = vary(tree, name, {**_sparing(config), **_without(config, client.name)}, name)
    return found


def check(config: Config, directory: RunDir, count: int, leave_one_out: bool) -> None:
    """ConfigError or DataError, in one line, where shadows of the run cannot be had."""
    if count < 0 or count % 2 or count + leave_one_out == 0:
        raise ConfigError(
            f"--count {count}: give an even number, so that each note is in half of them (4 or "
            "more for LiRA), or 0 with --leave-one-out"
        )
    if config.engine.kind == "deployment":
        raise ConfigError(f"{directory.path}: shadows need a simulation; this run was deployed")
    if config.data.canaries.shadow is not None or config.rounds.left_out:
        raise ConfigError(f"{directory.path}: is a shadow itself; name the run that it belongs to")
    now = json.loads(json.dumps(environment(config.engine.threads)))
    for key in SAME:
        if directory.manifest.get(key) != now[key]:
            raise DataError(
                f"{directory.path}: was made with another {key}; shadows must be made with the same"
            )
    if leave_one_out and len(config.data.clients) < 2:
        raise ConfigError(f"{directory.path}: --leave-one-out needs two clients or more")


def _sparing(config: Config) -> dict[str, Any]:
    """Measured after the last round alone, by the scoring pass alone."""
    return {
        "attack.views": ["client"],
        "attack.knowledge": ["true_prefix"],
        "attack.every": config.rounds.count,
        "attack.prefix_lengths": config.attack.prefix_lengths[:1],
        "attack.membership": [],
        "attack.sampling": [],
        "attack.candidates": 0,
        "attack.repurpose": None,
        "utility.every": config.rounds.count,
        "tracking": {"tensorboard": False, "wandb": None},
    }


def _without(config: Config, client: str) -> Mapping[str, Any]:
    chosen, left = config.rounds.clients_per_round, len(config.data.clients) - 1
    changes: dict[str, Any] = {"rounds.left_out": [client]}
    if config.aggregation.secure.enabled or chosen != "all":  # which count on a number
        changes["rounds.clients_per_round"] = left if chosen == "all" else min(chosen, left)
    return changes
