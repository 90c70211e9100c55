"""The whole config tree: what a run is, in one frozen object.

Loading: `load_config(path, ["training.lr=1e-3", ...])`. Unknown keys are refused with a suggestion.
YAML reads `1e-3` as text; numbers given as text are coerced by pydantic.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from fedmem.config.data import Data
from fedmem.config.model import Model
from fedmem.config.section import NAME, Section

# --- rounds and training -------------------------------------------------------------------


class Rounds(Section):
    """Federated rounds. `topology` pools all shards (centralized) or never averages (local)."""

    count: int = Field(5, ge=1, le=10_000)
    local_epochs: int | None = Field(None, ge=1)
    local_steps: int | None = Field(None, ge=1)
    clients_per_round: Literal["all"] | Annotated[int, Field(ge=1)] = "all"
    topology: Literal["federated", "centralized", "local"] = "federated"

    @model_validator(mode="after")
    def _one_length(self) -> Rounds:
        if self.local_epochs and self.local_steps:
            raise ValueError("give local_epochs or local_steps, not both")
        return self


class Training(Section):
    """Local optimisation. The schedule spans all rounds; the optimizer starts afresh each round."""

    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = Field(1e-3, gt=0, le=10)
    weight_decay: float = Field(0.0, ge=0)
    momentum: float = Field(0.0, ge=0, lt=1)
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    warmup_steps: int = Field(0, ge=0)
    batch_size: int = Field(8, ge=1)
    accumulation: int = Field(1, ge=1, description="micro-batches to one optimizer step")
    max_grad_norm: float | None = Field(1.0, gt=0)
    max_length: int = Field(320, ge=16)
    loss_on: Literal["all", "answer"] = "all"
    packing: bool = False


class Aggregation(Section):
    """How the server joins the updates.

    rule: `fedavg` averages the trained arrays (A and B for LoRA). `freeze_a` trains and averages B
    alone, on one A for all (FFA-LoRA, Sun et al. 2024). `product` averages the products BA exactly
    and begins each round with a fresh LoRA (the paper's merge): dense deltas go to the clients, A
    and B come back. prox: mu of FedProx (Li et al. 2020), which pulls a client to the model it got.
    """

    rule: Literal["fedavg", "freeze_a", "product"] = "fedavg"
    weights: Literal["examples", "uniform"] | dict[str, Annotated[float, Field(gt=0)]] = Field(
        "examples", description="or a weight for every client, by name"
    )
    prox: float = Field(0.0, ge=0)


# --- attack, utility, privacy, engine ------------------------------------------------------


class Attack(Section):
    """What the honest-but-curious client tries, from its own view, with which knowledge."""

    views: list[Literal["client"]] = Field(["client"], min_length=1)
    knowledge: list[Literal["true_prefix", "own_prefix"]] = ["true_prefix", "own_prefix"]
    attackers: Literal["all"] | list[str] = "all"
    every: int = Field(1, ge=1, description="attack after every n-th round, and after the last")
    prefix_lengths: list[Annotated[int, Field(ge=1)]] = [10, 50, 100, 200, 500]
    continuation: int = Field(50, ge=1, description="tokens that an exact match must give back")
    bleu: float = Field(0.75, gt=0, le=1, description="token BLEU-4 of an approximate match")
    own_prefixes: int = Field(16, ge=1, description="own_prefix: prompts a client spends a round")


class Utility(Section):
    """Held-out records: NLL of the answers, and accuracy where a record has options."""

    max_records: int = Field(300, ge=1, description="held-out records at most, over all tasks")
    every: int = Field(1, ge=1)


class Privacy(Section):
    """`redact` null: text of notes is kept on disk only if every note is synthetic."""

    redact: bool | None = None


class Engine(Section):
    """Where clients run. `threads` is part of a result's identity: sums differ with it.

    `ray`: clients run in actors, processes of `threads` CPUs on the nodes of a Ray cluster. One
    that is lost is replaced and its message sent again; the result is the same.
    """

    kind: Literal["inline", "ray", "deployment"] = "inline"
    device: str = Field("cpu", pattern=r"^(cpu|cuda(:\d+)?)$")
    threads: int = Field(1, ge=1, le=256)
    address: str | None = Field(
        None,
        pattern=r"^(auto|([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\]):\d{1,5})$",
        description="ray: HOST:PORT of a cluster, `auto`: the one running here, null: start one",
    )
    actors: int | None = Field(
        None, ge=1, le=10_000, description="ray: null: as many as the CPUs hold"
    )
    gpus: float = Field(0.0, ge=0, le=64, description="ray: GPUs of an actor, or a share of one")
    retries: int = Field(2, ge=0, le=100, description="ray: how often a message is sent again")
    timeout: float = Field(
        600.0, gt=0, description="ray: seconds for an actor to find a place, and to load"
    )
    reply_timeout: float = Field(
        3600.0, gt=0, description="ray: seconds after which a silent actor counts as lost"
    )

    @model_validator(mode="after")
    def _ray_alone(self) -> Engine:
        if self.kind == "ray":
            if self.device.startswith("cuda") != (self.gpus > 0):
                raise ValueError("under ray, device: cuda and gpus > 0 go together")
            if self.device.startswith("cuda:"):
                raise ValueError("under ray, device is cuda: Ray says which GPU an actor gets")
            return self
        for key in ("address", "actors", "gpus", "retries", "timeout", "reply_timeout"):
            if getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key}: only for kind: ray, and kind is {self.kind}")
        return self


class Wandb(Section):
    """Figures to Weights & Biases. `offline` writes them into the run's directory alone."""

    project: str = Field("fedmem", pattern=NAME)
    mode: Literal["offline", "online"] = "offline"
    entity: str | None = Field(None, pattern=NAME, description="user or team; default: your own")


class Tracking(Section):
    """Where a round's figures go besides metrics.jsonl: never text, values or ids of notes."""

    tensorboard: bool = False
    wandb: Wandb | None = None


class Config(Section):
    """One run; with `arms`, one run an arm, each the same config with the arm's overrides.

    With `sweep`, dotted keys with lists of values, one run a combination (in every arm).
    """

    name: str = Field("run", pattern=NAME)
    seed: int = Field(0, ge=0, lt=2**31)
    output: Path = Path("runs")
    model: Model = Model()
    data: Data
    rounds: Rounds = Rounds()
    training: Training = Training()
    aggregation: Aggregation = Aggregation()
    attack: Attack = Attack()
    utility: Utility = Utility()
    privacy: Privacy = Privacy()
    engine: Engine = Engine()
    tracking: Tracking = Tracking()
    arms: dict[Annotated[str, Field(pattern=NAME)], dict[str, Any]] = {}
    sweep: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}

    @field_validator("arms", mode="before")
    @classmethod
    def _arm_without_overrides(cls, arms: Any) -> Any:
        return {k: v or {} for k, v in arms.items()} if isinstance(arms, dict) else arms

    @model_validator(mode="after")
    def _fits_together(self) -> Config:
        clients = [client.name for client in self.data.clients]
        n = self.rounds.clients_per_round
        if isinstance(n, int) and n > len(clients):
            raise ValueError(f"rounds.clients_per_round: {n} of {len(clients)} clients")
        if self.attack.attackers != "all":
            for name in self.attack.attackers:
                if name not in clients:
                    raise ValueError(f"attack.attackers: no client is called {name!r}")
        if self.aggregation.rule != "fedavg" and self.model.method != "lora":
            raise ValueError(f"aggregation.rule: {self.aggregation.rule} needs model.method=lora")
        if self.aggregation.rule == "product" and self.rounds.topology == "local":
            raise ValueError("aggregation.rule: product averages, and topology local never does")
        given = self.aggregation.weights
        if isinstance(given, dict) and set(given) != set(clients):
            names = ", ".join(sorted(set(given) ^ set(clients))[:5])
            raise ValueError(f"aggregation.weights: give every client one, by name ({names})")
        if self.data.canaries.source.adapter != "notes":
            raise ValueError("data.canaries.source.adapter: must be `notes`")
        for client in self.data.clients:
            if client.source.adapter == "notes":
                raise ValueError(f"client {client.name}: notes come in through data.canaries")
        return self
