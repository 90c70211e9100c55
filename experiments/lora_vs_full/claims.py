"""PROTOCOL.md's rule, as code: which of the paper's claims hold by the arms' comparisons.

Leakage is in shares of notes, gains are in nats a token; D is full's leakage less LoRA's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]
Verdict = tuple[str, str]  # "reproduced", "not reproduced" or "inconclusive"; and why

COST = 0.05  # nats that count as no significant cost
LITTLE = 0.10  # a difference in leakage below which the claim fails
TIMES = 10.0
YES, NO, OPEN = "reproduced", "not reproduced", "inconclusive"


def less_at_same_utility(row: Row) -> Verdict:
    """Claims 1 and 4, from the row of full against LoRA r 16 at the same utility."""
    difference = row.get("difference")
    if difference is None or "may not reach" in row["verdict"]:
        return OPEN, row["verdict"]
    told = f"difference {span(difference, 100, 'points')}"
    apart = "; on known facts alone, the arms differ in the new skill" if skill_differs(row) else ""
    if difference[1] > 0:
        return YES, told + apart
    return (NO if difference[2] < LITTLE else OPEN), told + apart


def confirmed(row: Row) -> Verdict:
    """The confirmation's one comparison, on fresh seeds: the same rule, and its own words."""
    verdict, why = less_at_same_utility(row)
    return {YES: "confirmed", NO: "refuted", OPEN: "open"}[verdict], why


def skill_differs(row: Row) -> bool:
    """Whether the arms' gain in the new skill differs where they are compared."""
    skill = row["beside"]["new skill"]
    return bool(skill and (skill[1] > 0 or skill[2] < 0))


def no_cost(row: Row) -> Verdict:
    """Claim 3, from the row at each one's own best."""
    cost, skill = row["gain_difference"], row["beside"]["new skill"]
    told = f"gain on facts less by {span(cost)}, in the new skill by {span(skill)}"
    if cost[1] > COST or skill[1] > 0:
        return NO, told
    return (YES if cost[2] <= COST else OPEN), told


def up_to_ten_times(rows: Sequence[Row]) -> Verdict:
    """Claim 2, from the rows of all ranks at each one's own best."""
    told = "; ".join(
        f"{row['b']} {span(row['ratio'], unit='times') if row['ratio'] else 'not clear of 0'}"
        for row in rows
    )
    met = [row for row in rows if no_cost(row)[0] == YES]
    if any(row["ratio"] and row["ratio"][1] >= TIMES for row in met):
        return YES, told
    below = all(row["ratio"] and row["ratio"][2] < TIMES for row in rows)
    return (NO if below else OPEN), told


def combines(row: Row) -> Verdict:
    """Claim 5, from the row of plain LoRA (a) against LoRA with the defences (b), own best."""
    leak, cost = row["difference"], row["gain_difference"]
    told = f"leaks less by {span(leak, 100, 'points')}, gain on facts less by {span(cost)}"
    if leak[2] < 0 or cost[1] > COST:
        return NO, told
    return (YES if cost[2] <= COST else OPEN), told


def fair(best: dict[str, float]) -> bool:
    """Whether some LoRA arm reaches 90 % of full fine-tuning's best validation gain on facts."""
    return max(gain for arm, gain in best.items() if arm != "full") >= 0.9 * best["full"]


def span(value: Sequence[float] | None, scale: float = 1.0, unit: str = "nats") -> str:
    """As in "44 (23 to 67) points"."""
    if value is None:
        return "–"
    digits = 0 if scale == 100 else 1 if unit == "times" else 2
    # twice: halves such as 12.5 must not hang on a machine's last bit; + 0.0: no minus zero
    parts = (round(round(scale * part, 6), digits) + 0.0 for part in value)
    texts = (f"{part:.{digits}f}" for part in parts)
    point, low, high = (text.replace("-", "−") for text in texts)
    return f"{point} ({low} to {high}) {unit}"
