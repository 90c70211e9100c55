"""What Flower's own commands hand over: a config by name, and a node's own folder of records."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from flwr.app import UserConfig

from fedmem.config import Config
from fedmem.config.sources import LocalSource
from fedmem.errors import ConfigError, DataError
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


def at_home(config_json: str, root: Path) -> str:
    """The server's config as a node takes it: records are read below the node's own `root` alone.

    Raises DataError for a path that leads out of it: no server chooses what a hospital reads.
    """
    config = Config.model_validate_json(config_json)
    for source in [*(client.source for client in config.data.clients), config.data.canaries.source]:
        if isinstance(source, LocalSource):
            inside = os.path.normpath(root / source.path)
            if source.path.is_absolute() or not Path(inside).is_relative_to(os.path.normpath(root)):
                raise DataError(f"{source.path}: leads out of this node's data-root; refused")
    data = config.data.model_copy(update={"root": root})
    return config.model_copy(update={"data": data}).model_dump_json()
