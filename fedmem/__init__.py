"""fedmem: what can one hospital pull out of a jointly fine-tuned language model?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedmem.config import Config
from fedmem.errors import ConfigError
from fedmem.loading import load_config

if TYPE_CHECKING:
    from fedmem.arms import ArmsRun
    from fedmem.progress import Progress
    from fedmem.simulation import Run

__all__ = ["Config", "load_config", "run"]


def run(config: Config, progress: Progress | None = None, resume: bool = False) -> Run | ArmsRun:
    """Do what `fedmem run` does: one run, or with `config.arms` one run an arm, side by side.

    `resume` goes on with the newest run of this very config, if there is one that was stopped.
    Returns an object with `path` (the directory) and `report` (the page). Raises FedmemError.
    """
    from fedmem.progress import silent

    if config.sweep:
        raise ConfigError(
            "sweep: this config is a grid of runs; start it with `fedmem sweep CONFIG`, "
            "or set sweep={} for a single run"
        )
    shown = progress or silent
    if config.arms:
        from fedmem.arms import run_arms

        return run_arms(config, shown, resume)
    # heavy libraries are loaded only when something is run
    from fedmem.simulation import run as run_one

    return run_one(config, shown, resume)
