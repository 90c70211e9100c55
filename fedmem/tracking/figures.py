"""A round's figures by name, as trackers plot them: losses, utility, shares of notes, seconds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fedmem.metrics.leakage import note_shares, passes
from fedmem.metrics.outcomes import Columns, collect, read_canaries
from fedmem.rounds import Round


def training(done: Round) -> dict[str, float]:
    """Mean loss of each client's training; under secure aggregation of all together, or none."""
    losses = {name: metrics.get("loss") for name, metrics in done.train.items()}
    return {f"train_loss/{name}": loss for name, loss in losses.items() if loss is not None}


def utility(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """NLL and accuracy by task; under topology `local` by model, too."""
    found = {}
    for row in rows:
        name = row["task"] if row["model"] == "global" else f"{row['task']}/{row['model']}"
        found[f"nll/{name}"] = row["nll"]
        if row["accuracy"] is not None:
            found[f"accuracy/{name}"] = row["accuracy"]
    return found


def leakage(
    scores: Columns, plan: Columns, participants: list[str], round_: int, bleu: float, tokens: int
) -> dict[str, float]:
    """Share of notes given back, by knowledge, attack and copies; `twins` are the chance level.

    `scores`: the round's rows. `tokens`: how long a run of tokens counts. Attackers are joined.
    """
    canaries = read_canaries(plan)
    took_part = {round_: participants} if round_ else {}
    found = passes(collect(scores, canaries, bleu), canaries, took_part)
    return {
        f"leak_{row['knowledge']}/{row['attack']}/{_level(row['copies'])}": row["rate"]
        for row in note_shares(found, canaries, tokens)
        if row["prefix"] is None and row["attacker"] in ("*", "any")
    }


def _level(copies: int) -> str:
    return f"{copies}x" if copies else "twins"


def seconds(done: Round, total: float) -> dict[str, float]:
    """Wall-clock time by stage, and of the whole round."""
    stages = {f"seconds/{stage}": value for stage, value in done.seconds.items()}
    return {**stages, "seconds/round": total}
