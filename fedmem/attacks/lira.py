"""LiRA (Carlini et al. 2022): a note's likelihood against that under shadows with and without it.

Pure functions of saved figures. nats: mean log-probability of a note's tokens. target: float64 [N],
under the attacked model; shadows: float64 [S, N]; included: bool [S, N], whether the shadow trained
on the note. Scores: float64 [N], higher speaks for membership, NaN where there is none.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
OWN_VARIANCE = 64  # shadows from which on a note has a variance of its own, as in the paper
LEAST = 1e-12  # distance of log p from 0, where p is 1 and its logit infinite


def logit(nats: Floats) -> Floats:
    """The paper's scaling, log(p / (1 - p)), p the geometric mean of the tokens' probabilities."""
    clipped = np.minimum(nats, -LEAST)
    return np.asarray(clipped - np.log(-np.expm1(clipped)))


def offline(target: Floats, shadows: Floats, included: Bools) -> Floats:
    """How far above its distribution under shadows without it, in standard deviations.

    The paper's score is the normal distribution function of this: the same order.
    """
    mean, spread = gaussians(logit(shadows), ~included)
    return np.asarray((logit(target) - mean) / spread)


def online(target: Floats, shadows: Floats, included: Bools) -> Floats:
    """log N(target; those with the note) - log N(target; those without): equation 3."""
    scaled, at = logit(shadows), logit(target)
    found = []
    for mask in (included, ~included):
        mean, spread = gaussians(scaled, mask)
        found.append(-np.log(spread) - (at - mean) ** 2 / (2 * spread**2))
    return np.asarray(found[0] - found[1])


def gaussians(values: Floats, mask: Bools) -> tuple[Floats, Floats]:
    """(mean, standard deviation) of each column over its rows in `mask`; NaN where unknown.

    With fewer than 64 rows one variance serves all columns, pooled within them. (The released code
    takes that of all values at once, in which the differences between notes drown the rest.)
    """
    counts = mask.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(mask, values, 0.0).sum(axis=0) / counts
        squares = np.where(mask, (values - mean) ** 2, 0.0).sum(axis=0)
        free = np.maximum(counts - 1, 0)
        pooled = squares.sum() / free.sum() if free.sum() else np.nan
        variance = np.where(counts >= OWN_VARIANCE, squares / free, pooled)
    return mean, np.sqrt(np.maximum(variance, LEAST**2))
