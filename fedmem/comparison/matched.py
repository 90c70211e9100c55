"""Arm against arm: each at its own best, and both at the same utility.

Everything that is random is drawn together: seeds, and within each seed its questions, its notes
and its twins, the same draws for both arms (they met the same notes and questions). An interval is
one over these draws, in which what both arms share cancels; a bootstrap of none of n notes has no
width, so for leakage it is never narrower than the score intervals of as many notes. Half of the
questions choose rates, rounds and the utility to compare at; figures come from the other half.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fedmem.comparison.draws import Axis, Weights, gains, shares, weights
from fedmem.comparison.frontier import Floats, Place, first_reach, least, value_at
from fedmem.comparison.sheets import Arm
from fedmem.metrics.intervals import Interval, apart, expanded_tail, paired_share, times, wilson

DRAWS = 2000
SHARE = 1.0  # of the smaller of the two best gains: the utility at which arms are compared
MISSED = 0.025  # draws that may miss that utility, as many as an interval leaves out on a side
Row = dict[str, Any]
Three = tuple[float, float, float]  # point, low, high


class Count(NamedTuple):
    """Notes of the level and twins, over the seeds."""

    notes: int
    twins: int


@dataclass(frozen=True)
class Case:
    """What is compared: leakage of an attack at a level, along an axis; other axes beside it."""

    axis: Axis
    attack: str
    copies: int
    beside: tuple[Axis, ...] = ()


def compare(
    a: Arm,
    b: Arm,
    case: Case,
    shares: Sequence[float] = (SHARE,),
    draws: int = DRAWS,
    seed: int = 0,
    fixed: bool = False,
) -> list[Row]:
    """`b` against `a`: a row at each one's own best, then one for each share of the smaller gain.

    A row's figures are (point, low, high), 95 %: `leak_a`, `leak_b`, `difference` = a less b,
    `ratio` = a over b where b's interval is clear of 0, `gain_a`, `gain_b`, `gain_difference`, and
    for each axis of `beside` the difference in gain. `verdict`: "less", "more", or "cannot tell:
    why" of b's leakage. rate_*, round_*: where each arm stands, by the point estimate; `early`
    names those for which that is within the first round, of which only the ends are measured.

    The smaller gain is that of the draw's own questions, at each arm's best place by validation:
    a draw of hard questions lowers it for both arms. `fixed`: the validation half's gain in every
    draw, so that draws of hard questions count as out of reach.
    """
    shared = [one for one in a.seeds if one in b.seeds]
    if problem := _problem(a, b, shared):
        return [_untold(a, b, case, problem)]
    drawn = weights(a, shared, draws, seed)
    count = _count(a, case, shared)
    sides = [_Side(arm, drawn, case) for arm in (a, b)]
    best = [side.at_best() for side in sides]
    rows = [_row(a, b, case, "own best", None, best, count, shared)]
    gain = np.minimum(*(at.gain for at in best))
    if fixed:
        gain = np.full_like(gain, min(side.best[0] for side in sides))
    for share in shares:
        target = share * gain
        if target[0] <= 0:
            rows.append(_untold(a, b, case, "an arm learned nothing on this axis", share))
            continue
        at = [side.at_gain(target) for side in sides]
        rows.append(_row(a, b, case, "same utility", share, at, count, shared))
        rows[-1]["gain"] = float(target[0])
    return rows


def at_own_best(arm: Arm, case: Case, draws: int = DRAWS, seed: int = 0) -> Row:
    """The arm at the rate and round that its validation half likes best.

    rate, round; leak, gain and `beside` as in `compare`.
    """
    at = _Side(arm, weights(arm, list(arm.seeds), draws, seed), case).at_best()
    count = _count(arm, case, list(arm.seeds))
    beside = zip(case.beside, at.beside, strict=True)
    return {
        **{"rate": at.rate, "round": at.round},
        **{"leak": _leak(at, count), "gain": _interval(at.gain, count.notes)},
        "beside": {axis.name: _interval(values, count.notes) for axis, values in beside},
    }


def _count(arm: Arm, case: Case, seeds: Sequence[int]) -> Count:
    copies = np.concatenate([arm.seeds[seed].copies for seed in seeds])
    return Count(int((copies == case.copies).sum()), int((copies == 0).sum()))


def frontier(
    arm: Arm, case: Case, points: int = 8, draws: int = DRAWS, seed: int = 0
) -> list[tuple[float, Three]]:
    """(gain, leakage with interval) at `points` even steps up to the arm's gain at its own best.

    As in `compare` the steps are shares of each draw's own gain; one not surely reached is left
    out.
    """
    side = _Side(arm, weights(arm, list(arm.seeds), draws, seed), case)
    count = _count(arm, case, list(arm.seeds))
    found = []
    for step in range(1, points + 1):
        target = side.at_best().gain * step / points
        if target[0] > 0 and _missed((at := side.at_gain(target)).leak) <= MISSED:
            found.append((float(target[0]), _leak(at, count)))
    return [(gain, leak) for gain, leak in found if leak]


def courses(arm: Arm, case: Case) -> list[tuple[float, list[tuple[float, float]]]]:
    """(rate, its rounds as (gain, leakage)) of each rate, from the data as they are."""
    drawn = weights(arm, list(arm.seeds), 0, 0)
    side = _Side(arm, drawn, case)
    leak = (side.share - side.twins)[:, 0]
    lines = (
        list(map(tuple, np.column_stack(pair).tolist()))
        for pair in zip(side.gain[:, 0], leak, strict=True)
    )
    return list(zip(arm.rates, lines, strict=True))


@dataclass(frozen=True)
class _At:
    """One arm somewhere on its frontier; arrays [draws + 1], leak = share less twins.

    notes, guessed: for each note of the level, and for each twin, whether it came out, by the data
    alone; between two rounds a part of one.
    """

    share: Floats
    twins: Floats
    notes: Floats
    guessed: Floats
    gain: Floats
    beside: list[Floats]
    rate: float
    round: float

    @property
    def leak(self) -> Floats:
        return self.share - self.twins


class _Side:
    def __init__(self, arm: Arm, drawn: Weights, case: Case) -> None:
        self.arm, self.seeds = arm, list(drawn.questions)
        self.attack, self.copies = case.attack, case.copies
        self.gain = gains(arm, drawn, case.axis)
        self.share = shares(arm, drawn, case.attack, case.copies)
        guessed = shares(arm, drawn, case.attack, 0)
        self.twins = np.where(np.isnan(guessed), 0.0, guessed)  # without twins the share itself
        self.beside = [gains(arm, drawn, axis) for axis in case.beside]
        chosen = gains(arm, drawn, case.axis, validation=True)[:, 0]  # [rates, rounds + 1]
        # ties between rates go to the one that the validation half likes best
        self.order = list(np.argsort(-np.nanmax(chosen, axis=1), kind="stable"))
        rate, number = np.unravel_index(np.nanargmax(chosen), chosen.shape)
        self.best = float(chosen[rate, number]), int(rate), int(number)

    def at_best(self) -> _At:
        """At the rate and round with the highest gain on the validation half."""
        _, rate, number = self.best
        beside = [other[rate, :, number] for other in self.beside]
        return _At(
            share=self.share[rate, :, number],
            twins=self.twins[rate, :, number],
            notes=self._hits(self.copies)[rate, number],
            guessed=self._hits(0)[rate, number],
            gain=self.gain[rate, :, number],
            beside=beside,
            rate=self.arm.rates[rate],
            round=float(self.arm.rounds[number]),
        )

    def at_gain(self, target: Floats | float) -> _At:
        """Where the arm leaks least of all places at which a rate first reaches the gain.

        target: one for all draws, or one for each.
        """
        places = [first_reach(self.gain[rate], target) for rate in self.order]
        leak = self.share - self.twins
        lowest, which = least(self._there(leak, places))

        def taken(values: Floats) -> Floats:
            return self._there(values, places)[which, np.arange(len(which))]

        rate, place = self.order[which[0]], places[which[0]]

        def notes(copies: int) -> Floats:
            hits = self._hits(copies)[rate].T  # [notes, rounds + 1]
            return value_at(hits, Place(*(np.repeat(part[:1], len(hits)) for part in place)))

        return _At(
            share=taken(self.share),
            twins=taken(self.twins),
            notes=notes(self.copies),
            guessed=notes(0),
            gain=np.where(np.isnan(lowest), np.nan, target),
            beside=[taken(other) for other in self.beside],
            rate=self.arm.rates[rate],
            round=_round(self.arm, place),
        )

    def _there(self, values: Floats, places: Sequence[Place]) -> Floats:
        """`values` [rates, draws, rounds + 1] at each rate's place: [rates, draws]."""
        pairs = zip(self.order, places, strict=True)
        return np.stack([value_at(values[rate], place) for rate, place in pairs])

    def _hits(self, copies: int) -> Floats:
        """[rates, rounds + 1, notes] of a level, all seeds side by side."""
        sheets = [self.arm.seeds[seed] for seed in self.seeds]
        found = [sheet.hits[self.attack][:, :, sheet.copies == copies] for sheet in sheets]
        return np.concatenate(found, axis=2)


