"""Everything one process needs to act as any client of a run: data, the base, one adapter's room.

The base is resident and frozen, once a process, however many clients it plays; a client's arrays
are written into the model, trained, and read out again. A second client costs no second model.
"""

from __future__ import annotations

from typing import Any

import torch

from fedmem.attacks.audit import attack_as, audit
from fedmem.attacks.rows import to_bytes
from fedmem.attacks.views import ClientView
from fedmem.config import Config
from fedmem.data.build import Dataset, build
from fedmem.errors import ConfigError
from fedmem.evaluation.utility import evaluate
from fedmem.model.base import load
from fedmem.model.state import Arrays, get_arrays, set_arrays
from fedmem.training import cpu
from fedmem.training.local import train_local


class Workspace:
    """A process's copy of the run. `clients`: participants in order of partition id."""

    def __init__(self, config: Config) -> None:
        cpu.set_up(config.engine.threads)
        self.config = config
        self.model, self.tokenizer = load(config.model, config.seed)
        positions = getattr(self.model.config, "max_position_embeddings", None)
        # an attack decodes on, behind a prompt as long as a whole note
        wanted = config.training.max_length + config.attack.continuation
        if positions is not None and wanted > positions:
            raise ConfigError(
                f"training.max_length: {config.training.max_length} and attack.continuation "
                f"{config.attack.continuation} exceed the base's {positions} positions; lower one"
            )
        self.model.to(device(config.engine.device))
        self.data: Dataset = build(config, self.tokenizer)
        self.clients = list(self.data.shards)
        self._rates = {client.name: client.lr for client in config.data.clients}
        self._start = get_arrays(self.model)
        self._loaded: Arrays | None = None
        self.model.eval()

    def initial_arrays(self) -> Arrays:
        """The trained arrays before round 1: LoRA's fresh A and zero B, or the base's weights."""
        return self._start

    def load(self, arrays: Arrays) -> Any:
        """The model with these arrays, in eval mode; writes them only if they are new here."""
        if self._loaded is not arrays:
            set_arrays(self.model, arrays)
            self._loaded = arrays
        return self.model

    def train(self, client: str, round_: int, arrays: Arrays) -> tuple[Arrays, dict[str, float]]:
        """One round of `client` from `arrays`: (trained arrays, metrics as in `train_local`)."""
        model = self.load(arrays)
        self._loaded = None  # training changes the model in place
        lr = self._rates.get(client) or self.config.training.lr
        pad = self.tokenizer.pad_token_id or 0
        metrics = train_local(model, self.data.shards[client], self.config, round_, lr, pad)
        return get_arrays(model), metrics

    def observe(self, client: str, round_: int, arrays: Arrays) -> bytes:
        """The honest-but-curious client's turn with a model it received; rows as bytes."""
        attackers = self.config.attack.attackers
        topology = self.config.rounds.topology
        # alone or pooled there is no other participant to be curious about
        if topology != "federated" or (attackers != "all" and client not in attackers):
            return b""
        own = tuple(c for c in self.data.canaries if c.owners.get(client, 0))
        view = ClientView(client, round_, self.load(arrays), self.tokenizer, own)
        return to_bytes(attack_as(view, self.data.canaries, self.config, "global"))

    def audit(self, round_: int, arrays: Arrays, name: str) -> list[dict[str, Any]]:
        """The auditor's scoring pass: all canaries, or under `local` the model's owner's."""
        canaries = [c for c in self.data.canaries if name == "global" or name in c.owners]
        return audit(self.load(arrays), canaries, self.config, round_, name)

    def evaluate(self, round_: int, arrays: Arrays, name: str) -> list[dict[str, Any]]:
        """Utility rows of one model."""
        return evaluate(self.load(arrays), self.data.heldout, round_, name)


def device(name: str) -> torch.device:
    """The torch device; ConfigError where torch sees no such GPU."""
    if name.startswith("cuda"):
        index = int(name.partition(":")[2] or 0)
        if index >= torch.cuda.device_count():
            raise ConfigError(
                f"engine.device: {name}: torch sees {torch.cuda.device_count()} GPUs; use cpu"
            )
    return torch.device(name)


_kept: dict[str, Workspace] = {}


def keep(workspace: Workspace) -> None:
    """Make this the process's workspace for its config; the one before is let go."""
    _kept.clear()
    _kept[workspace.config.model_dump_json()] = workspace


def get(config_json: str) -> Workspace:
    """The process's workspace for this config; built at the first call, then shared."""
    if config_json not in _kept:
        keep(Workspace(Config.model_validate_json(config_json)))
    return _kept[config_json]
