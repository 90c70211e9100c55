"""The whole config tree: what a run is, in one frozen object.

Loading: `load_config(path, ["training.lr=1e-3", ...])`. Unknown keys are refused with a suggestion.
YAML reads `1e-3` as text; numbers given as text are coerced by pydantic.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,39}$"


class Section(BaseModel):
    """Base of every part of the config: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


# --- model ---------------------------------------------------------------------------------


class Lora(Section):
    """Low-rank adapters (PEFT): update = alpha / r * B A."""

    r: int = Field(16, ge=1, le=4096)
    alpha: float = Field(8.0, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: Literal["all-linear"] | list[str] = "all-linear"


class Model(Section):
    """The shared base: `bundled`, or a local folder with a Llama-style checkpoint and tokenizer."""

    base: str = "bundled"
    method: Literal["lora", "full"] = "lora"
    lora: Lora = Lora()


# --- data ----------------------------------------------------------------------------------


class JsonlSource(Section):
    """One JSON object a line, in the column layout of the Hugging Face hub."""

    kind: Literal["jsonl"]
    path: Path
    adapter: Literal["medmcqa", "pubmedqa", "medical_meadow", "generic", "notes"]
    prompt: str = Field("prompt", description="generic: the column with the prompt")
    completion: str = Field("completion", description="generic: the column with the answer")
    id: str | None = Field(None, description="column with a record's id; default: `id` if present")


class SyntheticSource(Section):
    """Records rendered from the built-in medical knowledge base; the same bytes from a seed."""

    kind: Literal["synthetic"]
    adapter: Literal["mcq", "closed", "flashcards", "mixed", "notes"]
    records: int = Field(200, ge=1, le=100_000)


Source = Annotated[JsonlSource | SyntheticSource, Field(discriminator="kind")]


class Client(Section):
    """One hospital: its name, its records, and what it does differently from `training`."""

    name: str = Field(pattern=NAME)
    source: Source
    lr: float | None = Field(None, gt=0, description="this client's learning rate")
    max_records: int | None = Field(None, ge=1)


class Level(Section):
    """`notes` canaries, each written `copies` times into the shard of its owner."""

    copies: int = Field(ge=1, le=1000)
    notes: int = Field(ge=1)


class Canaries(Section):
    """Which notes are injected, how often, at whom; and the twins that never are."""

    source: Source = SyntheticSource(kind="synthetic", adapter="notes")
    levels: list[Level] = Field(default=[Level(copies=1, notes=12), Level(copies=10, notes=16)])
    twins: int = Field(32, ge=0, description="notes of the same pool that no client ever trains on")
    placement: Literal["one_owner", "by_bytes"] = "one_owner"
    long: Literal["window", "error", "skip"] = "window"
    fill_phi: bool = Field(True, description="fill tagged PHI into notes that have none")

    @model_validator(mode="after")
    def _levels_differ(self) -> Canaries:
        copies = [level.copies for level in self.levels]
        if len(set(copies)) != len(copies):
            raise ValueError("levels: each number of copies may stand once")
        return self


class Data(Section):
    """Clients' records, held-out records, canaries. Relative paths start at `root`."""

    root: Path | None = None
    clients: list[Client] = Field(min_length=1)
    canaries: Canaries = Canaries()
    max_records: int | None = Field(None, ge=1, description="cap on each client's records")
    validation: float = Field(0.1, gt=0, lt=1, description="share of file records held out, unseen")
    on_bad_row: Literal["error", "skip"] = "error"

    @model_validator(mode="after")
    def _names_differ(self) -> Data:
        names = [client.name for client in self.clients]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"clients: the name {name!r} stands twice")
            if name in {"all", "global"}:
                raise ValueError(f"clients: the name {name!r} is taken by fedmem itself")
        return self


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
    """How the server joins the updates: FedAvg of the trained arrays (A and B for LoRA)."""

    rule: Literal["fedavg"] = "fedavg"
    weights: Literal["examples", "uniform"] = "examples"


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
    """Where clients run. `threads` is part of a result's identity: sums differ with it."""

    kind: Literal["inline"] = "inline"
    device: str = Field("cpu", pattern=r"^(cpu|cuda(:\d+)?)$")
    threads: int = Field(1, ge=1, le=256)


class Config(Section):
    """One run; with `arms`, one run an arm, each the same config with the arm's overrides."""

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
    arms: dict[Annotated[str, Field(pattern=NAME)], dict[str, Any]] = {}

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
        if self.data.canaries.source.adapter != "notes":
            raise ValueError("data.canaries.source.adapter: must be `notes`")
        for client in self.data.clients:
            if client.source.adapter == "notes":
                raise ValueError(f"client {client.name}: notes come in through data.canaries")
        return self
