"""RMIA (Zarifzadeh et al. 2024): how many other notes does this one beat, each by its own odds?

Pure functions of saved figures, shaped as in `fedmem.attacks.lira`. population: bool [N], the notes
to compare with, members of nothing; a note is never compared with itself. p(x) of a text is the
geometric mean of its tokens' probabilities: a text's whole probability would compare lengths.
"""

from __future__ import annotations

import numpy as np

from fedmem.attacks.lira import Bools, Floats

GAMMA = 1.0  # the paper's 2 is for probabilities of labels; a factor a token is far more
# the paper's a, between 0 and 1: p with the note is taken to be a p_out + (1 - a). Its 0.3 is for
# images, whose labels are all but certain after training; a token's mean probability never is, and
# (1 - a) would drown the p_out of a hard text.
SLOPE = 1.0


def offline(
    target: Floats,
    shadows: Floats,
    included: Bools,
    population: Bools,
    gamma: float = GAMMA,
    slope: float = SLOPE,
) -> Floats:
    """Pr(x) from shadows without x alone: ((1 + a) p_out + (1 - a)) / 2, as in its appendix B."""
    out = _mean(shadows, ~included)
    return beaten(np.exp(target) / (((1 + slope) * out + (1 - slope)) / 2), population, gamma)


def online(
    target: Floats, shadows: Floats, included: Bools, population: Bools, gamma: float = GAMMA
) -> Floats:
    """Pr(x) as the mean of p over shadows with x and over those without."""
    average = (_mean(shadows, included) + _mean(shadows, ~included)) / 2
    return beaten(np.exp(target) / average, population, gamma)


def beaten(ratios: Floats, population: Bools, gamma: float) -> Floats:
    """Share of the population z with ratio(x) / ratio(z) >= gamma; NaN where a ratio is unknown.

    ratios: p(x | model) / Pr(x), float64 [N].
    """
    usable = population & ~np.isnan(ratios)
    order = np.sort(ratios[usable])
    with np.errstate(invalid="ignore"):
        wins = np.searchsorted(order, ratios / gamma, side="right").astype(np.float64)
        itself = usable & (ratios >= gamma * ratios)
    others = order.size - usable
    share = np.where(others > 0, (wins - itself) / np.maximum(others, 1), np.nan)
    return np.where(np.isnan(ratios), np.nan, share)


def _mean(shadows: Floats, mask: Bools) -> Floats:
    """Mean probability of each note over the shadows in `mask`; NaN without any."""
    with np.errstate(invalid="ignore", divide="ignore"):
        total = np.where(mask, np.exp(shadows), 0.0).sum(axis=0)
        return np.asarray(total / mask.sum(axis=0))
