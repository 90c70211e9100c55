"""The auditor's turn in a round: the scoring pass over all canaries and twins, graded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedmem.attacks import own_prefix, true_prefix
from fedmem.attacks.scoring import TIES, score
from fedmem.attacks.views import ClientView, OwnPrefix
from fedmem.config import Attack, Config
from fedmem.data.records import Canary

# knowledge that a client has by itself -> (guess, grade)
CLIENT_ATTACKS = {"own_prefix": (own_prefix.guess, own_prefix.grade)}


def audit(
    model: Any,
    canaries: Sequence[Canary],
    config: Config,
    round_: int,
    name: str,
    bos: int = 1,
) -> list[dict[str, Any]]:
    """Rows of the true-prefix bound against one model; the scoring is shared by all attackers.

    bos: 0 for a tokenizer without BOS, else 1.
    """
    if "true_prefix" not in config.attack.knowledge or not canaries:
        return []
    rows = bound(model, canaries, config.attack, config.seed, bos)
    return [{"round": round_, "model": name, "view": "client", **row} for row in rows]


def bound(
    model: Any, canaries: Sequence[Canary], attack: Attack, seed: int, bos: int
) -> list[dict[str, Any]]:
    """The true-prefix rows of one model, without round, model and view."""
    rows = true_prefix.whole_notes(canaries, score(model, [c.ids for c in canaries]), bos)
    cuts = [true_prefix.cut(canary, attack, seed, bos) for canary in canaries]
    return rows + true_prefix.windows(model, [c for c in cuts if c is not None], attack)


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


def ties(rows: Sequence[dict[str, Any]], dtype: str = "float32") -> int:
    """Rows whose verdict hangs on so small a logit gap that another kernel may decide otherwise."""
    return sum(
        row.get("margin") is not None
        and abs(row["margin"]) < TIES[dtype]
        and row["attack"] != "loss"
        for row in rows
    )
