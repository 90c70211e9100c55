"""Named runs under one directory, side by side: a process each, as many at once as there is room.

`runs/<time>-<name>-<hash8>/` holds a config `<run's name>.yaml`, a log `<run's name>.log` and a run
directory for each. Arms (`fedmem.arms`) and the points of a sweep (`fedmem.sweep`) are such runs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from fedmem.config import Config
from fedmem.errors import ConfigError, RunError
from fedmem.loading import config_hash8, dump_config, load_config
from fedmem.manifest import MANIFEST, is_finished
from fedmem.progress import DONE, Event, Progress, has_ended, json_lines
from fedmem.rundir import RunDir
from fedmem.versions import cores
from fedmem.workers import Worker, environment, stop_with_starter, work

NAMED = 5  # failed runs in one error; the rest are counted


class Group:
    """The runs of one directory. `runs`: the finished ones, by the names that `configs` has."""

    def __init__(self, parent: RunDir, configs: Mapping[str, Config]) -> None:
        self.parent = parent
        self.configs = dict(configs)
        self.workers: dict[str, Worker] = {}
        done = _finished(parent.path)
        hashes = {name: config_hash8(config) for name, config in configs.items()}
        self.runs = {name: done[hash8] for name, hash8 in hashes.items() if hash8 in done}

    def run(
        self, slots: int, progress: Progress, ended: Callable[[str], None] | None = None
    ) -> None:
        """Make those that are not finished, `slots` at a time; one that was stopped goes on.

        `ended` is called with a run's name as it ends, well or not.
        """
        rest = {name: config for name, config in self.configs.items() if name not in self.runs}
        self.workers = {name: _worker(config, self.parent) for name, config in rest.items()}
        names = {config.name: name for name, config in rest.items()}

        def follow(event: Event) -> None:
            progress(event)
            if has_ended(event) and (name := names.get(event.run)):
                worker = self.workers[name]
                if worker.code == 0 and worker.run is not None and is_finished(worker.run):
                    self.runs[name] = worker.run
                if ended:
                    ended(name)

        try:
            work(list(self.workers.values()), slots, follow)
        finally:
            self.parent.manifest["runs"] = {
                name: self.runs[name].name if name in self.runs else None for name in self.configs
            }

    def ordered(self) -> list[Path]:
        """The finished runs, in the config's order."""
        return [self.runs[name] for name in self.configs if name in self.runs]

    def failure(self, word: str) -> RunError | ConfigError | None:
        """What to raise once all have ended; None if all finished. `word`: what a run is called.

        ConfigError if every one refused its config or data, else RunError.
        """
        failed = {name: worker for name, worker in self.workers.items() if name not in self.runs}
        if not failed:
            return None
        by_error: dict[str, list[str]] = {}  # a missing file is told once, not once a run
        for name, worker in failed.items():
            by_error.setdefault(worker.error(), []).append(name)
        texts = []
        for error, names in list(by_error.items())[:NAMED]:
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            texts.append(f"{word} {', '.join(names[:NAMED])}{more}: {error}")
        if len(by_error) > NAMED:
            texts.append(f"and {len(by_error) - NAMED} other errors, see {self.parent.path}")
        text = "; ".join(texts)
        if self.runs:
            return RunError(f"{text}; the report shows the other {word}s")
        refused = all(worker.code == ConfigError.exit_code for worker in failed.values())
        return ConfigError(text) if refused else RunError(text)


def at_once(configs: Mapping[str, Config]) -> int:
    """How many runs go side by side: what the cores hold, at least one.

    One at a time on a GPU, whose memory they would share, and on Ray, whose actors take the whole
    cluster.
    """
    engines = [config.engine for config in configs.values()]
    if any(engine.kind == "ray" or engine.device.startswith("cuda") for engine in engines):
        return 1
    return max(1, min(len(configs), cores() // max(engine.threads for engine in engines)))


def run_member(file: Path) -> None:
    """What the process of one run does: `fedmem arm FILE`, started by `Group.run`."""
    stop_with_starter()
    from fedmem import simulation

    config = load_config(file)
    done = simulation.run(config, json_lines, resume=True)
    json_lines(Event(config.name, DONE, path=str(done.path)))


def _worker(config: Config, parent: RunDir) -> Worker:
    """The process of one run, from its resolved config; it makes its run under the parent's."""
    resolved = dump_config(config.model_copy(update={"output": parent.path}))
    file = parent.write_text(f"{config.name}.yaml", resolved)
    command = [sys.executable, "-P", "-m", "fedmem", "arm", str(file)]
    log = parent.path / f"{config.name}.log"
    return Worker(config.name, command, environment(config.engine.threads), log)


def _finished(parent: Path) -> dict[str, Path]:
    """Hash of the config -> directory, of every finished run below `parent`."""
    found = {}
    for file in sorted(parent.glob(f"*/{MANIFEST}")):
        try:
            manifest = json.loads(file.read_bytes())
            if manifest["status"] == "finished":
                found[str(manifest["config_hash8"])] = file.parent
        except (OSError, ValueError, KeyError, TypeError):
            continue  # killed before its manifest was written: made again
    return found