def _round(arm: Arm, place: Place) -> float:
    """The point estimate's place in rounds, such as 3.4."""
    after = int(place.after[0])
    last = arm.rounds[max(after - 1, 0)]
    return last + float(place.fraction[0]) * (arm.rounds[after] - last)


def _problem(a: Arm, b: Arm, shared: Sequence[int]) -> str | None:
    if not shared:
        return "no seed in common"
    for seed in shared:
        ours, theirs = a.seeds[seed], b.seeds[seed]
        if ours.notes != theirs.notes or (ours.copies != theirs.copies).any():
            return "not the same notes"
        if ours.questions != theirs.questions:
            return "not the same questions"
    return None


def _head(a: Arm, b: Arm, case: Case) -> Row:
    same = {"attack": case.attack, "copies": case.copies, "axis": case.axis.name}
    return {"a": a.name, "b": b.name} | same


def _untold(a: Arm, b: Arm, case: Case, why: str, share: float | None = None) -> Row:
    way = "own best" if share is None else "same utility"
    return _head(a, b, case) | {"way": way, "share": share, "verdict": f"cannot tell: {why}"}


def _row(
    a: Arm,
    b: Arm,
    case: Case,
    way: str,
    share: float | None,
    at: Sequence[_At],
    count: Count,
    seeds: Sequence[int],
) -> Row:
    ours, theirs = at
    row = _head(a, b, case) | {"way": way, "share": share, "seeds": len(seeds)} | count._asdict()
    row |= {"rate_a": ours.rate, "rate_b": theirs.rate}
    row |= {"round_a": ours.round, "round_b": theirs.round}
    row["early"] = [arm.name for arm, side in ((a, ours), (b, theirs)) if 0 < side.round < 1]
    row |= dict(_figures(case, ours, theirs, count))
    short = [arm.name for arm, side in ((a, ours), (b, theirs)) if _missed(side.leak) > MISSED]
    difference = row["difference"]
    if short:
        row["verdict"] = f"cannot tell: {' and '.join(short)} may not reach this utility"
    elif difference is None:
        row["verdict"] = "cannot tell: no note of this level was tried"
    elif difference[1] > 0 or difference[2] < 0:
        row["verdict"] = "less" if difference[1] > 0 else "more"
    else:
        row["verdict"] = "cannot tell: the interval of the difference holds 0"
    return row


