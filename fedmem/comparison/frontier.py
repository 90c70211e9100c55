"""Leakage as a function of utility: each rate's rounds are a line, an arm's frontier the lowest.

Utility is a *gain* over the untouched base on the same questions, so that it is 0 at round 0 and
higher is better. Pure arithmetic on arrays [draws, rounds + 1]; `matched` beside it says what
the draws are.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Place(NamedTuple):
    """Where a line first reaches a gain: between rounds `after - 1` and `after`. Arrays [draws].

    fraction: how far from the one to the other. reached: False where it never does.
    """

    after: Ints
    fraction: Floats
    reached: NDArray[np.bool_]


def first_reach(gain: Floats, target: Floats | float) -> Place:
    """The first place at which each line of `gain` [draws, rounds + 1] is `target` or more.

    Straight between rounds. A target of 0 or less is reached at round 0, the untouched base.
    """
    there = gain >= np.reshape(target, (-1, 1))
    reached = np.asarray(there.any(axis=1))
    after = np.where(reached, there.argmax(axis=1), 0)
    rows = np.arange(len(gain))
    before = np.maximum(after - 1, 0)
    low, high = gain[rows, before], gain[rows, after]
    rise = np.where(high > low, high - low, 1.0)
    fraction = np.where(after > 0, (np.ravel(target) - low) / rise, 0.0)
    return Place(after, fraction, reached)


def value_at(values: Floats, place: Place) -> Floats:
    """`values` [draws, rounds + 1] at the place, straight between rounds; NaN where not reached."""
    rows = np.arange(len(values))
    low = values[rows, np.maximum(place.after - 1, 0)]
    high = values[rows, place.after]
    found = low + place.fraction * (high - low)
    return np.where(place.reached, found, np.nan)


def least(leak: Floats) -> tuple[Floats, Ints]:
    """Of `leak` [rates, draws] the lowest that is no NaN, and whose it is; NaN where all are.

    Of equal ones the first counts, so the order of rates settles ties.
    """
    held = np.where(np.isnan(leak), np.inf, leak)
    which = held.argmin(axis=0)
    lowest = held[which, np.arange(leak.shape[1])]
    return np.where(np.isinf(lowest), np.nan, lowest), which
