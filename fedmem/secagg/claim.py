"""What secure aggregation claims: it hides single updates from the server, and from nobody else."""

from __future__ import annotations

from fedmem.claims import Claim, History
from fedmem.config import Config
from fedmem.config.secure import clients_a_round, plan_of
from fedmem.secagg import TRUST

METRICS = {
    "aggregated": "clients' figures of training reach the server as sums over all",
    "withheld": "clients' figures of training stay with them",
}


def claim(config: Config, history: History) -> Claim:
    """No differential privacy: a sum, and the model made of it, can still give records away.

    Raises ValueError where the config has no plan for a round's clients.
    """
    plan = plan_of(config, clients_a_round(config))
    neighbours = plan.neighbours
    kept = "every other one" if neighbours == plan.clients - 1 else f"{neighbours} others"
    return Claim(
        what="secure aggregation",
        where=f"between clients and server: each client's update is masked with {kept}; the server "
        "adds up, and opens the sum alone",
        protects="each client's single update from the server, which sees sums over "
        f"{plan.survivors} clients or more; the models made of them are hidden from nobody, and "
        "the other clients see every one",
        trust=TRUST,
        figures={
            "clients_a_round": float(plan.clients),
            "clients_in_a_sum_at_least": float(plan.survivors),
            "shares_to_open_a_secret": float(plan.threshold),
        },
        notes=(
            "one round at a time: what the sums of many rounds tell together is not bounded",
            METRICS[config.aggregation.secure.metrics],
        ),
    )