def _figures(case: Case, ours: _At, theirs: _At, count: Count) -> Iterator[tuple[str, Any]]:
    yield "leak_a", _leak(ours, count)
    yield "leak_b", (below := _leak(theirs, count))
    drawn = _interval(ours.leak - theirs.leak, count.notes)
    yield "difference", drawn and _wider(drawn, _score_of_pairs(ours, theirs))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = ours.leak / theirs.leak
    drawn = _interval(ratio, count.notes) if below and below[1] > 0 else None
    yield "ratio", drawn and _wider(drawn, times(_score(ours, count), _score(theirs, count)))
    yield "gain_a", _interval(ours.gain, count.notes)
    yield "gain_b", _interval(theirs.gain, count.notes)
    yield "gain_difference", _interval(ours.gain - theirs.gain, count.notes)
    pairs = zip(case.beside, ours.beside, theirs.beside, strict=True)
    yield "beside", {axis.name: _interval(a - b, count.notes) for axis, a, b in pairs}


def _leak(at: _At, count: Count) -> Three | None:
    drawn = _interval(at.leak, count.notes)
    return drawn and _wider(drawn, _score(at, count))


def _score(at: _At, count: Count) -> Interval:
    """The leak by Wilson's and Newcombe's intervals, as if all seeds' notes were one sample.

    Between two rounds the share of notes is no count; Wilson's takes it as it is.
    """
    if np.isnan(at.share[0]):
        return Interval(0.0, -1.0, 1.0)
    share = wilson(float(at.share[0]) * count.notes, count.notes)
    if not count.twins:
        return share
    return apart(share, wilson(float(at.twins[0]) * count.twins, count.twins))


def _score_of_pairs(ours: _At, theirs: _At) -> Interval:
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


def _missed(values: Floats) -> float:
    return float(np.isnan(values).mean()) if not np.isnan(values[0]) else 1.0


def _interval(values: Floats, notes: int) -> Three | None:
    """(point, low, high) from [draws + 1], row 0 the data; None where the data have no value.

    The percentiles are expanded as for a bootstrap over so many notes (`expanded_tail`).
    """
    if np.isnan(values[0]):
        return None
    tail = expanded_tail(notes, 0.95)
    with np.errstate(invalid="ignore"):  # a ratio may be infinite
        low, high = np.nanquantile(values[1:], [tail, 1 - tail])
    return float(values[0]), float(low), float(high)
