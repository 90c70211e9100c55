"""Secure aggregation: what all clients of a round agree on before it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from fedmem.config.section import Section
from fedmem.secagg.graph import Plan, plan

if TYPE_CHECKING:
    from fedmem.config import Config


class Secure(Section):
    """The server learns sums over a round's clients, and no client's own update.

    `range`: the largest magnitude of a number of an update; a client beyond it ends the run. The
    largest update should be a hundredth of it or more, for a mean within 1e-6 of the plain one.
    `corrupted`, `lost`: shares of a round's clients that may collude with the server, and that may
    get lost; `neighbours` and `threshold` (holders that open a secret) follow from them, unless
    given. `metrics`: clients' figures of training as sums over all (`aggregated`), or none.
    """

    enabled: bool = False
    range: float = Field(1.0, gt=0, le=1e6)
    threshold: int | None = Field(None, ge=2)
    neighbours: Literal["auto"] | Annotated[int, Field(ge=2)] = "auto"
    corrupted: float = Field(0.34, ge=0, lt=1)
    lost: float = Field(0.1, ge=0, lt=1)
    max_examples: int | None = Field(
        None, ge=1, lt=2**31, description="a client's most; null: the largest shard's (simulation)"
    )
    metrics: Literal["aggregated", "withheld"] = "aggregated"

    def plan(self, clients: int) -> Plan:
        """For a round of so many clients. Raises ValueError where there is none."""
        k = None if self.neighbours == "auto" else self.neighbours
        return plan(clients, k, self.threshold, self.corrupted, self.lost)


def clients_a_round(config: Config) -> int:
    """How many clients a round begins with."""
    chosen = config.rounds.clients_per_round
    return len(config.data.clients) if chosen == "all" else chosen


def plan_of(config: Config, clients: int) -> Plan:
    """The plan of a round; distributed client-level DP may ask for more survivors.

    Raises ValueError where there is none.
    """
    found = config.aggregation.secure.plan(clients)
    dp = config.client_dp
    least = dp.honest if dp and dp.honest else 0
    if least > clients:
        raise ValueError(f"{clients} clients a round, and client_dp counts on {least} honest ones")
    return replace(found, survivors=max(found.survivors, least))


def problem_with(config: Config) -> str | None:
    """What makes secure aggregation unfit for the rest of the config, or None."""
    if not config.aggregation.secure.enabled:
        return None
    if config.rounds.topology != "federated":
        return f"needs updates to sum, and rounds.topology is {config.rounds.topology}"
    if config.rounds.client_sampling == "poisson":
        return (
            "needs a known number of clients a round, and rounds.client_sampling=poisson may draw "
            "too few to hide in a sum; take `fixed`, or switch secure aggregation off"
        )
    if any(client.name == "all" for client in config.data.clients):
        return "has its figures of all clients under `all`; call client `all` otherwise"
    try:
        plan_of(config, clients_a_round(config))
    except ValueError as error:
        return str(error)
    return None
