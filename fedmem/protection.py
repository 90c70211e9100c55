"""What protects whom in a run: every claim of its defences, and what stays open beside them.

The rows go into privacy.json and summary.json, and from there to the report and the model card. A
row shows an epsilon only where the claim holds one that is finite; anything else says that there
is no DP guarantee.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from fedmem.claims import NO_DP, Claim, History
from fedmem.config import Config
from fedmem.defences import Chain
from fedmem.secagg import claim as secagg
from fedmem.training import claims as training
from fedmem.training import dp_claims

SCHEMA = 1


def history(config: Config, metrics: Iterable[Mapping[str, Any]]) -> History:
    """What a run did, from its config and the lines of its metrics.jsonl (round 0 left out)."""
    rows = [row for row in metrics if row["round"]]
    return History(
        clients=tuple(client.name for client in config.data.clients),
        participants=tuple(tuple(row["participants"]) for row in rows),
        train=tuple(row.get("train") or {} for row in rows),
        server=tuple(row.get("server") or {} for row in rows),
    )


def claims(config: Config, history: History) -> list[Claim]:
    """All that a run's training and defences claim, in the order in which they act.

    Settings of training that bear on memorization are among them, in a run without defences too.
    Measured figures (norms, shares clipped, signal to noise: means over clients and rounds) go
    with the claim of the defence that told them.
    """
    found = [] if config.training.dp is None else [dp_claims.claim(config, history)]
    found += training.claims(config, history)
    for label, part in Chain(config).parts.items():
        claim = part.claim(history)
        found.append(replace(claim, figures=measured(history, label) | dict(claim.figures)))
    if config.aggregation.secure.enabled:
        found.append(secagg.claim(config, history))
    return found + training.usual(config, history)


def measured(history: History, label: str) -> dict[str, float]:
    """The means of all figures that are told as `label.name`."""
    told = [*history.server, *(m for round_ in history.train for m in round_.values())]
    names = sorted({name for figures in told for name in figures if name.startswith(f"{label}.")})
    means = {name.removeprefix(f"{label}."): history.mean(name) for name in names}
    return {name: value for name, value in means.items() if value is not None}


def defended(config: Config) -> bool:
    """Whether anything is switched on that is a defence, and not how every run is trained."""
    t = config.training
    trained = t.dp is not None or t.neftune is not None or t.objective.kind != "causal_lm"
    return bool(config.defences or trained or config.aggregation.secure.enabled)


def unprotected(config: Config, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What stays open beside `rows` (of `row`), in sentences; said even of a good defence."""
    found = []
    if not defended(config):
        found.append("No defence is switched on: nothing protects the participants.")
    if config.rounds.topology == "centralized":
        found.append("All clients' records lie in one place: whoever trains there sees every one.")
    elif config.rounds.topology == "local":
        found.append(
            "Every client trains alone and no model is averaged: whoever is given a client's model "
            "can ask it for that client's records."
        )
    elif not config.aggregation.secure.enabled:
        left = ", as that client's own defences leave it" if defended(config) else ""
        found.append(
            "There is no secure aggregation: the server sees each client's update of every round "
            f"by itself{left}."
        )
    if config.rounds.topology != "local":
        found.append(
            "Every participant sees every model it is sent, with whatever of the others' records "
            "is left in it."
        )
    if defended(config) and config.engine.kind != "deployment":
        found.append(
            "This was a simulation: whoever ran it held all clients' records and secrets. What is "
            "claimed is what the same settings give between parties of their own."
        )
    if all(row["epsilon"] is None for row in rows):
        found.append(
            "There is no differential privacy: nothing here bounds what a model gives back of a "
            "record. Attacks show what came out, not what could."
        )
    else:
        found.append(
            "An epsilon covers what its row names and no more: not a learning rate, a stopping "
            "point or a defence chosen by its results on the same private data, not the figures "
            "that clients tell of their training, and not this run's own scores of canaries and "
            "questions."
        )
    return found


def row(claim: Claim) -> dict[str, Any]:
    """A claim as privacy.json holds it: numbers finite or null.

    Without a finite epsilon there is no DP guarantee, whatever else the claim says; its own words
    then stand among the notes.
    """
    found = asdict(claim)
    found["figures"] = {name: _finite(value) for name, value in claim.figures.items()}
    found["notes"] = list(claim.notes)
    found["epsilon"], found["epsilon_rdp"] = _finite(claim.epsilon), _finite(claim.epsilon_rdp)
    if found["epsilon"] is None:
        found |= {"guarantee": NO_DP, "epsilon_rdp": None, "delta": None}
        if claim.guarantee != NO_DP:
            found["notes"].append(claim.guarantee)
        if claim.epsilon is not None:
            found["notes"].append("The accountant gives no finite epsilon.")
    return found


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def document(summary: Mapping[str, Any]) -> dict[str, Any]:
    """privacy.json, from summary.json. `audited`: the rows of the one-run audit; null without."""
    return {
        "schema": SCHEMA,
        "claims": summary["protection"],
        "unprotected": summary["unprotected"],
        "audited": summary.get("audit") or None,
    }
