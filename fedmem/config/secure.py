"""Secure aggregation: what all clients of a round agree on before it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from fedmem.config.defences import GaussianNoise
from fedmem.config.section import Section
from fedmem.secagg.graph import Plan, plan, share_of

if TYPE_CHECKING:
    from fedmem.config import Config


TAIL = 7.0  # standard deviations that a Gaussian number hardly ever exceeds: 3e-12


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
    return len(config.present) if chosen == "all" else chosen


def plan_of(config: Config, clients: int) -> Plan:
    """The plan of a round; distributed client-level DP may ask for more survivors.

    Raises ValueError where there is none.
    """
    found = config.aggregation.secure.plan(clients)
    dp = config.client_dp
    least = 0
    if dp and dp.honest:
        # a client takes its own noise off, and so do all that collude
        curious = max(1, share_of(config.aggregation.secure.corrupted, clients))
        least = dp.honest + curious
        if least > clients:
            raise ValueError(
                f"{clients} clients a round, and client_dp counts on {dp.honest} honest ones "
                f"beside {curious} that may collude (corrupted)"
            )
    return replace(found, survivors=max(found.survivors, least))


def problem_with(config: Config) -> str | None:
    """What makes secure aggregation unfit for the rest of the config, or None."""
    secure = config.aggregation.secure
    if not secure.enabled:
        given = sorted(secure.model_fields_set - {"enabled"})
        changed = [k for k in given if getattr(secure, k) != Secure.model_fields[k].default]
        return f"{changed[0]}: without enabled=true it does nothing" if changed else None
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
    clients_add = [
        d for d in config.defences if isinstance(d, GaussianNoise) and d.at != "aggregate"
    ]
    reach = [TAIL * d.sigma for d in clients_add]
    dp = config.client_dp
    if dp and dp.honest and dp.noise_multiplier:
        reach.append(dp.norm * (1 + TAIL * dp.noise_multiplier / dp.honest**0.5))
    if reach and max(reach) > secure.range:
        return (
            f"range: {secure.range:g}, and noise that the clients add goes beyond it; "
            f"take {1.1 * max(reach):.2g} or more"
        )
    return None
