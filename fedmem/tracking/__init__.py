"""Where the figures of a round go besides metrics.jsonl: TensorBoard, Weights & Biases.

Figures alone leave a run: never text, values, tokens or ids of notes or of canaries. A tracker is
one file with a class of two methods, and one line in `TRACKERS`; its extra is `fedmem[track]`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from fedmem.config import Config
from fedmem.errors import ConfigError


class Tracker(Protocol):
    """Takes a round's figures by name."""

    def log(self, round_: int, figures: dict[str, float]) -> None: ...

    def close(self) -> None: ...


def _tensorboard(config: Config, run: Path, first: int) -> Tracker:
    from fedmem.tracking.tensorboard import TensorBoard

    return TensorBoard(run, first)


def _wandb(config: Config, run: Path, first: int) -> Tracker:
    from fedmem.tracking.wandb import Wandb

    return Wandb(config, run)


# Name in the config, which is also that of the package -> what opens it, from the config, the run's
# directory and the first round that it will be told of.
TRACKERS: dict[str, Callable[[Config, Path, int], Tracker]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
}


def wanted(config: Config) -> list[str]:
    """The trackers that a config asks for."""
    return [name for name in TRACKERS if getattr(config.tracking, name)]


def check(*configs: Config) -> None:
    """Raises ConfigError where a tracker is asked for that is not installed, or not logged in."""
    for config in configs:
        for name in wanted(config):
            if find_spec(name) is None:
                raise ConfigError(
                    f"tracking.{name}: {name} is not installed; "
                    "install it with pip install 'fedmem[track]'"
                )
        if config.tracking.wandb and config.tracking.wandb.mode == "online":
            from fedmem.tracking.wandb import logged_in

            if not logged_in():
                raise ConfigError(
                    "tracking.wandb.mode: online needs an account; call `wandb login`, "
                    "or set it to offline"
                )


class Trackers:
    """All trackers of a run. One that fails is said once, counted, and never ends the run.

    `failures`: tracker -> how many rounds it did not take.
    """

    def __init__(self, config: Config, run: Path, say: Callable[[str], None]) -> None:
        self.failures: Counter[str] = Counter()
        self.names = wanted(config)
        self._config, self._run, self._say = config, run, say
        self._open: dict[str, Tracker | None] = {}  # None: could not be opened, not tried again

    def log(self, round_: int, figures: dict[str, float]) -> None:
        """Hand the figures to each; opened at the first round, so that nothing waits for them."""
        for name in self.names:
            try:
                if name not in self._open:
                    self._open[name] = None
                    self._open[name] = TRACKERS[name](self._config, self._run, round_)
                tracker = self._open[name]
                if tracker is None:
                    self.failures[name] += 1
                else:
                    tracker.log(round_, figures)
            except Exception as error:  # a tracker may raise what it likes: network, disk, protocol
                self._failed(name, f"in round {round_}", error)

    def close(self) -> None:
        """After the last round."""
        for name, tracker in self._open.items():
            try:
                if tracker is not None:
                    tracker.close()
            except Exception as error:
                self._failed(name, "at the end", error)
        self._open.clear()

    def _failed(self, name: str, when: str, error: Exception) -> None:
        self.failures[name] += 1
        if self.failures[name] == 1:
            why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            self._say(f"tracking.{name} failed {when} ({why}); the run goes on")
