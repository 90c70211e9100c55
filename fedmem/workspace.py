"""Everything one process needs to act as a client of a run: data, the base, one adapter's room.

The base is resident and frozen, once a process, however many clients it plays; a client's arrays
are written into the model, trained, and read out again. A second client costs no second model.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from fedmem.attacks import candidates, public, recall
from fedmem.attacks.attribution import attribute
from fedmem.attacks.audit import Audit, attack_as, audit
from fedmem.attacks.rows import table_bytes, to_bytes, token_table
from fedmem.attacks.sampling import Budget
from fedmem.attacks.views import Candidates, ClientView, PublicView, ServerView
from fedmem.auditing.measure import measure
from fedmem.config import Config
from fedmem.data.build import ALL, Dataset, build
from fedmem.data.cache import Say
from fedmem.data.preview import plan_table
from fedmem.data.records import Canary
from fedmem.errors import ConfigError
from fedmem.evaluation.utility import answer
from fedmem.model import state
from fedmem.model.base import load
from fedmem.model.merge import Merged, Product, save_deltas
from fedmem.model.probe import check_lengths, check_reading
from fedmem.model.state import Arrays, get_arrays, set_arrays
from fedmem.rounds import attack_due, utility_due
from fedmem.training import cpu
from fedmem.training.local import seed_of, train_local


class Workspace:
    """A process's copy of the run. `clients`: participants in order of partition id.

    `whole`: all data are here, as in a simulation. In deployment they are not: a node reads the
    shard of the client that it plays when it is first asked to, and the server none. `say` is told
    what takes long about the data.
    """

    def __init__(self, config: Config, say: Say = lambda text: None) -> None:
        self._say = say
        cpu.set_up(config.engine.threads)
        self.config = config
        self.model, self.tokenizer = load(config.model, config.seed)
        self.bos = int(self.tokenizer.bos_token_id is not None)
        # an attack decodes on behind a prompt as long as a whole note, or reads a prefix before it
        check_lengths(self.model, config.training.max_length + config.attack.reach)
        self._prefix = recall.prefix_for(config.attack, self.tokenizer)
        self.model.to(device(config.engine.device))
        check_reading(self.model.eval(), config.model.dtype)
        self.whole = config.engine.kind != "deployment"
        pooled = config.rounds.topology == "centralized"
        self.clients = [ALL] if pooled else config.present
        self._parts: dict[str, Dataset] = {}
        self._listed: candidates.Lists = {}
        if self.whole:
            self.data  # noqa: B018  wrong data end the run here
        self._rates = {client.name: client.lr for client in config.data.clients}
        self._merged = None
        if config.aggregation.rule == "product":
            self._merged = Merged(self.model)
        elif config.aggregation.rule == "freeze_a":
            for name, parameter in self.model.named_parameters():
                if "lora_A" in name:  # drawn from the seed: the same at every client
                    parameter.requires_grad_(False)
        self._start = self._merged.initial() if self._merged else get_arrays(self.model)
        self._loaded: Arrays | None = None
        self.model.eval()

    @property
    def data(self) -> Dataset:
        """All data of the run."""
        return self.part(None)

    def part(self, client: str | None) -> Dataset:
        """What this process needs to play `client`: everything if `whole`, else its part alone."""
        only = None if self.whole or client in (None, ALL) else client
        key = only or ALL
        if key not in self._parts:
            self._parts[key] = build(self.config, self.tokenizer, only, self._say)
        return self._parts[key]

    def initial_arrays(self) -> Arrays:
        """The model before round 1: LoRA's fresh A and zero B, the base's weights, or no deltas."""
        return self._start

    @property
    def products(self) -> list[Product]:
        """What the LoRA adapts, where products are averaged; else nothing."""
        return self._merged.products if self._merged else []

    @property
    def most_examples(self) -> int | None:
        """The training examples of the client that has most; None where not all data are here."""
        if not self.whole:
            return None
        return max(len(shard.examples) for shard in self.data.shards.values())

    def load(self, arrays: Arrays) -> Any:
        """The model with these arrays, in eval mode; writes them only if they are new here."""
        if self._loaded is not arrays:
            if self._merged:
                self._merged.load(arrays)
            else:
                set_arrays(self.model, arrays)
            self._loaded = arrays
        return self.model

    def save(self, arrays: Arrays, folder: Path) -> None:
        """A model on disk: a PEFT adapter, a whole checkpoint, or the deltas to the base."""
        if self._merged:
            save_deltas(arrays, folder)
        else:
            state.save(self.load(arrays), folder)

    def train(self, client: str, round_: int, arrays: Arrays) -> tuple[Arrays, dict[str, float]]:
        """One round of `client` from `arrays`: (trained arrays, metrics as in `train_local`)."""
        model = self.load(arrays)
        self._loaded = None  # training changes the model in place
        if self._merged:
            self._merged.fresh(seed_of(self.config.seed, client, round_))
        lr = self._rates.get(client) or self.config.training.lr
        pad = self.tokenizer.pad_token_id or 0
        metrics = train_local(model, self.part(client).shards[client], self.config, round_, lr, pad)
        return get_arrays(model), metrics

    def fresh(self, client: str, round_: int) -> Arrays:
        """The LoRA that `client` began the round with, where products are averaged."""
        assert self._merged is not None
        self._merged.fresh(seed_of(self.config.seed, client, round_))
        return get_arrays(self.model)

    def base(self, name: str) -> np.ndarray:
        """The base's weight below the dense delta `name`; an array that is itself one has none."""
        return self._merged.base(name) if self._merged else np.zeros(())

    def observe(self, client: str, round_: int, arrays: Arrays) -> bytes:
        """The honest-but-curious client's turn with a model it received; rows as bytes."""
        attackers = self.config.attack.attackers
        topology = self.config.rounds.topology
        # alone or pooled there is no other participant to be curious about
        if topology != "federated" or (attackers != "all" and client not in attackers):
            return b""
        canaries = self.part(client).canaries
        own = tuple(c for c in canaries if c.owners.get(client, 0))
        view = ClientView(client, round_, self.load(arrays), self.tokenizer, own)
        return to_bytes(attack_as(view, canaries, self.config, "global"))

    def audit(self, round_: int, arrays: Arrays, name: str) -> Audit:
        """The auditor's scoring pass: all canaries, or under `local` the model's owner's."""
        canaries = [c for c in self.data.canaries if name == "global" or name in c.owners]
        return self._audited(self.load(arrays), canaries, self.data, round_, name)

    def _audited(
        self, model: Any, canaries: Sequence[Canary], part: Dataset, round_: int, name: str
    ) -> Audit:
        given = self.bos, self._prefix, self._lists(canaries, part.canaries, round_)
        return audit(model, canaries, self.config, round_, name, *given, self.tokenizer)

    def _lists(
        self, canaries: Sequence[Canary], all_: Sequence[Canary], round_: int
    ) -> candidates.Lists | None:
        """What values are ranked among in this round, if they are; made once for each canary."""
        attack, last = self.config.attack, self.config.rounds.count
        if not attack.candidates or (attack.candidates_at == "ends" and 0 < round_ < last):
            return None
        new = [canary for canary in canaries if canary.id not in self._listed]
        given = self.tokenizer, attack.candidates, self.config.seed
        self._listed = {**self._listed, **candidates.lists(new, all_, *given)}
        return self._listed

    def watch(
        self, client: str, round_: int, received: Arrays, arrived: Arrays
    ) -> list[dict[str, Any]]:
        """The curious server's turn with what arrived from one client: rows of server.parquet.

        arrived: an update, or the trained arrays themselves where clients send those.
        """
        update = arrived
        if not self.config.sends_updates:
            update = {name: array - received[name] for name, array in arrived.items()}
        view = ServerView(round_, received, {client: update}, self.load)
        return attribute(view, Candidates(self.data.canaries))

    def public(self, round_: int, arrays: Arrays, name: str) -> list[dict[str, Any]]:
        """The turn of whoever is handed the released model: rows of scores.parquet."""
        view = PublicView(self.load(arrays), self.tokenizer)
        canaries = [c for c in self.data.canaries if name == "global" or name in c.owners]
        said = public.guess(view, Budget.of(self.config.attack, self.config.seed))
        return public.grade(said, view, canaries, round_, name)

    def coins(self, models: dict[str, Arrays]) -> pa.Table:
        """audit.parquet: what the last models, by name, make of the one-run audit's canaries."""
        return measure(self.data.audit, self._start, models, self.load)

    def answer(self, round_: int, arrays: Arrays, name: str) -> pa.Table:
        """What one model makes of the held-out questions: rows of `evaluation.utility.ANSWERS`."""
        return answer(self.load(arrays), self.data.heldout, round_, name)

    def report(self, client: str, round_: int, arrays: Arrays) -> dict[str, bytes]:
        """In deployment, a client about its own canaries, twins and held-out questions.

        `scores`, `tokens`, `answers`: Arrow streams, where something is due; before round 1 also
        `plan` (its rows of canaries.parquet) and `stats` (JSON). Figures and ids, as
        `privacy.redact` has it; the notes stay here.
        """
        part = self.part(client)
        model, name = self.load(arrays), "global"
        if self.config.rounds.topology == "local":
            name = client
        told = {}
        if attack_due(self.config, round_):
            own = [c for c in part.canaries if client in c.owners or client == ALL]
            found = self._audited(model, own, part, round_, name)
            points = len(self.config.attack.sampling)
            told["scores"] = to_bytes(found.scores)
            told["tokens"] = table_bytes(token_table(found.tokens, points))
        if utility_due(self.config, round_):
            told["answers"] = table_bytes(answer(model, part.heldout, round_, name))
        if round_ == 0:
            plan = plan_table(part, self.config.privacy.redact)
            mine = [client == ALL or client in owners for owners in plan["owners"].to_pylist()]
            told["plan"] = table_bytes(plan.filter(pa.array(mine)))
            told["stats"] = json.dumps(part.stats).encode()
        return told


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
