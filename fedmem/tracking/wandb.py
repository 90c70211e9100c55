"""Weights & Biases: figures and training settings; nothing of the machine, the code or the data.

Offline (the default) all stays in `wandb/` in the run's directory, to be sent by `wandb sync` if
and when its owner decides to. Names of clients go along, as the names of figures.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # of the library, to its makers

import wandb

from fedmem.config import Config

# What W&B learns of a config; a section that is new is not sent until it is named here. Left out:
# all paths, the data's sources, names of columns and attackers.
SENT: Any = {
    "seed": True,
    "model": {"method", "lora", "dtype", "gradient_checkpointing"},
    "rounds": True,
    "training": True,
    "aggregation": True,
    "defences": True,
    "attack": {"knowledge", "every", "prefix_lengths", "continuation", "bleu", "own_prefixes"},
    "utility": True,
    "engine": {"kind", "device", "threads"},
}
WAIT_SECONDS = 60.0  # for the network, at the start and at the end


class Wandb:
    """One W&B run in the group of the run's directory: a run that is taken up adds another."""

    def __init__(self, config: Config, run: Path) -> None:
        asked = config.tracking.wandb
        assert asked is not None
        settings = wandb.Settings(
            console="off",
            silent=True,
            symlink=False,
            disable_git=True,
            disable_code=True,
            disable_job_creation=True,
            save_code=False,
            host="",
            program="",
            x_save_requirements=False,
            x_disable_meta=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
            init_timeout=WAIT_SECONDS,
            finish_timeout=WAIT_SECONDS,
        )
        self._run = wandb.init(
            project=asked.project,
            entity=asked.entity,
            mode=asked.mode,
            dir=run,
            name=run.name,
            group=run.name,
            config=sent(config),
            reinit="create_new",
            settings=settings,
        )

    def log(self, round_: int, figures: dict[str, float]) -> None:
        self._run.log({"round": round_, **figures}, step=round_)

    def close(self) -> None:
        self._run.finish()


def logged_in() -> bool:
    """Whether this user has a key for W&B; asks nobody."""
    return bool(wandb.login(prompt=False, verify=False))


def sent(config: Config) -> dict[str, Any]:
    """The part of a config that W&B is shown."""
    found = config.model_dump(mode="json", include=SENT)
    canaries = config.data.canaries
    found["clients"] = len(config.data.clients)
    found["canaries"] = {str(level.copies): level.notes for level in canaries.levels}
    found["twins"] = canaries.twins
    # a name on the hub, told by its revision, or `bundled`; a folder's name stays here
    if config.model.revision or config.model.base == "bundled":
        found["model"] |= {"base": config.model.base, "revision": config.model.revision}
    return found
