"""Intervals for proportions and means. The unit is always the note (a patient), never a window.

Proportions of notes: Wilson (the default everywhere) or Clopper-Pearson, both sound at zero hits,
where a bootstrap would give the false certainty [0, 0]. Shares of values, which rise and fall
together within a note: Wilson with notes as clusters. Means: a bootstrap over notes, expanded for
few of them, or Student's t. The tests compare with scipy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

LEVEL = 0.95
DRAWS = 2000


@dataclass(frozen=True)
class Interval:
    """A point and its interval; `low` <= `point` <= `high` up to rounding."""

    point: float
    low: float
    high: float


def _z(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, not {level}")
    return NormalDist().inv_cdf(0.5 + level / 2)


def _check(k: float, n: float) -> None:
    if n <= 0 or not 0 <= k <= n:
        raise ValueError(f"need 0 <= k <= n and n > 0, not k={k}, n={n}")


def wilson(k: float, n: float, level: float = LEVEL) -> Interval:
    """Wilson's score interval (1927) for k hits of n. `k` may be fractional."""
    _check(k, n)
    z2 = _z(level) ** 2
    p = k / n
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    # At 0 and n the closed form is exact, but floats may leave 1e-18 behind.
    low = 0.0 if k == 0 else max(0.0, middle - half)
    high = 1.0 if k == n else min(1.0, middle + half)
    return Interval(p, low, high)


def clopper_pearson(k: int, n: int, level: float = LEVEL) -> Interval:
    """The exact interval (1934): the p at which k or more, or k or fewer, has (1 - level) / 2."""
    _check(k, n)
    _z(level)
    tail = (1 - level) / 2
    low = 0.0 if k == 0 else _solve(lambda p: _at_least(k, n, p) - tail)
    high = 1.0 if k == n else _solve(lambda p: tail - (1 - _at_least(k + 1, n, p)))
    return Interval(k / n, low, high)


def _at_least(k: int, n: int, p: float) -> float:
    """P(X >= k), X ~ Binomial(n, p), 0 < p < 1; the shorter tail is summed."""

    def total(first: int, last: int) -> float:
        logs = [
            math.lgamma(n + 1)
            - math.lgamma(i + 1)
            - math.lgamma(n - i + 1)
            + i * math.log(p)
            + (n - i) * math.log1p(-p)
            for i in range(first, last + 1)
        ]
        return math.fsum(math.exp(value) for value in logs)

    return total(k, n) if k > n / 2 else 1 - total(0, k - 1)


def _solve(rising: Callable[[float], float]) -> float:
    """The root in (0, 1) of a rising function, by bisection to the last bit that matters."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if rising(middle) < 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def newcombe(k1: int, n1: int, k2: int, n2: int, level: float = LEVEL) -> Interval:
    """k1/n1 - k2/n2 of independent groups: Newcombe's hybrid score interval (1998, method 10)."""
    return apart(wilson(k1, n1, level), wilson(k2, n2, level))


def apart(a: Interval, b: Interval) -> Interval:
    """a - b of two independent figures from their intervals (MOVER: Zou and Donner 2008)."""
    difference = a.point - b.point
    low = difference - math.hypot(a.point - a.low, b.high - b.point)
    high = difference + math.hypot(a.high - a.point, b.point - b.low)
    return Interval(difference, low, high)


def times(a: Interval, b: Interval) -> Interval:
    """a / b of two independent figures from their intervals, b's above 0 (MOVER-R: Donner and Zou
    2012, Statistical Methods in Medical Research 21:347)."""
    product = a.point * b.point

    def end(near: float, far: float, sign: int) -> float:
        under = product**2 - near * far * (2 * a.point - near) * (2 * b.point - far)
        return (product + sign * math.sqrt(max(0.0, under))) / (far * (2 * b.point - far))

    return Interval(a.point / b.point, end(a.low, b.high, -1), end(a.high, b.low, 1))


def fisher(k1: int, n1: int, k2: int, n2: int) -> float:
    """Fisher's exact test: the chance of k1 hits or more of n1, were the k1 + k2 dealt at random.

    One-sided. Newcombe's interval is too sure of a few notes beside many: of 1 of 5 against 0 of
    32 it says that they differ, which chance alone does in 5 of 37 cases.
    """
    _check(k1, n1)
    _check(k2, n2)
    hits, n = k1 + k2, n1 + n2
    ways = sum(math.comb(n1, i) * math.comb(n2, hits - i) for i in range(k1, min(hits, n1) + 1))
    return ways / math.comb(n, hits)


