"""`data`: clients and what each holds, canaries, held-out records."""

from __future__ import annotations

from collections import Counter
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from fedmem.config.section import NAME, Section
from fedmem.config.sources import Source, SyntheticSource


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
    disjoint: bool = Field(
        True,
        description="no two notes share a patient, a value that identifies or much text; false: "
        "any notes, but of a twin's patient no other is written",
    )
    long: Literal["window", "error", "skip"] = "window"
    fill_phi: bool = Field(True, description="fill tagged PHI into notes that have none")
    shadow: int | None = Field(
        None, ge=0, description="write a random half of canaries and twins; see `fedmem shadows`"
    )

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
