"""The whole config tree: what a run is, in one frozen object.

Loading: `load_config(path, ["training.lr=1e-3", ...])`. Unknown keys are refused with a suggestion.
YAML reads `1e-3` as text; numbers given as text are coerced by pydantic.
"""

from __future__ import annotations

from collections import Counter
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,39}$"
HUB_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$"
COMMIT = r"^[0-9a-f]{40}$"


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
    """The shared base: `bundled`, a local folder, or a name on the Hugging Face hub.

    `dtype`, method lora: the frozen base is held in it, the adapters stay float32. Method full: the
    weights stay float32 and the forward pass runs under torch.autocast. float16 scales the loss.
    """

    base: str = "bundled"
    revision: str | None = Field(
        None, pattern=COMMIT, description="hub names: the commit's hash, 40 hex digits"
    )
    method: Literal["lora", "full"] = "lora"
    lora: Lora = Lora()
    adapter: Path | None = Field(
        None, description="a PEFT LoRA adapter's folder: the weights of round 0"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    gradient_checkpointing: bool = Field(
        False, description="compute activations twice instead of keeping them: slower, less memory"
    )

    @model_validator(mode="after")
    def _adapter_needs_lora(self) -> Model:
        if self.adapter is not None and self.method == "full":
            raise ValueError("adapter: method full trains no adapter; set method to lora")
        return self


# --- data ----------------------------------------------------------------------------------


Adapter = Literal["medmcqa", "medqa", "mmlu", "pubmedqa", "medical_meadow", "generic", "notes"]


class StoredSource(Section):
    """Records that people have. `adapter`: their columns, as on the Hugging Face hub."""

    adapter: Adapter
    prompt: str = Field("prompt", description="generic: the column with the prompt")
    completion: str = Field("completion", description="generic: the column with the answer")
    id: str | None = Field(None, description="column with a record's id; default: `id` if present")
    patient: str | None = Field(
        None, description="column with a record's patient; default: none (notes: `patient`)"
    )


class LocalSource(StoredSource):
    """Records in a file or folder; a relative path starts at `data.root`."""

    path: Path


class JsonlSource(LocalSource):
    """One JSON object a line."""

    kind: Literal["jsonl"]


class CsvSource(LocalSource):
    """A header row and one record a row; lists and mappings stand in their cells as JSON."""

    kind: Literal["csv"]
    delimiter: str = Field(",", pattern=r'^[^"\r\n]$', description="one character")


class ParquetSource(LocalSource):
    """One Parquet file."""

    kind: Literal["parquet"]


class DiskSource(LocalSource):
    """A folder written by `save_to_disk` of Hugging Face datasets."""

    kind: Literal["disk"]
    split: str | None = Field(None, description="which split, where the folder holds several")


class HubSource(StoredSource):
    """A dataset of the Hugging Face hub, at one commit: the same records for everybody."""

    kind: Literal["hub"]
    path: str = Field(pattern=HUB_NAME, description="such as qiaojin/PubMedQA")
    name: str | None = Field(None, description="the dataset's configuration, such as pqa_labeled")
    data_dir: str | None = Field(
        None, description="folder in its repository, such as a configuration of a Parquet twin"
    )
    split: str = "train"
    revision: str = Field(pattern=COMMIT, description="the commit's hash")


class I2b2Source(LocalSource):
    """A folder of i2b2/n2c2 2014 de-identification XML files, PATIENT-NN.xml."""

    kind: Literal["i2b2_xml"]
    adapter: Literal["notes"] = "notes"


class SyntheticSource(Section):
    """Records rendered from the built-in medical knowledge base; the same bytes from a seed."""

    kind: Literal["synthetic"]
    adapter: Literal["mcq", "closed", "flashcards", "mixed", "notes"]
    records: int = Field(200, ge=1, le=100_000)


Source = Annotated[
    JsonlSource | CsvSource | ParquetSource | DiskSource | HubSource | I2b2Source | SyntheticSource,
    Field(discriminator="kind"),
]


class IidSplit(Section):
    """Records dealt at random, as many to each client."""

    kind: Literal["iid"]
    clients: int = Field(ge=1, le=10_000)


class SizeSplit(Section):
    """Records dealt at random, to each client its share of them."""

    kind: Literal["size"]
    shares: list[Annotated[float, Field(gt=0)]] = Field(min_length=1, max_length=10_000)

    @property
    def clients(self) -> int:
        return len(self.shares)


class DirichletSplit(Section):
    """Label skew: of each value of `column`, the clients' shares are drawn from Dirichlet(alpha).

    Small alpha: a value's records stand at few clients; large: evenly at all. As Yurochkin et al.
    2019 (arXiv 1905.12022), after Hsu et al. 2019 (arXiv 1909.06335).
    """

    kind: Literal["dirichlet"]
    clients: int = Field(ge=1, le=10_000)
    column: str
    alpha: float = Field(gt=0, le=1e6)


class NaturalSplit(Section):
    """Each value of `column`, such as a hospital or a patient, stands whole at one client."""

    kind: Literal["natural"]
    clients: int = Field(ge=1, le=10_000)
    column: str


Split = Annotated[IidSplit | SizeSplit | DirichletSplit | NaturalSplit, Field(discriminator="kind")]


class Part(Section):
    """Which part of its source a client holds: number `index`, from 1, of a split."""

    index: int = Field(ge=1)
    split: Split

    @model_validator(mode="after")
    def _one_of_them(self) -> Part:
        if self.index > self.split.clients:
            raise ValueError(f"index: {self.index}, of {self.split.clients} parts")
        return self


class Client(Section):
    """One hospital: its name, its records, and what it does differently from `training`.

    With `split` an entry stands for several, NAME-1, NAME-2, ...: in the resolved config each of
    them is an entry with its `part`.
    """

    name: str = Field(pattern=NAME)
    source: Source
    split: Split | None = Field(None, description="share the source out over several clients")
    part: Part | None = Field(None, description="written by `split`")
    lr: float | None = Field(None, gt=0, description="this client's learning rate")
    max_records: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _can_be_split(self) -> Client:
        if self.split and self.part:
            raise ValueError("give split or part, not both")
        if self.part and isinstance(self.source, SyntheticSource):
            raise ValueError("part: synthetic records are made for each client by its name")
        if self.split:
            if len(f"{self.name}-{self.split.clients}") > 40:
                raise ValueError(f"name: too long to be followed by -{self.split.clients}")
            if isinstance(self.source, SyntheticSource):
                if isinstance(self.split, DirichletSplit | NaturalSplit):
                    raise ValueError("split: synthetic records have no columns; use iid or size")
                if 0 in _synthetic_parts(self.source.records, self.split):
                    raise ValueError(
                        f"split: {self.source.records} records for {self.split.clients} clients"
                    )
        return self

    def expanded(self) -> list[Client]:
        """The clients that this entry stands for."""
        if self.split is None:
            return [self]
        numbers = range(1, self.split.clients + 1)
        if isinstance(self.source, SyntheticSource):
            counts = _synthetic_parts(self.source.records, self.split)
            sources = [self.source.model_copy(update={"records": count}) for count in counts]
            own: list[dict[str, Any]] = [{"source": source} for source in sources]
        else:
            own = [{"part": Part(index=number, split=self.split)} for number in numbers]
        return [
            self.model_copy(update={"name": f"{self.name}-{number}", "split": None, **differing})
            for number, differing in zip(numbers, own, strict=True)
        ]


def _synthetic_parts(records: int, split: Split) -> list[int]:
    """How many of `records` each part makes for itself."""
    shares = split.shares if isinstance(split, SizeSplit) else [1.0] * split.clients
    ends = [round(records * upto / sum(shares)) for upto in accumulate(shares, initial=0.0)]
    return [after - before for before, after in pairwise(ends)]


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
    cache: Path | None = Field(
        None, description="folder of token ids; default: $FEDMEM_CACHE, or in ~/.cache"
    )

    @field_validator("clients")
    @classmethod
    def _split(cls, clients: list[Client]) -> list[Client]:
        return [client for entry in clients for client in entry.expanded()]

    @model_validator(mode="after")
    def _names_differ(self) -> Data:
        for name, count in Counter(client.name for client in self.clients).items():
            if count > 1:
                raise ValueError(f"clients: the name {name!r} stands twice")
            if name in {"all", "global"}:
                raise ValueError(f"clients: the name {name!r} is taken by fedmem itself")
        return self

    @model_validator(mode="after")
    def _each_part_once(self) -> Data:
        first: dict[Any, Client] = {}
        indexes: set[tuple[str, int]] = set()
        for client in self.clients:
            other = first.setdefault(client.source, client)
            ours, theirs = client.part, other.part
            if (ours and ours.split) != (theirs and theirs.split):
                if not isinstance(client.source, SyntheticSource):
                    raise ValueError(
                        f"clients: {other.name} and {client.name} split one source in two ways"
                    )
            elif ours and (other.name, ours.index) in indexes:
                raise ValueError(f"clients: part {ours.index} of a source stands twice")
            elif ours:
                indexes.add((other.name, ours.index))
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