def paired_share(gained: float, lost: float, n: int, level: float = LEVEL) -> Interval:
    """(gained - lost) / n: change of a share of n pairs, from the pairs that changed either way.

    Bonett and Price (2012), adjusted Wald: sound where few pairs or none changed.
    """
    _check(gained + lost, n)
    up, down = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    half = _z(level) * math.sqrt((up + down - (up - down) ** 2) / (n + 2))
    middle = up - down
    return Interval((gained - lost) / n, max(-1.0, middle - half), min(1.0, middle + half))


def bootstrap_mean(
    values: Sequence[float], seed: int = 0, draws: int = DRAWS, level: float = LEVEL
) -> Interval:
    """Mean of one value a note; percentile interval over notes drawn with replacement."""
    return bootstrap_ratio(values, [1.0] * len(values), seed, draws, level)


def bootstrap_ratio(
    over: Sequence[float],
    under: Sequence[float],
    seed: int = 0,
    draws: int = DRAWS,
    level: float = LEVEL,
) -> Interval:
    """sum(over) / sum(under), one pair a note, notes drawn together. `under` must be positive.

    The percentiles are expanded for few notes (Hesterberg 2015, The American Statistician 69:371):
    a plain bootstrap has the spread of n notes for that of n - 1, and the normal's tails for t's.
    """
    _z(level)
    a, b = np.asarray(over, dtype=np.float64), np.asarray(under, dtype=np.float64)
    if len(a) == 0 or len(a) != len(b):
        raise ValueError(f"need as many numerators as denominators, 1 or more: {len(a)}, {len(b)}")
    if not (b > 0).all():
        raise ValueError("every note needs a positive denominator")
    n = len(a)
    times = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws)  # [draws, n]
    tail = expanded_tail(n, level)
    low, high = np.quantile((times @ a) / (times @ b), [tail, 1 - tail])
    return Interval(float(a.sum() / b.sum()), float(low), float(high))


def expanded_tail(n: int, level: float) -> float:
    """The tail that a percentile interval over n notes leaves out on either side."""
    if n < 2:
        return (1 - level) / 2
    wide = _t(n - 1, level) * math.sqrt(n / (n - 1))
    return NormalDist().cdf(-wide)


def _t(free: int, level: float) -> float:
    from scipy.special import stdtrit  # slow to load

    return float(stdtrit(free, 0.5 + level / 2))


def cluster_share(
    hits: Sequence[int], values: Sequence[int], level: float = LEVEL
) -> tuple[Interval, str]:
    """Share of values with a hit, notes being the unit; also the method's name.

    Wilson's interval for the number of independent values that would tell as much (Korn and
    Graubard, Survey Methodology 24:193, 1998): the variance of a ratio over notes gives that
    number, fewer by (z / t)^2 for few notes, and never more than there are. Where all notes have
    the same share (above all: none, or all) they show no spread at all: then it is the number of
    *notes*, as if the values of a note were one; too wide rather than too narrow.
    """
    h, v = np.asarray(hits, dtype=np.float64), np.asarray(values, dtype=np.float64)
    notes, total = len(h), float(v.sum())
    if len(set((h / v).tolist())) == 1:
        return wilson(float(h[0] / v[0]) * notes, notes, level), "wilson over notes"
    share = float(h.sum()) / total
    variance = notes / (notes - 1) * float(((h - share * v) ** 2).sum()) / total**2
    alike = share * (1 - share) / variance * (_z(level) / _t(notes - 1, level)) ** 2
    alike = min(alike, total)
    interval = wilson(share * alike, alike, level)
    return Interval(share, interval.low, interval.high), "wilson, notes as clusters"


def student_mean(values: Sequence[float], level: float = LEVEL) -> Interval:
    """Mean of one value a note, two or more, by Student's t: a bootstrap is too sure of few."""
    _z(level)
    found = np.asarray(values, dtype=np.float64)
    if len(found) < 2:
        raise ValueError(f"an interval of a mean takes two values or more: {len(found)}")
    mean = float(found.mean())
    error = float(found.std(ddof=1)) / math.sqrt(len(found))
    half = _t(len(found) - 1, level) * error
    return Interval(mean, mean - half, mean + half)
