"""Arm against arm: each at its own best, and both at the same utility.

Everything that is random is drawn together: seeds, and within each seed its questions, its notes
and its twins, the same draws for both arms (they met the same notes and questions). An interval is
one over these draws; what both arms share cancels. Half of the questions choose rates, rounds and
the utility to compare at; the figures come from the other half.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedmem.metrics.frontier import Floats, Place, first_reach, least, value_at
from fedmem.metrics.intervals import expanded_tail
from fedmem.metrics.observations import is_validation
from fedmem.metrics.sheets import Arm

DRAWS = 2000
SHARE = 0.9  # of the smaller of the two best gains: the utility at which arms are compared
MISSED = 0.025  # draws that may miss that utility, as many as an interval leaves out on a side
Row = dict[str, Any]


@dataclass(frozen=True)
class Axis:
    """A measure of utility: `nll` (nats a token) or `accuracy`, over some tasks (None: all)."""

    name: str
    measure: str = "nll"
    tasks: tuple[str, ...] | None = None


# --- one arm under one set of weights ---------------------------------------------------------


@dataclass(frozen=True)
class Weights:
    """How often each seed, question and note was drawn; row 0 of each array: once, the data."""

    seeds: Floats  # [draws + 1, seeds]
    questions: dict[int, Floats]  # seed -> [draws + 1, questions]
    notes: dict[int, Floats]  # seed -> [draws + 1, notes]


def weights(arm: Arm, seeds: Sequence[int], draws: int, seed: int) -> Weights:
    """Draws with replacement: seeds; in each, questions by task and notes by level."""
    rng = np.random.default_rng(seed)
    picked = _times(rng, len(seeds), draws)
    questions, notes = {}, {}
    for one in seeds:
        sheet = arm.seeds[one]
        questions[one] = _strata(rng, sheet.tasks, draws)
        notes[one] = _strata(rng, sheet.copies.tolist(), draws)
    return Weights(picked, questions, notes)


def _times(rng: np.random.Generator, n: int, draws: int) -> Floats:
    drawn = rng.multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float64)
    return np.vstack([np.ones(n), drawn])


def _strata(rng: np.random.Generator, groups: Sequence[Any], draws: int) -> Floats:
    found = np.zeros((draws + 1, len(groups)))
    for group in sorted(set(groups)):
        members = [i for i, other in enumerate(groups) if other == group]
        found[:, members] = _times(rng, len(members), draws)
    return found


def gains(arm: Arm, drawn: Weights, axis: Axis, validation: bool = False) -> Floats:
    """Gain over the untouched base, [rates, draws + 1, rounds + 1]: nats, or share of questions."""

    def one(seed: int) -> Floats:
        sheet = arm.seeds[seed]
        chosen = np.array(
            [
                is_validation(question) == validation and (not axis.tasks or task in axis.tasks)
                for question, task in zip(sheet.questions, sheet.tasks, strict=True)
            ]
        )
        values = (-sheet.nll if axis.measure == "nll" else sheet.accuracy)[:, :, chosen]
        mean = _mean(values, drawn.questions[seed][:, chosen])
        return mean - mean[:, :, :1]

    return _over_seeds(arm, drawn, one)


def leaks(arm: Arm, drawn: Weights, attack: str, copies: int) -> Floats:
    """Share of notes written `copies` times that came out, less the twins' share; as `gains`.

    Without twins the share itself.
    """

    def one(seed: int) -> Floats:
        sheet = arm.seeds[seed]
        level, twins = sheet.copies == copies, sheet.copies == 0
        times, hits = drawn.notes[seed], sheet.hits[attack]
        share = _mean(hits[:, :, level], times[:, level])
        return share - _mean(hits[:, :, twins], times[:, twins]) if twins.any() else share

    return _over_seeds(arm, drawn, one)


def _mean(values: Floats, times: Floats) -> Floats:
    """[rates, rounds, units] under [draws, units] -> [rates, draws, rounds]; NaN counts nowhere."""
    known = ~np.isnan(values)
    total = np.einsum("aru,du->adr", np.where(known, values, 0.0), times)
    count = np.einsum("aru,du->adr", known.astype(np.float64), times)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(total / count)


def _over_seeds(arm: Arm, drawn: Weights, one: Any) -> Floats:
    """Mean over the drawn seeds; one in which nothing could be tried (NaN) counts nowhere."""
    seeds = list(drawn.questions)
    found = np.stack([one(seed) for seed in seeds])  # [seeds, rates, draws, rounds]
    times = drawn.seeds.T[:, None, :, None] * ~np.isnan(found)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((np.nan_to_num(found) * times).sum(axis=0) / times.sum(axis=0))


# --- two arms ---------------------------------------------------------------------------------


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
) -> list[Row]:
    """`b` against `a`: a row at each one's own best, then one for each share of the smaller gain.

    A row's figures are (point, low, high), 95 %: `leak_a`, `leak_b`, `difference` = a less b,
    `ratio` = a over b where b's interval is clear of 0, `gain_a`, `gain_b`, `gain_difference`, and
    for each axis of `beside` the difference in gain. `verdict`: "less", "more", or "cannot tell:
    why" of b's leakage. rate_*, round_*: where each arm stands, by the point estimate.
    """
    shared = [one for one in a.seeds if one in b.seeds]
    if problem := _problem(a, b, shared):
        return [_untold(a, b, case, problem)]
    drawn = weights(a, shared, draws, seed)
    units = min(int((a.seeds[s].copies == case.copies).sum()) for s in shared) * len(shared)
    sides = [_Side(arm, drawn, case) for arm in (a, b)]
    best = [side.best for side in sides]
    rows = [_row(a, b, case, "own best", None, [s.at_best() for s in sides], units, shared)]
    for share in shares:
        target = share * min(gain for gain, *_ in best)
        if target <= 0:
            rows.append(_untold(a, b, case, "an arm learned nothing on this axis", share))
            continue
        at = [side.at_gain(target) for side in sides]
        rows.append(_row(a, b, case, "same utility", share, at, units, shared) | {"gain": target})
    return rows


@dataclass(frozen=True)
class _At:
    """One arm somewhere on its frontier; arrays [draws + 1]."""

    leak: Floats
    gain: Floats
    beside: list[Floats]
    rate: float
    round: float


class _Side:
    def __init__(self, arm: Arm, drawn: Weights, case: Case) -> None:
        self.arm = arm
        self.gain = gains(arm, drawn, case.axis)
        self.leak = leaks(arm, drawn, case.attack, case.copies)
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
        where = self.arm.rates[rate], float(self.arm.rounds[number])
        return _At(self.leak[rate, :, number], self.gain[rate, :, number], beside, *where)

    def at_gain(self, target: float) -> _At:
        """Where the arm leaks least of all places at which a rate first reaches the gain."""
        places = [first_reach(self.gain[rate], target) for rate in self.order]
        found = [value_at(self.leak[r], p) for r, p in zip(self.order, places, strict=True)]
        leak, which = least(np.stack(found))
        beside = []
        for other in self.beside:
            values = [value_at(other[r], p) for r, p in zip(self.order, places, strict=True)]
            beside.append(np.stack(values)[which, np.arange(len(which))])
        place = places[which[0]]
        where = self.arm.rates[self.order[which[0]]], _round(self.arm, place)
        return _At(leak, np.where(np.isnan(leak), np.nan, target), beside, *where)


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
    notes: int,
    seeds: Sequence[int],
) -> Row:
    ours, theirs = at
    row = _head(a, b, case) | {"way": way, "share": share, "seeds": len(seeds), "notes": notes}
    row |= {"rate_a": ours.rate, "rate_b": theirs.rate}
    row |= {"round_a": ours.round, "round_b": theirs.round}
    row |= dict(_figures(case, ours, theirs, notes))
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


def _figures(case: Case, ours: _At, theirs: _At, notes: int) -> Iterator[tuple[str, Any]]:
    yield "leak_a", _interval(ours.leak, notes)
    yield "leak_b", (below := _interval(theirs.leak, notes))
    yield "difference", _interval(ours.leak - theirs.leak, notes)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = ours.leak / theirs.leak
    yield "ratio", _interval(ratio, notes) if below and below[1] > 0 else None
    yield "gain_a", _interval(ours.gain, notes)
    yield "gain_b", _interval(theirs.gain, notes)
    yield "gain_difference", _interval(ours.gain - theirs.gain, notes)
    pairs = zip(case.beside, ours.beside, theirs.beside, strict=True)
    yield "beside", {axis.name: _interval(a - b, notes) for axis, a, b in pairs}


def _missed(values: Floats) -> float:
    return float(np.isnan(values).mean()) if not np.isnan(values[0]) else 1.0


def _interval(values: Floats, notes: int) -> tuple[float, float, float] | None:
    """(point, low, high) from [draws + 1], row 0 the data; None where the data have no value.

    The percentiles are expanded as for a bootstrap over so many notes (`expanded_tail`).
    """
    if np.isnan(values[0]):
        return None
    tail = expanded_tail(notes, 0.95)
    low, high = np.nanquantile(values[1:], [tail, 1 - tail])
    return float(values[0]), float(low), float(high)
