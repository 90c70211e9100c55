"""Attack against attack, on the same canaries: how well each tells them from twins, who agrees.

Extraction is read as a score here (the longest run, the matched prefix, the share of values), so
that it stands on one scale with membership. Pure functions of the saved scores.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import NormalDist, fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmem.attacks.membership import ATTACKS
from fedmem.metrics.intervals import LEVEL, Interval
from fedmem.metrics.leakage import Passes
from fedmem.metrics.outcomes import Outcome, Owned
from fedmem.metrics.roc import told_apart
from fedmem.metrics.tokens import TokenTable

Row = dict[str, Any]
Values = NDArray[np.float64]
Scores = dict[str, dict[str, float]]  # attack -> canary -> score, higher: more of it is known
EXTRACTION = ("phi", "run", "prefix")
LEAST = 4  # notes of which a correlation is told


def rows(
    tokens: TokenTable, found: Passes, canaries: Mapping[str, Owned], attacks: Sequence[str]
) -> list[Row]:
    """After the last round, behind the true text. Figures by `figure`:

    auc: columns of `roc.told_apart`, by attack and copies (None: all levels). correlation: of two
    attacks, Spearman's `rho` over the notes written; null with a reason where nothing varies.
    """
    last = max((round_ for round_, *_ in found), default=0)
    notes = found.get((last, "true_prefix", "*"), {}) if last else {}
    if not notes:
        return []
    scores = scored(tokens, notes, canaries, attacks, last)
    head: Row = {"round": last, "knowledge": "true_prefix"}
    result: list[Row] = []
    for attack, of in scores.items():
        levels = sorted({canaries[name].copies for name in of if not canaries[name].twin})
        twins = np.array([value for name, value in of.items() if canaries[name].twin])
        for copies in [None, *levels] if len(levels) > 1 else levels:
            members = np.array(
                [
                    value
                    for name, value in of.items()
                    if not canaries[name].twin and copies in (None, canaries[name].copies)
                ]
            )
            row = {"figure": "auc", "attack": attack, "copies": copies}
            result.append(row | head | told_apart(members, twins))
    for a, b in combinations(scores, 2):
        both = sorted(n for n in scores[a] if n in scores[b] and not canaries[n].twin)
        x, y = (np.array([scores[attack][name] for name in both]) for attack in (a, b))
        result.append({"figure": "correlation", "attack": a, "other": b} | head | correlation(x, y))
    return result


def scored(
    tokens: TokenTable,
    notes: Mapping[str, Sequence[Outcome]],
    canaries: Mapping[str, Owned],
    attacks: Sequence[str],
    last: int,
) -> Scores:
    """Each attack's score of each note, where it has one; of several models', the highest."""
    found: Scores = {attack: {} for attack in (*EXTRACTION, *dict.fromkeys(attacks))}
    for name, tried in notes.items():
        values = [fmean(one.phi.values()) for one in tried if one.phi]
        runs = [float(one.longest) for one in tried if one.longest is not None]
        prefixes = [float(one.best[0]) for one in tried if one.best is not None]
        for attack, of in zip(EXTRACTION, (values, runs, prefixes), strict=True):
            if of:
                found[attack][name] = max(of)
    for (round_, model, name), one in tokens.items():
        if round_ != last or model not in ("global", *canaries[name].owners):
            continue
        for attack in attacks:
            value = ATTACKS[attack](one, tokens.get((0, model, name)))
            if value is not None and not math.isnan(value):
                found[attack][name] = max(value, found[attack].get(name, -math.inf))
    return {attack: of for attack, of in found.items() if of}


def correlation(x: Values, y: Values) -> Row:
    """Spearman's rank correlation, ties sharing their mean rank, and its interval.

    Interval: Fisher's z with the variance (1 + rho^2 / 2) / (n - 3) of Bonett and Wright (2000).
    """
    row: Row = {"n": len(x), "rho": None, "low": None, "high": None, "reason": None}
    if len(x) < LEAST:
        return row | {"reason": f"{len(x)} notes; it takes {LEAST}"}
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return row | {"reason": "one of the two says the same of all notes"}
    interval = spearman(x, y)
    return row | {"rho": interval.point, "low": interval.low, "high": interval.high}


def spearman(x: Values, y: Values, level: float = LEVEL) -> Interval:
    """Of n > 3 pairs, neither side constant."""
    rho = float(np.corrcoef(_ranks(x), _ranks(y))[0, 1])
    rho = min(1.0, max(-1.0, rho))
    if abs(rho) > 1 - 1e-12:  # no standard error is left
        return Interval(rho, rho, rho)
    half = NormalDist().inv_cdf(0.5 + level / 2) * math.sqrt((1 + rho**2 / 2) / (len(x) - 3))
    middle = math.atanh(rho)
    return Interval(rho, math.tanh(middle - half), math.tanh(middle + half))


def _ranks(values: Values) -> Values:
    _, place, times = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(times)
    return np.asarray((ends - (times - 1) / 2)[place], dtype=np.float64)
