"""What a single run proves about epsilon: lower bounds from guesses about coin flips.

m canaries are each in the training data by a fair coin of their own. An auditor who sees the
result guesses r of the coins (fixed beforehand), and v guesses are right. Under (epsilon, delta)-DP
so many right ones are unlikely if epsilon is small; the largest epsilon refuted is the bound.

`lower_bound`: Steinke, Nasr, Jagielski 2023 (arXiv 2305.08846), theorem 5.2, for any mechanism.
`gaussian_lower_bound`: Mahloujifar, Melis, Chaudhuri 2024 (arXiv 2410.22235), tighter, but of the
family of Gaussian trade-off functions alone: what it refutes is that the mechanism is mu-GDP for a
mu that gives epsilon at delta. Tests compare both with JAX-Privacy.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

LEVEL, SURE = 0.95, 0.999
TOLERANCE = 1e-9  # of epsilon, and of mu
MOST = 64.0  # more than any number of canaries can refute in floats


def p_value(m: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """The chance of `correct` right guesses or more, at most, under (epsilon, delta)-DP.

    P[W >= v] + 2 m delta max_i P[v - i <= W < v] / i with W ~ Bin(r, e^eps / (1 + e^eps)).
    """
    from scipy.special import expit
    from scipy.stats import binom

    _check(m, guesses, correct, delta)
    right = float(expit(epsilon))
    tail = float(binom.sf(correct - 1, guesses, right))
    if delta == 0 or correct == 0:
        return min(tail, 1.0)
    # P[v - i <= W < v] for i = 1 .. v, summed upwards from the term next to v
    below = np.cumsum(binom.pmf(np.arange(correct - 1, -1, -1), guesses, right))
    slack = float((below / np.arange(1, correct + 1)).max())
    return min(tail + 2 * m * delta * slack, 1.0)


def lower_bound(m: int, guesses: int, correct: int, delta: float, level: float = LEVEL) -> float:
    """The largest epsilon refuted at `level`: the true one is larger but for a chance 1 - level.

    `guesses` must have been fixed beforehand. 0 where nothing can be refuted.
    """
    _check(m, guesses, correct, delta, level)
    return _largest(lambda e: p_value(m, guesses, correct, e, delta) < 1 - level)


def gaussian_lower_bound(
    m: int, guesses: int, correct: int, delta: float, level: float = LEVEL
) -> float:
    """As `lower_bound`, if the mechanism's trade-off function is a Gaussian's; delta above 0."""
    _check(m, guesses, correct, delta, level)
    if delta == 0:
        raise ValueError("delta 0: no Gaussian mechanism has a finite epsilon there")
    mu = _largest(lambda mu: refuted(m, guesses, correct, mu, level))
    return gaussian_epsilon(mu, delta)


def refuted(m: int, guesses: int, correct: int, mu: float, level: float = LEVEL) -> bool:
    """Whether mu-GDP is refuted, by the recursion of arXiv 2410.22235, for coins (k = 2).

    Suppose `correct` right guesses or more had chance 1 - level. With q_j the chance of exactly j,
    let right(i) be the sum of j q_j / m over j >= i, and wrong(i) that of (r - j) q_j / m. Then
    wrong(i) >= Phi(Phi^-1(right(i + 1)) - mu). Both are followed down from v to 0, as low as they
    can be; if together they come to more than r / m, the chance was less.
    """
    from scipy.special import ndtr, ndtri

    _check(m, guesses, correct, 0.0, level)
    right = (1 - level) * correct / m
    wrong = (1 - level) * (guesses - correct) / m
    for i in range(correct - 1, -1, -1):
        forced = float(ndtr(ndtri(right) - mu))
        if forced <= wrong:  # then nothing moves any more
            break
        right = min(right + i / (guesses - i) * (forced - wrong), 1.0)
        wrong = forced
    return right + wrong > guesses / m


def gaussian_epsilon(mu: float, delta: float) -> float:
    """The least epsilon for which mu-GDP is (epsilon, delta)-DP (arXiv 1905.02383, cor. 2.13)."""
    from scipy.optimize import brentq
    from scipy.special import log_ndtr, ndtr

    def excess(epsilon: float) -> float:
        second = math.exp(epsilon + float(log_ndtr(-epsilon / mu - mu / 2)))
        return float(ndtr(-epsilon / mu + mu / 2)) - second - delta

    if mu == 0 or excess(0.0) <= 0:
        return 0.0
    high = 1.0
    while excess(high) > 0:
        high *= 2
    return float(brentq(excess, 0.0, high, xtol=1e-12))


def ceiling(m: int, delta: float, level: float = LEVEL, guesses: int | None = None) -> float:
    """The most that `guesses` (default: all m) could show: the bound if every one is right."""
    r = m if guesses is None else guesses
    return lower_bound(m, r, r, delta, level)


def _largest(holds: Callable[[float], bool]) -> float:
    """Up to where from 0 on `holds` is true, rounded down."""
    if not holds(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while holds(high):
        low, high = high, 2 * high
        if high > MOST:
            return low
    while high - low > TOLERANCE:
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _check(m: int, guesses: int, correct: int, delta: float, level: float = LEVEL) -> None:
    if not 0 <= correct <= guesses <= m or m < 1:
        raise ValueError(f"{correct} right of {guesses} guesses over {m} canaries cannot be")
    if not 0 <= delta < 1:
        raise ValueError(f"delta {delta}: must be 0 or more, and below 1")
    if not 0.5 < level < 1:
        raise ValueError(f"level {level}: must lie between 0.5 and 1")
