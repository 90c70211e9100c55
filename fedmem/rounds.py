"""A finished round, as an engine hands it over, and when a round's measuring is due."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fedmem.config import Config
from fedmem.model.state import Arrays


@dataclass(frozen=True)
class Round:
    """Round `number`; 0 is the untouched base.

    `models`: the models after the round, by name: "global", or every client's under topology
    `local`. `participants` in order of partition id. `train`: metrics by client, empty in round 0.
    `scores`: one item for each observer with rows. `told`: in deployment, what each node says of
    its own canaries and held-out questions; elsewhere empty. `seconds`: train, aggregate, attack.
    `losses`: workers that were lost and replaced. `server`: figures of the server's defences, and
    `defences` what they keep for the next round. `lost`: under secure aggregation, clients that got
    lost on the way, with the stage (`at`); the update of one lost at `unmask` is in the model.
    `watched`: rows of server.parquet, from the curious server's view.
    """

    number: int
    models: dict[str, Arrays]
    participants: list[str]
    train: dict[str, dict[str, float]]
    scores: list[bytes]
    seconds: dict[str, float]
    told: list[dict[str, bytes]] = field(default_factory=list)
    losses: list[dict[str, Any]] = field(default_factory=list)
    server: dict[str, float] = field(default_factory=dict)
    defences: dict[str, dict[str, float]] = field(default_factory=dict)
    lost: list[dict[str, str]] = field(default_factory=list)
    watched: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Start:
    """Where a run is taken up again: the last finished round, its models by name, what the server's
    defences kept, and under DP-SGD in which rounds each client has trained."""

    number: int
    models: dict[str, Arrays]
    defences: dict[str, dict[str, float]] = field(default_factory=dict)
    trained: dict[str, list[int]] = field(default_factory=dict)


OnRound = Callable[[Round], None]


def attack_due(config: Config, number: int) -> bool:
    """Whether the model is attacked after this round: every n-th, and the last."""
    return number % config.attack.every == 0 or number == config.rounds.count


def utility_due(config: Config, number: int) -> bool:
    """Whether held-out questions are asked after this round: every n-th, and the last."""
    return number % config.utility.every == 0 or number == config.rounds.count
