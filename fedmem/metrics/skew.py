"""The tail of leakage: how long the matched prefixes are, the worst case, the chance to miss it.

After Li et al. (2025, arXiv 2502.01187): n_pre, the tokens that the model gives back behind a
prompt before the first wrong one, is skewed: most notes have next to none, a few nearly all. Means
hide that; so does a sample of the notes. Pure functions of the saved outcomes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fedmem.metrics.intervals import wilson
from fedmem.metrics.leakage import Notes, Passes, by_level
from fedmem.metrics.outcomes import Owned

Row = dict[str, Any]
QUANTILES = {"median": 0.5, "q90": 0.9, "q95": 0.95, "q99": 0.99}
POINTS = 40  # of a tail curve, at most
TAIL = 0.975
NO_LAW: Row = dict.fromkeys(("most", "at_most", "q", "expected_max", "heavy"))  # runs have none


def rows(found: Passes, canaries: Mapping[str, Owned]) -> list[Row]:
    """All rows by `figure` and `measure`, behind the true text; unit: the note.

    measure: "prefix", n_pre, the most over the prompts tried, cut off at `most`, the tokens asked
    for; "run", the longest run of right tokens anywhere in the note. copies 0 are the twins.
    Figure "length": a row a round and level (`shape`, and for
    "prefix" `fit`). After the last round also "tail": the share
    of notes with `at` tokens or more (`curve`); and "missed": `missed` by size of the sample, all
    levels but the twins together (copies null).
    """
    result: list[Row] = []
    last = max((round_ for round_, *_ in found), default=0)
    for (round_, knowledge, attacker), notes in sorted(found.items()):
        if (knowledge, attacker) != ("true_prefix", "*"):
            continue
        levels: dict[int | None, Notes] = dict(by_level(notes, canaries).items())
        written = {name: note for name, note in notes.items() if not canaries[name].twin}
        if len([copies for copies in levels if copies]) > 1:
            levels[None] = written
        for copies, group in levels.items():
            for measure in ("prefix", "run"):
                lengths, most = _lengths(group, measure)
                if not lengths:
                    continue
                head: Row = {"round": round_, "copies": copies, "measure": measure}
                head |= {"knowledge": knowledge}
                law = fit(lengths, most) if measure == "prefix" else NO_LAW
                result.append({"figure": "length"} | head | shape(lengths) | law)
                if round_ == last:
                    result += [{"figure": "tail"} | head | point for point in curve(lengths)]
        if round_ == last:
            for measure in ("prefix", "run"):
                lengths, _ = _lengths(written, measure)
                if lengths:
                    head = {"round": round_, "copies": None, "measure": measure}
                    head |= {"knowledge": knowledge, "max": max(lengths)}
                    result += [{"figure": "missed"} | head | point for point in chances(lengths)]
    return result


def _lengths(group: Notes, measure: str) -> tuple[list[int], int | None]:
    """(the length of each note, where lengths are cut off)."""
    if measure == "run":
        runs = [
            max((o.longest for o in n if o.longest is not None), default=None)
            for n in group.values()
        ]
        return [run for run in runs if run is not None], None
    best = [max((o.best for o in note if o.best), default=None) for note in group.values()]
    tried = [one for one in best if one is not None]
    return [one[0] for one in tried], max((one[1] for one in tried), default=None)


def shape(lengths: Sequence[int]) -> Row:
    """Mean, maximum, and quantiles: the least length that at least such a share does not exceed."""
    n, ordered = len(lengths), sorted(lengths)
    row: Row = {"n": n, "mean": sum(lengths) / n, "max": ordered[-1]}
    return row | {name: ordered[math.ceil(p * n) - 1] for name, p in QUANTILES.items()}


def fit(lengths: Sequence[int], most: int | None = None) -> Row:
    """A geometric law: P(length >= t) = q^t, at each token the same chance to go on.

    `q`: the most likely one, lengths of `most` being cut off there (`at_most` of them).
    `expected_max`: the 97.5 % quantile of the longest of n by that law; `heavy`: the longest is
    longer yet, so the tail is heavier than the law's. Both null where every length is cut off, or
    the quantile lies beyond what was asked for.
    """
    n = len(lengths)
    ended = n if most is None else sum(length < most for length in lengths)
    total = sum(lengths)
    q = total / (total + ended) if total else 0.0
    expected: int | None = 0
    if q:  # (1 - q^(t + 1))^n >= 0.975
        tail = -math.expm1(math.log(TAIL) / n)
        expected = math.ceil(math.log(tail) / math.log(q)) - 1 if q < 1 else None
    if expected is not None and most is not None and expected >= most:
        expected = None
    row: Row = {"most": most, "at_most": n - ended, "q": q, "expected_max": expected}
    return row | {"heavy": None if expected is None else max(lengths) > expected}


def curve(lengths: Sequence[int]) -> list[Row]:
    """P(length >= at), Wilson's intervals, where the curve steps; thinned to `POINTS` points."""
    n, steps = len(lengths), sorted({0, *lengths})
    if len(steps) > POINTS:
        kept = {round(i * (len(steps) - 1) / (POINTS - 1)) for i in range(POINTS)}
        steps = [steps[i] for i in sorted(kept)]
    found = []
    for at in steps:
        k = sum(length >= at for length in lengths)
        interval = wilson(k, n)
        row: Row = {"at": at, "k": k, "n": n, "rate": interval.point}
        found.append(row | {"low": interval.low, "high": interval.high})
    return found


def missed(notes: int, worst: int, sample: int) -> float:
    """C(M - k, z) / C(M, z): the chance that none of `worst` notes is among `sample` of `notes`.

    Fails with ValueError unless 1 <= worst <= notes and 0 <= sample <= notes.
    """
    if not 1 <= worst <= notes or not 0 <= sample <= notes:
        raise ValueError(f"no such sample: {sample} of {notes} notes, {worst} of them the worst")
    return math.comb(notes - worst, sample) / math.comb(notes, sample)


def chances(lengths: Sequence[int]) -> list[Row]:
    """`missed` for samples of up to `POINTS` sizes; k: notes of the greatest length."""
    n, k = len(lengths), sum(length == max(lengths) for length in lengths)
    sizes = sorted({max(1, round(i * n / POINTS)) for i in range(1, POINTS + 1)})
    return [{"sample": z, "n": n, "k": k, "missed": missed(n, k, z)} for z in sizes]
