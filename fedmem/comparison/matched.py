"""Arm against arm: each at its own best, and both at the same utility.

Everything that is random is drawn together: seeds, and within each seed its questions, its notes
and its twins, the same draws for both arms (they met the same notes and questions). An interval is
one over these draws, in which what both arms share cancels; a bootstrap of none of n notes has no
width, so for leakage it is never narrower than the score intervals of as many notes. Half of the
questions choose rates, rounds and the utility to compare at; figures come from the other half.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fedmem.comparison.draws import weights
from fedmem.comparison.figures import Count, Three, count_of, figures, interval, leak_of, missed
from fedmem.comparison.sheets import Arm
from fedmem.comparison.sides import At, Case, Side

DRAWS = 2000
SHARE = 1.0  # of the smaller of the two best gains: the utility at which arms are compared
MISSED = 0.025  # draws that may miss that utility, as many as an interval leaves out on a side
Row = dict[str, Any]


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
    count = count_of(a, case, shared)
    sides = [Side(arm, drawn, case) for arm in (a, b)]
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
    at = Side(arm, weights(arm, list(arm.seeds), draws, seed), case).at_best()
    count = count_of(arm, case, list(arm.seeds))
    beside = zip(case.beside, at.beside, strict=True)
    return {
        **{"rate": at.rate, "round": at.round},
        **{"leak": leak_of(at, count), "gain": interval(at.gain, count.notes)},
        "beside": {axis.name: interval(values, count.notes) for axis, values in beside},
    }


def frontier(
    arm: Arm, case: Case, points: int = 8, draws: int = DRAWS, seed: int = 0
) -> list[tuple[float, Three]]:
    """(gain, leakage with interval) at `points` even steps up to the arm's gain at its own best.

    As in `compare` the steps are shares of each draw's own gain; one not surely reached is left
    out.
    """
    side = Side(arm, weights(arm, list(arm.seeds), draws, seed), case)
    count = count_of(arm, case, list(arm.seeds))
    found = []
    for step in range(1, points + 1):
        target = side.at_best().gain * step / points
        if target[0] > 0 and missed((at := side.at_gain(target)).leak) <= MISSED:
            found.append((float(target[0]), leak_of(at, count)))
    return [(gain, leak) for gain, leak in found if leak]


def courses(arm: Arm, case: Case) -> list[tuple[float, list[tuple[float, float]]]]:
    """(rate, its rounds as (gain, leakage)) of each rate, from the data as they are."""
    drawn = weights(arm, list(arm.seeds), 0, 0)
    side = Side(arm, drawn, case)
    leak = (side.share - side.twins)[:, 0]
    lines = (
        list(map(tuple, np.column_stack(pair).tolist()))
        for pair in zip(side.gain[:, 0], leak, strict=True)
    )
    return list(zip(arm.rates, lines, strict=True))


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
    at: Sequence[At],
    count: Count,
    seeds: Sequence[int],
) -> Row:
    ours, theirs = at
    row = _head(a, b, case) | {"way": way, "share": share, "seeds": len(seeds)} | count._asdict()
    row |= {"rate_a": ours.rate, "rate_b": theirs.rate}
    row |= {"round_a": ours.round, "round_b": theirs.round}
    row["early"] = [arm.name for arm, side in ((a, ours), (b, theirs)) if 0 < side.round < 1]
    row |= dict(figures(case, ours, theirs, count))
    short = [arm.name for arm, side in ((a, ours), (b, theirs)) if missed(side.leak) > MISSED]
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
