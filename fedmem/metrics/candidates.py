"""PHI inference: how often is the true value the likeliest of its list, or among the first five?

Two readings of the same scores: by likelihood, and by what it gained over the untouched base
(`reference`), which takes away what any model of the language prefers. A tie counts against the
true value.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from fedmem.metrics.intervals import cluster_share
from fedmem.metrics.leakage import Row
from fedmem.metrics.outcomes import Owned
from fedmem.metrics.targets import Target

TOPS = (1, 5)
SCORES = ("likelihood", "reference")
Values = NDArray[np.float64]


def rank(scores: Values) -> int:
    """The place of scores[0] among all, 1 the highest; equals stand before it."""
    return 1 + int((scores[1:] >= scores[0]).sum())


def ranked(secrets: Iterable[Target]) -> list[tuple[Target, str, Values]]:
    """(value, which score, [1 + m] of the true value and its candidates), higher is likelier.

    Reference scores stand where the base ranked the same list; in round 0 there are none.
    """
    of = [one for one in secrets if one.candidates is not None and len(one.candidates) > 1]
    base = {(o.model, o.canary, o.target): o.candidates for o in of if o.round == 0}
    found = []
    for one in of:
        assert one.candidates is not None
        found.append((one, "likelihood", one.candidates))
        before = base.get((one.model, one.canary, one.target)) if one.round else None
        if before is not None and len(before) == len(one.candidates):
            found.append((one, "reference", one.candidates - before))
    return found


def rows(secrets: Iterable[Target], canaries: Mapping[str, Owned]) -> list[Row]:
    """By round, copies, score, category (None: all) and top: k of n values, notes being the unit.

    chance: what blind guessing among the lists would give. twins: the same of notes never trained
    on; `clear`: the interval lies above both chance and the twins' interval.
    """
    hits: dict[tuple[int, int, str, str | None, int], dict[str, list[bool]]]
    hits = defaultdict(lambda: defaultdict(list))
    chance: dict[tuple[int, int, str, str | None, int], list[float]] = defaultdict(list)
    listed: dict[tuple[int, int, str, str | None, int], list[int]] = defaultdict(list)
    for one, score, values in ranked(secrets):
        copies, place = canaries[one.canary].copies, rank(values)
        for category in (None, one.category):
            for top in TOPS:
                key = (one.round, copies, score, category, top)
                hits[key][one.canary].append(place <= top)
                chance[key].append(min(1.0, top / len(values)))
                listed[key].append(len(values) - 1)
    found: dict[tuple[int, int, str, str | None, int], Row] = {}
    for key in sorted(hits, key=lambda key: (*key[:3], key[3] or "", key[4])):
        round_, copies, score, category, top = key
        notes = hits[key].values()
        each, of = [sum(note) for note in notes], [len(note) for note in notes]
        interval, method = cluster_share(each, of)
        row: Row = {"round": round_, "knowledge": "true_prefix", "attacker": "*"}
        row |= {"copies": copies, "score": score, "category": category, "top": top}
        row |= {"candidates": sum(listed[key]) / len(listed[key])}
        row |= {"chance": sum(chance[key]) / len(chance[key]), "k": sum(each), "n": sum(of)}
        row |= {"rate": interval.point, "low": interval.low, "high": interval.high}
        found[key] = row | {"notes": len(of), "method": method}
    for (round_, copies, *rest), row in found.items():
        twins = found.get((round_, 0, *rest)) if copies else None  # type: ignore[arg-type]
        names = ("k", "n", "rate", "low", "high")
        row["twins"] = {name: twins[name] for name in names} if twins else None
        row["clear"] = None
        if twins and round_:
            row["clear"] = row["low"] > max(twins["high"], row["chance"])
    return [*found.values()]
