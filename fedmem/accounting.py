"""Epsilon of the Gaussian mechanism on Poisson samples, composed over steps and rounds.

Two accountants, both Opacus': numerical composition of privacy loss random variables (PRV; Gopi,
Lee, Wutschitz 2021, arXiv 2106.02848), whose upper bound is the figure to report, and Rényi DP
(Mironov, Talwar, Zhang 2019, arXiv 1908.10530) as a looser cross-check. The central-limit ("GDP")
accountant is no bound, and is not used. Adjacency: one unit added or removed.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

FINE, COARSE = 3 * 2**20, 2**18  # grid points of the PRV at most: two seconds on one core, and less
ERRORS = (5e-4, 8e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2)  # of epsilon, on the safe side
FAR = 200.0  # an epsilon that no mesh needs to resolve: it protects nobody
TINY_DELTA = 1e-10  # below it the rounding errors of the FFT weigh as much as delta itself
ORDERS = [1 + x / 10 for x in range(1, 100)] + [float(x) for x in range(11, 64)] + [
    float(2**x) for x in range(6, 11)
]  # fmt: skip


@dataclass(frozen=True)
class Step:
    """`steps` Gaussian steps: noise of `noise_multiplier` times the clip norm, on Poisson samples.

    Each unit is in a step's sample by its own coin, with probability `sample_rate` (1: always).
    Empty samples count too.
    """

    noise_multiplier: float
    sample_rate: float
    steps: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.noise_multiplier) and self.noise_multiplier >= 0):
            raise ValueError(f"noise multiplier {self.noise_multiplier}: 0 or more is needed")
        if not 0 <= self.sample_rate <= 1:
            raise ValueError(f"sample rate {self.sample_rate}: must be within 0 and 1")
        if self.steps < 0:
            raise ValueError(f"{self.steps} steps: 0 or more are needed")


@dataclass(frozen=True)
class Epsilon:
    """`pld`: the figure to report, an upper bound. `rdp`: the cross-check, never far below it.

    `method`: "prv", or "rdp" where numerical composition could not be had (epsilon beyond 200 or
    delta below 1e-10) and `pld` is the Rényi bound too.
    """

    pld: float
    rdp: float
    method: Literal["prv", "rdp"] = "prv"


def epsilon(history: Sequence[Step], delta: float) -> Epsilon:
    """Epsilon of all steps together, at `delta` (0 < delta < 1); infinite without noise.

    Steps of equal noise and rate are added up first: ten rounds of five are fifty at once.
    """
    if not 0 < delta < 1:
        raise ValueError(f"delta {delta}: must be between 0 and 1")
    counts: dict[tuple[float, float], int] = {}
    for step in history:
        if step.steps and step.sample_rate:
            key = (step.noise_multiplier, step.sample_rate)
            counts[key] = counts.get(key, 0) + step.steps
    if not counts:
        return Epsilon(0.0, 0.0)
    if any(noise == 0 for noise, _ in counts):
        return Epsilon(math.inf, math.inf)
    return _epsilon(tuple((*key, counts[key]) for key in sorted(counts)), delta, FINE)[0]


@lru_cache(maxsize=4096)
def _epsilon(
    history: tuple[tuple[float, float, int], ...], delta: float, mesh: int
) -> tuple[Epsilon, float]:
    """Epsilon, and by how much the reported figure was rounded up for the mesh."""
    import numpy as np
    from opacus.accountants import PRVAccountant, RDPAccountant

    with warnings.catch_warnings(), np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        # of the Rényi orders tried the best is a bound, even if it is the first or the last
        warnings.filterwarnings("ignore", message="Optimal order is")
        rdp = RDPAccountant()
        rdp.history = list(history)
        upper = max(0.0, float(rdp.get_epsilon(delta, alphas=ORDERS)))
        if not math.isfinite(upper):  # Opacus gives nan where noise is too small for its sums
            return Epsilon(math.inf, math.inf, "rdp"), 0.0
        if upper > FAR or delta < TINY_DELTA:
            return Epsilon(upper, upper, "rdp"), 0.0
        prv = PRVAccountant()
        prv.history = list(history)
        total, loss = sum(steps for *_, steps in history), 2 * (upper + 5)
        for error in ERRORS:
            # points of the mesh, as Opacus will lay it (Gopi et al., theorem 5.5)
            width = error / math.sqrt(total * math.log(12e4 / delta) / 2)
            if loss / width <= mesh:
                break
        else:
            return Epsilon(upper, upper, "rdp"), 0.0
        try:
            found = float(prv.get_epsilon(delta, eps_error=error, delta_error=delta / 1e4))
        except (RuntimeError, ValueError):  # the mesh does not carry the distribution
            return Epsilon(upper, upper, "rdp"), 0.0
    if not math.isfinite(found):
        return Epsilon(upper, upper, "rdp"), 0.0
    return Epsilon(max(0.0, found), upper), error


def noise_multiplier(target_epsilon: float, delta: float, sample_rate: float, steps: int) -> float:
    """The least noise (to about 1 in 1000) whose reported epsilon is at most `target_epsilon`.

    By bisection on a coarse mesh, then from there upward until the reported figure is reached.
    Raises ValueError for a target that is not positive, or that no noise up to 10,000 reaches.
    """
    if not target_epsilon > 0:
        raise ValueError(f"target epsilon {target_epsilon}: must be above 0")

    def reached(noise: float) -> bool:
        found, error = _epsilon(((noise, sample_rate, steps),), delta, COARSE)
        return found.pld - error <= target_epsilon

    high = 1.0
    while not reached(high):
        high *= 2
        if high > 1e4:
            raise ValueError(
                f"target epsilon {target_epsilon:g}: no noise up to 10,000 reaches it in {steps} "
                f"steps of sample rate {sample_rate:.3g} at delta {delta:g}; raise one of both, or "
                "train fewer rounds"
            )
    low = high / 2
    while low > 1e-3 and reached(low):
        low, high = low / 2, low
    while high / low > 1 + 5e-4:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if reached(middle) else (middle, high)
    nudge = 5e-4
    while epsilon([Step(high, sample_rate, steps)], delta).pld > target_epsilon:
        high, nudge = high * (1 + nudge), nudge * 2
    return high
