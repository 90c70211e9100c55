"""The answer in words, from a summary's figures: knowledge, interval and twins always named."""

from __future__ import annotations

import math
from typing import Any

GRANTED = {
    "true_prefix": "Granted the true text before {aim} (an auditor's bound that no client holds)",
    "own_prefix": "With only the beginnings of its own notes",
}
AIMS = {"phi": "a value", "window": "each token", "exact": "a passage"}
MODELS = {
    "federated": "the shared model after round {round}",
    "centralized": "the model trained on all clients' records in one place, after round {round},",
    "local": "each client's own, never shared model after round {round}",
}


def percent(share: float) -> str:
    """0.4375 -> "44"; one decimal where rounding would say 0 or 100, which mean none and all."""
    value = 100 * share
    if 0 < value < 0.5 or 99.5 <= value < 100:
        return f"{value:.1f}"
    return str(math.floor(value + 0.5))


def signed(points: float) -> str:
    """As in "+31", "−2", "0", with a real minus sign."""
    return f"{round(points):+d}".replace("-", "−") if round(points) else "0"


def interval(figure: dict[str, Any]) -> str:
    """As in "23–67 %"."""
    return f"{percent(figure['low'])}–{percent(figure['high'])} %"


def of(figure: dict[str, Any], notes: str) -> str:
    """As in "7 of 16 notes (44 %, 95 % interval 23–67 %)"."""
    rate, span = percent(figure["rate"]), interval(figure)
    return f"{figure['k']} of {figure['n']} {notes} ({rate} %, 95 % interval {span})"


def times(copies: int) -> str:
    """As in "notes written 10 times"."""
    return f"notes written {'once' if copies == 1 else f'{copies} times'}"


def what(attack: str, continuation: int) -> str:
    """What came out, as the object of "gave back"."""
    if attack == "phi":
        return "PHI"
    if attack == "window":
        return f"{continuation} or more tokens in a row"
    return f"the next {continuation} tokens exactly"


def against(row: dict[str, Any]) -> str:
    """The twins' figure, as the end of a sentence."""
    twins = row["twins"]
    if not twins:
        return ""
    text = f", against {twins['k']} of {twins['n']} twin notes never injected"
    return f"{text} ({percent(twins['rate'])} %, {interval(twins)})"


def verdict(row: dict[str, Any]) -> str:
    """Whether the figure is clear of the twins' level; no claim where there are no twins."""
    if row["twins"] is None:
        return "No twins were held back, so chance is unknown: a rate, and no claim of a leak."
    names = ("point", "low", "high")
    point, low, high = (signed(100 * row["difference"][name]) for name in names)
    span = f"{point} points, 95 % interval {low} to {high}"
    if row["clear"]:
        return f"That is clear of the twins' level (difference {span})."
    return f"That is not clear of the twins' level (difference {span}): this measure shows no leak."


def primary(leakage: list[dict[str, Any]], knowledge: str) -> dict[str, Any] | None:
    """The row the headline states: last round, most copies, PHI if any note has it, else a run."""
    rows = [
        row
        for row in leakage
        if row["round"] and row["copies"] and row["prefix"] is None
        if row["knowledge"] == knowledge and row["attacker"] in ("*", "any")
    ]
    if not rows:
        return None
    round_ = max(row["round"] for row in rows)
    copies = max(row["copies"] for row in rows if row["round"] == round_)
    last = {r["attack"]: r for r in rows if r["round"] == round_ and r["copies"] == copies}
    return next((last[attack] for attack in ("phi", "window", "exact") if attack in last), None)


def best_client(leakage: list[dict[str, Any]], row: dict[str, Any]) -> dict[str, Any] | None:
    """The named attacker with the highest share where `row` joins several ("any")."""
    same = ("round", "knowledge", "copies", "attack", "prefix")
    rows = [
        other
        for other in leakage
        if other["attacker"] not in ("*", "any") and all(other[n] == row[n] for n in same)
    ]
    return max(rows, key=lambda other: (other["rate"], other["n"]), default=None)


def other_probes(
    leakage: list[dict[str, Any]], bound: dict[str, Any], continuation: int
) -> list[str]:
    """What other measures of the same notes show, where the headline's own shows no leak."""
    same = ("round", "knowledge", "attacker", "copies", "prefix")
    clear = [
        row
        for row in leakage
        if row["attack"] in ("window", "exact") and row["attack"] != bound["attack"]
        if row["clear"] and all(row[name] == bound[name] for name in same)
    ]
    if bound["clear"]:
        return []
    return [
        f"Yet it gave back {what(row['attack'], continuation)} from "
        f"{of(row, times(row['copies']))}{against(row)}: clear of the twins' level."
        for row in clear
    ]


def sentences(leakage: list[dict[str, Any]], topology: str, continuation: int) -> list[str]:
    """The answer first, then its reading, then what the clients' own knowledge gave."""
    bound, own = primary(leakage, "true_prefix"), primary(leakage, "own_prefix")
    found: list[str] = []
    if bound:
        granted = GRANTED["true_prefix"].format(aim=AIMS[bound["attack"]])
        model = MODELS[topology].format(round=bound["round"])
        came = what(bound["attack"], continuation)
        share = of(bound, times(bound["copies"]))
        found += [f"{granted}, {model} gave back {came} from {share}{against(bound)}."]
        found += [verdict(bound), *other_probes(leakage, bound, continuation)]
    if own:
        client = best_client(leakage, own) or own
        came = what(own["attack"], continuation)
        share = of(client, f"others' {times(client['copies'])}")
        after = f"after round {client['round']}"
        if client["k"]:
            who = f"the most successful client ({client['attacker']}) found {came} from {share}"
            found += [f"{GRANTED['own_prefix']}, {who} {after}{against(client)}.", verdict(client)]
        else:
            who = f"no client found {came} {after}: {client['attacker']} got {share}"
            found += [f"{GRANTED['own_prefix']}, {who}."]
    return found or ["No attack was run on a trained model, so nothing can be said of leakage."]
