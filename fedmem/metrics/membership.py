"""How well members and non-members are told apart, by round, model, attack and copies.

Members are the canaries that were written; non-members the twins from the same pool that never
were. The unit is the patient: scores of several notes of one are averaged. Nothing is claimed
without twins, nor of a false-positive rate that so few twins cannot show.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from fedmem.attacks.membership import ATTACKS, NEED_BASE
from fedmem.metrics.outcomes import Owned
from fedmem.metrics.roc import Row, Values, told_apart
from fedmem.metrics.tokens import TokenTable


def rows(tokens: TokenTable, canaries: Mapping[str, Owned], attacks: Sequence[str]) -> list[Row]:
    """A row a round, model, attack and level; `copies` None joins the levels.

    left_out: notes without a score. The figures are those of `roc.told_apart`. base: the same of
    the untouched base on the same notes (round 0): few members may be easier texts than the twins
    by the luck of the draw. So clear: the interval lies above 1/2 and above the base's area; null
    in round 0, where nothing was learned.
    """
    found: list[Row] = []
    held: dict[tuple[int, str], list[str]] = defaultdict(list)
    for round_, model, name in sorted(tokens):
        held[round_, model].append(name)
    for (round_, model), names in held.items():
        for attack in dict.fromkeys(attacks):
            scores = {
                name: ATTACKS[attack](tokens[round_, model, name], tokens.get((0, model, name)))
                for name in names
            }
            own_reference = attack in NEED_BASE and round_ == 0
            levels = sorted({canaries[name].copies for name in names if not canaries[name].twin})
            twins, no_twin = _units(scores, canaries, [n for n in names if canaries[n].twin])
            for copies in [None, *levels] if len(levels) > 1 else levels:
                of = [
                    name
                    for name in names
                    if not canaries[name].twin and copies in (None, canaries[name].copies)
                ]
                members, none = _units(scores, canaries, of)
                head = {"round": round_, "model": model, "knowledge": "true_prefix"}
                head |= {"attack": attack, "copies": copies, "left_out": none + no_twin}
                reason = "the untouched base is its own reference" if own_reference else None
                found.append(head | told_apart(members, twins, reason))
    untouched = {_of(row): row for row in found if row["round"] == 0}
    for row in found:
        base = untouched.get(_of(row)) if row["round"] else None
        known = base is not None and base["auc"] is not None
        row["base"] = {key: base[key] for key in ("auc", "low", "high")} if base and known else None
        if row["round"] == 0:
            row["clear"] = None
        elif row["base"] and row["clear"]:
            row["clear"] = row["low"] > row["base"]["auc"]
    return found


def _of(row: Row) -> tuple[str, str, int | None]:
    return row["model"], row["attack"], row["copies"]


def _units(
    scores: Mapping[str, float | None], canaries: Mapping[str, Owned], names: Iterable[str]
) -> tuple[Values, int]:
    """(one score a patient, notes left out for want of one)."""
    found: dict[str, list[float]] = defaultdict(list)
    missing = 0
    for name in names:
        value = scores[name]
        if value is None or math.isnan(value):
            missing += 1
        else:
            found[canaries[name].patient].append(value)
    return np.array([math.fsum(values) / len(values) for values in found.values()]), missing
