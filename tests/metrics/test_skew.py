"""Tails, by brute force."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest

from fedmem.metrics import skew
from fedmem.metrics.leakage import passes
from fedmem.metrics.outcomes import Key, Outcome, Owned


@pytest.mark.parametrize(("notes", "worst", "sample"), [(6, 1, 2), (7, 3, 4), (5, 5, 0), (4, 2, 3)])
def test_missing_the_worst_case_is_the_count_of_samples(notes, worst, sample):
    samples = list(combinations(range(notes), sample))
    share = sum(min(one, default=notes) >= worst for one in samples) / len(samples)
    assert skew.missed(notes, worst, sample) == pytest.approx(share)


def test_no_such_sample():
    for case in ((5, 0, 1), (5, 6, 1), (5, 1, 6), (5, 1, -1)):
        with pytest.raises(ValueError, match="no such sample"):
            skew.missed(*case)
    assert skew.missed(100_000, 1, 1000) == pytest.approx(0.99)


def test_the_curve_is_what_counting_says():
    lengths = [0, 0, 3, 3, 7, 50]
    found = {row["at"]: (row["k"], row["n"]) for row in skew.curve(lengths)}
    assert found == {0: (6, 6), 3: (4, 6), 7: (2, 6), 50: (1, 6)}
    long = skew.curve(list(range(500)))
    assert len(long) == skew.POINTS and (long[0]["at"], long[-1]["at"]) == (0, 499)


def test_quantiles_are_notes_themselves():
    row = skew.shape([5, 1, 2, 4, 3, 6, 8, 7, 10, 9])
    assert (row["median"], row["q90"], row["q95"], row["max"], row["mean"]) == (5, 9, 10, 10, 5.5)
    assert skew.shape([3])["q99"] == 3


@pytest.mark.parametrize("most", [None, 12])
def test_the_fit_is_the_most_likely_geometric_law(most):
    rng = np.random.default_rng(0)
    lengths = [int(n) - 1 for n in rng.geometric(0.2, 300)]
    lengths = lengths if most is None else [min(n, most) for n in lengths]

    def likelihood(q):
        return sum(n * math.log(q) + (0 if n == most else math.log(1 - q)) for n in lengths)

    q = skew.fit(lengths, most)["q"]
    grid = np.linspace(0.01, 0.99, 981)
    assert q == pytest.approx(grid[np.argmax([likelihood(g) for g in grid])], abs=0.001)
    assert q == pytest.approx(0.8, abs=0.03)


def test_a_heavy_tail_is_told_from_a_geometric_one():
    rng = np.random.default_rng(1)
    heavy = 0
    for _ in range(400):
        lengths = [int(n) - 1 for n in rng.geometric(0.3, 40)]
        heavy += skew.fit(lengths)["heavy"]
    assert heavy <= 22  # one in forty by chance: 10 of 400; 22 or more has a chance of 1e-3
    assert skew.fit([0] * 30 + [1] * 9 + [50])["heavy"]
    assert skew.fit([0, 0, 0])["q"] == 0 and skew.fit([0, 0, 0])["expected_max"] == 0
    assert skew.fit([9, 9], 9)["heavy"] is None  # all cut off: nothing can be said


def test_rows_of_a_run_and_of_one_without_lengths():
    canaries, found = {}, {}
    for n in range(10):
        name, copies = f"n{n}", (0, 1, 10)[n % 3]
        canaries[name] = Owned(name, name, ("a",), copies, copies == 0, 60, 200, 0)
        for round_ in (0, 1):
            best = (n if round_ else 0, 50, 10, 30, 0.0)
            one = Outcome(best=best, longest=2 * n * round_, tokens=59)
            found[Key(round_, "global", "*", "true_prefix", name)] = one
    rows = skew.rows(passes(found, canaries, {1: ["a"]}), canaries)
    lengths = [r for r in rows if r["figure"] == "length" and r["round"] == 1]
    assert {(r["copies"], r["measure"], r["n"], r["max"]) for r in lengths} >= {
        (0, "prefix", 4, 9),
        (10, "run", 3, 16),
        (None, "prefix", 6, 8),
    }
    assert {r["round"] for r in rows if r["figure"] == "tail"} == {1}
    missed = [r for r in rows if r["figure"] == "missed" and r["measure"] == "run"]
    assert missed[-1]["missed"] == 0.0 and {r["sample"]: r["missed"] for r in missed}[3] == 0.5
    bare = {key: Outcome(phi={0: True}) for key in found}
    assert skew.rows(passes(bare, canaries, {1: ["a"]}), canaries) == []
    assert skew.rows({}, canaries) == []
