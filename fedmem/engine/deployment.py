"""What Flower's own commands hand over: `flwr run .` names a config, and says what to change."""

from __future__ import annotations

import shlex

from flwr.app import UserConfig

from fedmem.config import Config
from fedmem.errors import ConfigError
from fedmem.loading import load_config


def requested(run_config: UserConfig) -> tuple[Config, bool]:
    """The config to run, and whether to go on with a stopped run of it.

    `config`: a YAML file on the ServerApp's machine, or the name of one that comes along; `set`:
    changes as on fedmem's command line, separated by spaces. Clients are Flower's nodes, whatever
    the file says. Raises ConfigError.
    """
    changes = shlex.split(str(run_config.get("set", "")))
    config = load_config(str(run_config.get("config", "flower")), [*changes, "arms={}"])
    if config.engine.kind == "ray":
        raise ConfigError("engine.kind: under `flwr run` Flower's nodes are the clients, not Ray")
    engine = config.engine.model_copy(update={"kind": "deployment"})
    return config.model_copy(update={"engine": engine}), bool(run_config.get("resume", False))
