"""The auditor's turn in a round: the scoring pass over all canaries and twins, graded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedmem.attacks import own_prefix, true_prefix
from fedmem.attacks.scoring import TIE, score
from fedmem.attacks.views import ClientView, OwnPrefix
from fedmem.config import Config
from fedmem.data.records import Canary

# knowledge that a client has by itself -> (guess, grade)
CLIENT_ATTACKS = {"own_prefix": (own_prefix.guess, own_prefix.grade)}


def audit(
    model: Any, canaries: Sequence[Canary], config: Config, round_: int, name: str
) -> list[dict[str, Any]]:
    """Rows of the true-prefix bound against one model; the scoring is shared by all attackers."""
    if "true_prefix" not in config.attack.knowledge or not canaries:
        return []
    rows = true_prefix.whole_notes(canaries, score(model, [c.ids for c in canaries]))
    cuts = [true_prefix.cut(canary, config.attack, config.seed) for canary in canaries]
    rows += true_prefix.windows(model, [c for c in cuts if c is not None], config.attack)
    return [{"round": round_, "model": name, "view": "client", **row} for row in rows]


def attack_as(
    view: ClientView, canaries: Sequence[Canary], config: Config, name: str
) -> list[dict[str, Any]]:
    """Rows of every attack that the client can make by itself, graded against the secrets."""
    rows = []
    for knowledge, (guess, grade) in CLIENT_ATTACKS.items():
        if knowledge in config.attack.knowledge:
            granted = OwnPrefix(config.attack.own_prefixes, config.attack.continuation, config.seed)
            rows += grade(guess(view, granted), view, canaries)
    return [{"round": view.round, "model": name, "view": "client", **row} for row in rows]


def ties(rows: Sequence[dict[str, Any]]) -> int:
    """Rows whose verdict hangs on a logit gap below `TIE`: another kernel may decide otherwise."""
    return sum(
        row.get("margin") is not None and abs(row["margin"]) < TIE and row["attack"] != "loss"
        for row in rows
    )
