"""The figures of arms that stand somewhere, each with its interval."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedmem.comparison.frontier import Floats
from fedmem.comparison.sheets import Arm
from fedmem.comparison.sides import At, Case
from fedmem.metrics.intervals import Interval, apart, expanded_tail, paired_share, times, wilson

Three = tuple[float, float, float]  # point, low, high


class Count(NamedTuple):
    """Notes of the level and twins, over the seeds."""

    notes: int
    twins: int


def count_of(arm: Arm, case: Case, seeds: Sequence[int]) -> Count:
    """How many notes and twins an arm's figures are of."""
    copies = np.concatenate([arm.seeds[seed].copies for seed in seeds])
    return Count(int((copies == case.copies).sum()), int((copies == 0).sum()))


def figures(case: Case, ours: At, theirs: At, count: Count) -> Iterator[tuple[str, Any]]:
    """The figures of a row of `matched.compare`, by name."""
    yield "leak_a", leak_of(ours, count)
    yield "leak_b", (below := leak_of(theirs, count))
    drawn = interval(ours.leak - theirs.leak, count.notes)
    yield "difference", drawn and _wider(drawn, _score_of_pairs(ours, theirs))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = ours.leak / theirs.leak
    drawn = interval(ratio, count.notes) if below and below[1] > 0 else None
    yield "ratio", drawn and _wider(drawn, times(_score(ours, count), _score(theirs, count)))
    yield "gain_a", interval(ours.gain, count.notes)
    yield "gain_b", interval(theirs.gain, count.notes)
    yield "gain_difference", interval(ours.gain - theirs.gain, count.notes)
    pairs = zip(case.beside, ours.beside, theirs.beside, strict=True)
    yield "beside", {axis.name: interval(a - b, count.notes) for axis, a, b in pairs}


def leak_of(at: At, count: Count) -> Three | None:
    """The leak of an arm that stands there; None where no note of the level was tried."""
    drawn = interval(at.leak, count.notes)
    return drawn and _wider(drawn, _score(at, count))


def _score(at: At, count: Count) -> Interval:
    """The leak by Wilson's and Newcombe's intervals, as if all seeds' notes were one sample.

    Between two rounds the share of notes is no count; Wilson's takes it as it is.
    """
    if np.isnan(at.share[0]):
        return Interval(0.0, -1.0, 1.0)
    share = wilson(float(at.share[0]) * count.notes, count.notes)
    if not count.twins:
        return share
    return apart(share, wilson(float(at.twins[0]) * count.twins, count.twins))


def _score_of_pairs(ours: At, theirs: At) -> Interval:
    """Difference of two leaks on the same notes and twins: Bonett and Price's, then both apart."""
    found = []
    for a, b in ((ours.notes, theirs.notes), (ours.guessed, theirs.guessed)):
        change = (a - b)[~np.isnan(a - b)]
        if len(change):
            up, down = change[change > 0].sum(), -change[change < 0].sum()
            found.append(paired_share(float(up), float(down), len(change)))
    return apart(*found) if len(found) == 2 else found[0]


def _wider(drawn: Three, score: Interval) -> Three:
    """A bootstrap of none of n notes has no width: no interval is narrower than the score's."""
    return drawn[0], min(drawn[1], score.low), max(drawn[2], score.high)


def missed(values: Floats) -> float:
    """Share of the draws without a value; 1 where the data themselves have none."""
    return float(np.isnan(values).mean()) if not np.isnan(values[0]) else 1.0


def interval(values: Floats, notes: int) -> Three | None:
    """(point, low, high) from [draws + 1], row 0 the data; None where the data have no value.

    The percentiles are expanded as for a bootstrap over so many notes (`expanded_tail`).
    """
    if np.isnan(values[0]):
        return None
    tail = expanded_tail(notes, 0.95)
    with np.errstate(invalid="ignore"):  # a ratio may be infinite
        low, high = np.nanquantile(values[1:], [tail, 1 - tail])
    return float(values[0]), float(low), float(high)
