"""Telling members from non-members by a score: area under the ROC curve, hits at few false alarms.

Higher scores speak for membership. Ties count half for the area, and never as hits.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmem.metrics.intervals import LEVEL, Interval, clopper_pearson

Row = dict[str, Any]
Values = NDArray[np.float64]
FPRS = {"tpr_1": 0.01, "tpr_01": 0.001}  # false-positive rates at which hits are counted


def told_apart(members: Values, twins: Values, reason: str | None = None) -> Row:
    """The figures of one comparison, from a score for each member and each twin.

    auc, low, high: null with a `reason` where nothing can be said (a `reason` given: that one).
    clear: the interval lies above 1/2. tpr_1, tpr_01: true positives at 1 % and 0.1 % false ones.
    """
    if reason is None and not len(twins):
        reason = "no twins: nothing to compare with"
    if reason is None and not len(members):
        reason = "no members with a score"
    row: Row = {"members": len(members), "twins": len(twins), "reason": reason}
    if reason:
        row |= {"auc": None, "low": None, "high": None, "clear": None}
    else:
        area = auc(members, twins)
        row |= {"auc": area.point, "low": area.low, "high": area.high, "clear": area.low > 0.5}
    for name, rate in FPRS.items():
        row |= _at(name, rate, members, twins, reason)
    return row


def _at(name: str, rate: float, members: Values, twins: Values, reason: str | None) -> Row:
    """`name`: the true-positive rate; `name_low`, `name_high`: Clopper-Pearson over the members.

    The threshold is taken as these twins set it: `name_fpr_high` says, by Clopper-Pearson, how
    many false positives it may really let through.
    """
    need = math.ceil(1 / rate)
    if reason is None and len(twins) < need:
        reason = f"{len(twins)} twins; a rate of {rate:.1%} takes {need}"
    keys = (name, f"{name}_low", f"{name}_high", f"{name}_fpr", f"{name}_fpr_high")
    if reason:
        return dict.fromkeys(keys) | {f"{name}_reason": reason}
    hits, wrong = at_fpr(members, twins, rate)
    tpr, fpr = clopper_pearson(hits, len(members)), clopper_pearson(wrong, len(twins))
    figures = (tpr.point, tpr.low, tpr.high, fpr.point, fpr.high)
    return dict(zip(keys, figures, strict=True)) | {f"{name}_reason": None}


def at_fpr(members: Values, twins: Values, rate: float) -> tuple[int, int]:
    """(members, twins) above the lowest threshold that at most `rate` of the twins are above."""
    allowed = math.floor(rate * len(twins) + 1e-9)  # 0.1 % of 1000 is 1
    least = np.sort(twins)[::-1][allowed] if allowed < len(twins) else -np.inf
    return int((members > least).sum()), int((twins > least).sum())


def auc(members: Values, twins: Values, level: float = LEVEL) -> Interval:
    """Area under the ROC curve: the chance that a member scores above a twin, a tie being half.

    The interval holds two: Newcombe's for the Mann-Whitney statistic (Stat. Med. 25:559, 2006,
    method 5), which is sound for few notes and where the area is 1; and DeLong's (Biometrics
    44:837, 1988), wider where some members are known by heart and others not at all. Both with a
    correction for continuity: a pair more or less is the least that the area can change by.
    """
    m, n = len(members), len(twins)
    order = np.sort(twins)
    below = np.searchsorted(order, members, "left"), np.searchsorted(order, members, "right")
    wins = (below[0] + below[1]) / (2 * n)  # each member's share of twins that it beats
    area = float(wins.mean())
    z = NormalDist().inv_cdf(0.5 + level / 2)
    step = 1 / (2 * m * n)
    low, high = _newcombe(area - step, m, n, z), 1 - _newcombe(1 - area - step, n, m, z)
    if m > 1 and n > 1:
        ranked = np.sort(members)
        above = np.searchsorted(ranked, twins, "left"), np.searchsorted(ranked, twins, "right")
        losses = 1 - (above[0] + above[1]) / (2 * m)
        half = step + z * math.sqrt(wins.var(ddof=1) / m + losses.var(ddof=1) / n)
        low, high = min(low, max(0.0, area - half)), max(high, min(1.0, area + half))
    return Interval(area, low, high)


def _newcombe(area: float, m: int, n: int, z: float) -> float:
    """The lower limit: the least theta from which `area` is no more than z standard errors away.

    Variance as Hanley and McNeil (1982) have it, with N* = (m + n) / 2 - 1 in place of m - 1 and
    n - 1.
    """
    if area <= 0:
        return 0.0
    star = (m + n) / 2 - 1
    low, high = 0.0, area
    for _ in range(60):
        theta = (low + high) / 2
        spread = 1 + star * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        if area - theta > z * math.sqrt(theta * (1 - theta) * spread / (m * n)):
            low = theta
        else:
            high = theta
    return (low + high) / 2
