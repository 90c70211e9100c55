"""The whole config tree: what a run is, in one frozen object.

Loading: `load_config(path, ["training.lr=1e-3", ...])`. Unknown keys are refused with a suggestion.
YAML reads `1e-3` as text; numbers given as text are coerced by pydantic.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from fedmem.config.attack import FREE, Discoverable, Drawing, Membership, Repurpose, Sampling
from fedmem.config.audit import Audit, problem_with_server_view
from fedmem.config.data import Data
from fedmem.config.defences import ClientDP, Defence, problem_with
from fedmem.config.dp import DPSGD
from fedmem.config.dp import problem_with as problem_with_dp
from fedmem.config.model import Model
from fedmem.config.objectives import CausalLM, Objective
from fedmem.config.section import NAME, Section
from fedmem.config.secure import Secure
from fedmem.config.secure import problem_with as problem_with_secure

# --- rounds and training -------------------------------------------------------------------


class Rounds(Section):
    """Federated rounds. `topology` pools all shards (centralized) or never averages (local)."""

    count: int = Field(5, ge=1, le=10_000)
    local_epochs: int | None = Field(None, ge=1)
    local_steps: int | None = Field(None, ge=1)
    clients_per_round: Literal["all"] | Annotated[int, Field(ge=1)] = "all"
    client_sampling: Literal["fixed", "poisson"] = Field(
        "fixed", description="poisson: each client by its own coin; clients_per_round is the mean"
    )
    topology: Literal["federated", "centralized", "local"] = "federated"
    left_out: list[str] = Field([], description="clients that never take part, all else equal")

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
    objective: Objective = CausalLM()
    neftune: float | None = Field(
        None, gt=0, le=1000, description="alpha of NEFTune's noise on the embeddings (Jain 2023)"
    )
    dp: DPSGD | None = None

    @field_validator("neftune", mode="before")
    @classmethod
    def _no_switch(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError("neftune is a number, such as 5, or null")
        return value


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
    secure: Secure = Secure()


# --- attack, utility, privacy, engine ------------------------------------------------------


class Attack(Section):
    """What the honest-but-curious client tries, from its own view, with which knowledge."""

    views: list[Literal["client", "public", "server"]] = Field(["client"], min_length=1)
    knowledge: list[Literal["true_prefix", "own_prefix", "template", "none"]] = [
        "true_prefix",
        "own_prefix",
    ]
    attackers: Literal["all"] | list[str] = "all"
    every: int = Field(1, ge=1, description="attack after every n-th round, and after the last")
    prefix_lengths: list[Annotated[int, Field(ge=1)]] = [10, 50, 100, 200, 500]
    continuation: int = Field(50, ge=1, description="tokens that an exact match must give back")
    bleu: float = Field(0.75, gt=0, le=1, description="token BLEU-4 of an approximate match")
    rouge_l: float = Field(0.8, gt=0, le=1, description="ROUGE-L over tokens of such a match")
    edit: float = Field(0.1, ge=0, lt=1, description="edit distance of such a match, a token")
    own_prefixes: int = Field(16, ge=1, description="own_prefix: prompts a client spends a round")
    queries: int = Field(64, ge=1, description="template, none: texts a client draws a round")
    drawing: Drawing = Drawing()
    candidates: int = Field(
        10, ge=0, le=100_000, description="values that a true one is ranked among; 0: no ranking"
    )
    candidates_at: Literal["ends", "all"] = Field(
        "ends", description="ends: at the untouched base and the last round, for the price"
    )
    repurpose: Repurpose | None = None
    discoverable: Discoverable = Discoverable()
    audit: Audit | None = Field(None, description="one-run audit on coin-flip canaries of its own")
    sampling: list[Sampling] = Field(
        [Sampling(top_k=40)], max_length=16, description="grid for (n,p)-discoverable extraction"
    )
    membership: list[Membership] = list(FREE)
    recall_tokens: int = Field(256, ge=8, description="recall: length of the non-member prefix")
    neighbours: int = Field(10, ge=1, le=1000, description="neighbourhood: of each note, one pass")
    paper_compat: bool = Field(
        False, description="also score as the paper's released code does, quirks and all"
    )

    @model_validator(mode="after")
    def _compat_needs_the_text(self) -> Attack:
        if self.paper_compat and "true_prefix" not in self.knowledge:
            raise ValueError("paper_compat: needs true_prefix in knowledge")
        return self

    @property
    def reach(self) -> int:
        """Tokens read besides a note: what is decoded behind it, or ReCaLL's prefix before it."""
        before = self.recall_tokens if "recall" in self.membership else 0
        draws = {"template", "none"} & set(self.knowledge) or "public" in self.views
        drawn = self.drawing.tokens if draws else 0
        return max(self.continuation, before, drawn)


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
    defences: list[Defence] = []
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
        if problem := problem_with_left_out(self):
            raise ValueError(f"rounds.left_out: {problem}")
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
        if n == "all" and self.rounds.client_sampling == "poisson":
            raise ValueError("rounds.client_sampling: poisson needs a number in clients_per_round")
        if problem := problem_with(self.defences, self):
            raise ValueError(f"defences: {problem}")
        if problem := problem_with_dp(self):
            raise ValueError(f"training.dp: {problem}")
        if problem := problem_with_secure(self):
            raise ValueError(f"aggregation.secure: {problem}")
        if self.attack.audit and self.engine.kind == "deployment":
            raise ValueError("attack.audit: needs a simulation; the auditor holds all coins")
        if "public" in self.attack.views and self.engine.kind == "deployment":
            raise ValueError("attack.views: public needs a simulation, where notes can be graded")
        if "server" in self.attack.views and (problem := problem_with_server_view(self)):
            raise ValueError(f"attack.views: server {problem}")
        if self.data.canaries.source.adapter != "notes":
            raise ValueError("data.canaries.source.adapter: must be `notes`")
        for client in self.data.clients:
            if client.source.adapter == "notes":
                raise ValueError(f"client {client.name}: notes come in through data.canaries")
        return self

    @property
    def present(self) -> list[str]:
        """The clients that may take part, in order of partition id."""
        absent = self.rounds.left_out
        return [client.name for client in self.data.clients if client.name not in absent]

    @property
    def client_dp(self) -> ClientDP | None:
        """The settings of client-level DP, where it is switched on."""
        return next((d for d in self.defences if isinstance(d, ClientDP)), None)

    @property
    def sends_updates(self) -> bool:
        """Whether clients send what changed, and not the trained arrays themselves."""
        return bool(self.defences) or self.aggregation.secure.enabled


def problem_with_left_out(config: Config) -> str | None:
    """What speaks against `rounds.left_out`; None if nothing does."""
    absent, per_round = config.rounds.left_out, config.rounds.clients_per_round
    if not absent:
        return None
    known = [client.name for client in config.data.clients]
    for name in absent:
        if name not in known:
            return f"no client is called {name!r}"
    if not config.present:
        return "nobody is left to train"
    if isinstance(per_round, int) and per_round > len(config.present):
        return f"{len(config.present)} clients are left, rounds.clients_per_round is {per_round}"
    if config.rounds.topology != "federated":
        return f"needs rounds.topology federated, not {config.rounds.topology}"
    if config.engine.kind == "deployment":
        return "needs a simulation; deployed, do not start the client's node"
    if config.client_dp:
        return "client-level DP is accounted for all clients of data.clients; take it out there"
    return None
