"""Exposure (Carlini et al. 2019, The Secret Sharer): log2 |R| - log2 rank, in bits.

Three forms, from the scores of a value and its m candidates. `exact`: the candidates are all values
of the form that there are. `sampled`: they are some; m bits' worth is the most that can be seen
(log2 m). `skew_normal`: a skew-normal is fitted to the candidates' scores, and its tail gives the
share of all values that would rank before the true one; no more than log2 of the space.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping

import numpy as np

from fedmem.metrics.candidates import Values, rank, ranked
from fedmem.metrics.intervals import bootstrap_mean
from fedmem.metrics.leakage import Row
from fedmem.metrics.outcomes import Owned
from fedmem.metrics.targets import Target

LEAST = 20  # candidates that a fit takes
FLOOR = 2.0**-60  # differences of probabilities below are rounding
SKEW = 0.99  # a skew-normal's skewness lies below 0.9953


def by_rank(scores: Values) -> float:
    """Exposure of scores[0] among the m others: log2 m - log2 rank, at most log2 m.

    As TensorFlow Privacy's `compute_exposure_interpolation`; below 0 where all others rank before.
    """
    return math.log2(len(scores) - 1) - math.log2(rank(scores))


def skew_normal(scores: Values) -> tuple[float, float, float]:
    """(shape, location, scale) of the skew-normal with the scores' first three moments.

    As scipy's `skewnorm.fit(method="mm")`; ValueError where all scores are alike.
    """
    mean, sd = float(scores.mean()), float(scores.std())
    if sd <= 0:
        raise ValueError("all scores are alike")
    skew = float(((scores - mean) ** 3).mean()) / sd**3
    part = abs(min(max(skew, -SKEW), SKEW)) ** (2 / 3)
    delta = math.sqrt(math.pi / 2 * part / (part + ((4 - math.pi) / 2) ** (2 / 3)))
    delta = math.copysign(delta, skew)
    scale = sd / math.sqrt(1 - 2 * delta**2 / math.pi)
    shape = delta / math.sqrt(1 - delta**2)
    return shape, mean - scale * delta * math.sqrt(2 / math.pi), scale


def extrapolated(scores: Values, space: int) -> float | None:
    """Exposure of scores[0] by a skew-normal through the others, at most log2 space.

    -log2 of the share of the fitted distribution at or above it, as TensorFlow Privacy's
    `compute_exposure_extrapolation`, with moments in place of maximum likelihood. None with fewer
    than 20 candidates, or where all have one score.
    """
    from scipy.special import ndtr, owens_t

    others = -scores[1:]  # as losses: what ranks before lies below
    if len(others) < LEAST or float(others.std()) <= 0:
        return None
    shape, location, scale = skew_normal(others)
    z = (-float(scores[0]) - location) / scale
    below = float(ndtr(z) - 2 * owens_t(z, shape))
    return min(math.log2(space), -math.log2(min(1.0, max(below, FLOOR))))


def values(secrets: Iterable[Target]) -> list[tuple[Target, str, str, float, float]]:
    """(value, score, form, exposure in bits, the most it could be) for each value and form."""
    found = []
    for one, score, scores in ranked(secrets):
        m = len(scores) - 1
        exact = one.space is not None and m + 1 >= one.space
        form = "exact" if exact else "sampled"
        found.append((one, score, form, by_rank(scores), math.log2(m)))
        if one.space is not None and one.space > 1:
            bits = extrapolated(scores, one.space)
            if bits is not None:
                found.append((one, score, "skew_normal", bits, math.log2(one.space)))
    return found


def rows(secrets: Iterable[Target], canaries: Mapping[str, Owned]) -> list[Row]:
    """Mean exposure by round, copies, score and form: of notes' means over their values.

    highest: the most exposed value. cap: the mean of the most that could be seen. twins: their
    figures; `clear`: the interval lies above theirs.
    """
    groups: dict[tuple[int, int, str, str], dict[str, list[float]]]
    groups = defaultdict(lambda: defaultdict(list))
    caps: dict[tuple[int, int, str, str], list[float]] = defaultdict(list)
    for one, score, form, bits, cap in values(secrets):
        key = (one.round, canaries[one.canary].copies, score, form)
        groups[key][one.canary].append(bits)
        caps[key].append(cap)
    found: dict[tuple[int, int, str, str], Row] = {}
    for key, notes in sorted(groups.items()):
        round_, copies, score, form = key
        interval = bootstrap_mean([math.fsum(of) / len(of) for of in notes.values()])
        row: Row = {"round": round_, "knowledge": "true_prefix", "attacker": "*"}
        row |= {"copies": copies, "score": score, "form": form, "bits": interval.point}
        row |= {"low": interval.low, "high": interval.high, "notes": len(notes)}
        row |= {"values": len(caps[key]), "highest": max(max(of) for of in notes.values())}
        found[key] = row | {"cap": float(np.mean(caps[key]))}
    for (round_, copies, score, form), row in found.items():
        twins = found.get((round_, 0, score, form)) if copies else None
        names = ("bits", "low", "high", "notes")
        row["twins"] = {name: twins[name] for name in names} if twins else None
        row["clear"] = row["low"] > twins["high"] if twins and round_ else None
    return [*found.values()]


def notes(secrets: Iterable[Target], canaries: Mapping[str, Owned]) -> list[Row]:
    """Each note of the last round by the mean exposure of its values, highest first.

    highest: its most exposed value, whose number is `target` and whose kind `type`.
    """
    of = list(secrets)
    last = max((one.round for one in of), default=0)
    groups: dict[tuple[str, str, str], list[tuple[float, float, Target]]] = defaultdict(list)
    for one, score, form, bits, cap in values(of):
        if one.round == last:
            groups[one.canary, score, form].append((bits, cap, one))
    found: list[Row] = []
    for (canary, score, form), each in groups.items():
        owned = canaries[canary]
        best, _, value = max(each, key=lambda one: one[0])
        row: Row = {"round": last, "canary": canary, "owners": list(owned.owners)}
        row |= {"copies": owned.copies, "score": score, "form": form, "values": len(each)}
        row |= {"bits": math.fsum(one[0] for one in each) / len(each), "highest": best}
        row |= {"cap": math.fsum(one[1] for one in each) / len(each)}
        found.append(row | {"target": value.target, "type": value.type})
    return sorted(found, key=lambda row: (-row["bits"], row["canary"]))
