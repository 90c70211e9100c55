"""The auditor's turn in a round: the scoring pass over all canaries and twins, graded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from fedmem.attacks import (
    candidates,
    neighbourhood,
    own_prefix,
    paper_compat,
    recall,
    repurpose,
    sampling,
    templates,
    true_prefix,
)
from fedmem.attacks.candidates import Lists
from fedmem.attacks.rows import token_row
from fedmem.attacks.sampling import Budget
from fedmem.attacks.scoring import TIES, score
from fedmem.attacks.views import ClientView, OwnPrefix
from fedmem.config import Attack, Config
from fedmem.data.encoding import Ids
from fedmem.data.records import Canary


def _own_prefixes(attack: Attack, seed: int) -> OwnPrefix:
    return OwnPrefix(attack.own_prefixes, attack.continuation, seed)


# knowledge that a client has by itself -> (what it is granted, guess, grade)
CLIENT_ATTACKS: dict[str, tuple[Any, Any, Any]] = {
    "own_prefix": (_own_prefixes, own_prefix.guess, own_prefix.grade),
    "template": (Budget.of, templates.guess, templates.grade),
    "none": (Budget.of, sampling.guess, sampling.grade),
}


class Audit(NamedTuple):
    """Rows of scores.parquet and of tokens.parquet."""

    scores: list[dict[str, Any]]
    tokens: list[dict[str, Any]]


def audit(
    model: Any,
    canaries: Sequence[Canary],
    config: Config,
    round_: int,
    name: str,
    bos: int = 1,
    prefix: Ids | None = None,
    lists: Lists | None = None,
    tokenizer: Any = None,
) -> Audit:
    """Rows of the true-prefix bound against one model; the scoring is shared by all attackers.

    bos: 0 for a tokenizer without BOS, else 1. prefix: ReCaLL's, where it is asked for. lists: of
    candidates, where true values are to be ranked among them. tokenizer: for paper_compat alone.
    """
    if "true_prefix" not in config.attack.knowledge or not canaries:
        return Audit([], [])
    found = bound(model, canaries, config.attack, config.seed, bos, prefix, lists, tokenizer)
    head = {"round": round_, "model": name}
    scores = [{**head, "view": "client", **row} for row in found.scores]
    return Audit(scores, [{**head, **row} for row in found.tokens])


def bound(
    model: Any,
    canaries: Sequence[Canary],
    attack: Attack,
    seed: int,
    bos: int,
    prefix: Ids | None = None,
    lists: Lists | None = None,
    tokenizer: Any = None,
) -> Audit:
    """The true-prefix rows of one model, without round, model and view."""
    scored = score(model, [c.ids for c in canaries], attack.sampling)
    rows = true_prefix.whole_notes(canaries, scored, bos)
    cuts = [true_prefix.cut(canary, attack, seed, bos) for canary in canaries]
    rows += true_prefix.windows(model, [c for c in cuts if c is not None], attack)
    if attack.paper_compat:
        rows += paper_compat.rows(model, tokenizer, cuts, attack)
    if lists is not None:
        ranked = candidates.rank(model, canaries, lists)
        for row in rows:
            if row["attack"] == "phi":
                row |= ranked.get((row["canary"], row["target"]), {})
    tokens = [token_row(c, one) for c, one in zip(canaries, scored, strict=True)]
    if "recall" in attack.membership:
        assert prefix is not None
        _put(tokens, "recall", recall.behind(model, canaries, prefix, bos))
    if "neighbourhood" in attack.membership:
        found = neighbourhood.around(model, canaries, attack.neighbours, seed, bos)
        _put(tokens, "neighbours", found)
    return Audit(rows, tokens)


def _put(rows: list[dict[str, Any]], name: str, values: Sequence[float | None]) -> None:
    for row, value in zip(rows, values, strict=True):
        row[name] = value


def attack_as(
    view: ClientView, canaries: Sequence[Canary], config: Config, name: str
) -> list[dict[str, Any]]:
    """Rows of every attack that the client can make by itself, graded against the secrets."""
    rows = []
    for knowledge, (grant, guess, grade) in CLIENT_ATTACKS.items():
        if knowledge in config.attack.knowledge:
            granted = grant(config.attack, config.seed)
            rows += grade(guess(view, granted), view, canaries)
    tuned = config.attack.repurpose
    if tuned and (tuned.rounds == "all" or view.round == config.rounds.count):
        rows += repurpose.attack(view, canaries, tuned, config.seed)
    return [{"round": view.round, "model": name, "view": "client", **row} for row in rows]


def ties(rows: Sequence[dict[str, Any]], dtype: str = "float32") -> int:
    """Rows whose verdict hangs on so small a logit gap that another kernel may decide otherwise."""
    return sum(
        row.get("margin") is not None
        and abs(row["margin"]) < TIES[dtype]
        and row["attack"] != "loss"
        for row in rows
    )
