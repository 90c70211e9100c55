"""What a defence claims to protect, in words and figures a report can show: never more than holds.

An epsilon is worth nothing without its unit, adjacency, delta and whom one must trust; noise that
gives no differential privacy says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

NO_DP = "no DP guarantee"


@dataclass(frozen=True)
class Claim:
    """One row of the report's panel "what protects whom".

    `what` is the defence's name, `where` it acts, `protects` whom from whom, `trust` whom one must
    trust for it. `guarantee` is NO_DP unless there is one. With an `epsilon` (accounted by PLD or
    PRV; `epsilon_rdp` beside it as a cross-check) go `delta`, `unit` (record, patient, client),
    `adjacency` and `sampling`. `figures`: sigma, signal-to-noise ratio, share clipped, by name.
    """

    what: str
    where: str
    protects: str
    trust: str
    guarantee: str = NO_DP
    epsilon: float | None = None
    epsilon_rdp: float | None = None
    delta: float | None = None
    unit: str | None = None
    adjacency: str | None = None
    sampling: str | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        told = (self.epsilon, self.delta, self.unit, self.adjacency, self.sampling)
        if self.epsilon is not None and None in told:
            raise ValueError(f"{self.what}: an epsilon needs delta, unit, adjacency and sampling")
        if (self.epsilon is None) != (self.guarantee == NO_DP) and self.epsilon is not None:
            raise ValueError(f"{self.what}: an epsilon, and says {NO_DP!r}")


@dataclass(frozen=True)
class History:
    """What a run did, for its claims: of finished rounds, in order.

    `train`: each round's metrics by client (under secure aggregation of "all" alone); `server`:
    each round's figures of the server's own side.
    """

    clients: tuple[str, ...]
    participants: tuple[tuple[str, ...], ...]
    train: tuple[Mapping[str, Mapping[str, float]], ...]
    server: tuple[Mapping[str, float], ...]

    def mean(self, name: str) -> float | None:
        """The mean of a figure over all rounds and whoever told it; None where nobody did."""
        told = [m[name] for round_ in self.train for m in round_.values() if name in m]
        told += [m[name] for m in self.server if name in m]
        return sum(told) / len(told) if told else None
