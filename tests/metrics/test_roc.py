"""AUC and hits at few false positives, against brute force; and how often the interval holds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmem.metrics.roc import at_fpr, auc, told_apart

SCORES = st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=30)


@given(SCORES, SCORES)
def test_the_area_is_the_share_of_pairs(members: list[float], twins: list[float]) -> None:
    pairs = [(m > t) + (m == t) / 2 for m in members for t in twins]
    found = auc(np.array(members), np.array(twins))
    assert found.point == pytest.approx(sum(pairs) / len(pairs))
    assert 0 <= found.low <= found.point + 1e-9 and found.point - 1e-9 <= found.high <= 1
    other = auc(np.array(twins), np.array(members))
    assert (1 - other.high, 1 - other.low) == pytest.approx((found.low, found.high), abs=1e-9)


@given(SCORES, SCORES, st.sampled_from([0.0, 0.001, 0.01, 0.1, 0.34, 1.0]))
def test_hits_at_a_rate_are_those_of_the_best_threshold(
    members: list[float], twins: list[float], rate: float
) -> None:
    best = (0, 0)
    for threshold in [*twins, *members, math.inf, -math.inf]:
        wrong = sum(twin > threshold for twin in twins)
        if wrong <= rate * len(twins):
            best = max(best, (sum(member > threshold for member in members), wrong))
    assert at_fpr(np.array(members), np.array(twins), rate)[0] == best[0]
    assert at_fpr(np.array(members), np.array(twins), rate)[1] <= rate * len(twins)


def test_newcombe_s_worked_limits() -> None:
    # his method 5 is the root of |area - theta| = z sqrt(V(theta)); no correction in it
    found = auc(np.arange(20.0) + 1000, np.arange(30.0))
    theta, star = found.low, 24
    spread = 1 + star * ((1 - theta) / (2 - theta) + theta / (1 + theta))
    variance = theta * (1 - theta) * spread / 600
    assert (1 - 1 / 1200 - theta) / math.sqrt(variance) == pytest.approx(1.959964, abs=1e-4)
    assert (found.point, found.high) == (1.0, 1.0)
    assert 0.9 < found.low < 0.95


def test_three_against_four_proves_nothing() -> None:
    found = auc(np.array([5.0, 6, 7, 8]), np.array([1.0, 2, 3]))
    assert found.point == 1 and found.low < 0.5  # one in 35 by chance


@pytest.mark.parametrize(("m", "n"), [(5, 5), (8, 32), (16, 32), (40, 40)])
def test_the_interval_holds_as_often_as_it_says(m: int, n: int) -> None:
    rng = np.random.default_rng(m)
    same = [auc(rng.normal(size=m), rng.normal(size=n)) for _ in range(1500)]
    held = sum(one.low <= 0.5 <= one.high for one in same)
    assert held >= 1500 * 0.95 - 2.4 * math.sqrt(1500 * 0.95 * 0.05)  # binomial, one in a hundred
    # half of the members known by heart: the spread is all among members
    mixed = [
        auc(rng.normal(size=m) + 20 * (rng.random(m) < 0.5), rng.normal(size=n)) for _ in range(600)
    ]
    assert sum(one.low <= 0.75 <= one.high for one in mixed) >= 600 * 0.92


def test_a_rate_needs_as_many_twins_as_it_says() -> None:
    rng = np.random.default_rng(0)
    members = rng.normal(size=50) + 10
    row = told_apart(members, rng.normal(size=99))
    assert row["tpr_1"] is None and row["tpr_1_low"] is None
    assert row["tpr_1_reason"] == "99 twins; a rate of 1.0% takes 100"
    assert row["clear"] and row["auc"] == 1
    row = told_apart(members, rng.normal(size=100))
    assert (row["tpr_1"], row["tpr_1_high"], row["tpr_1_reason"]) == (1.0, 1.0, None)
    assert row["tpr_1_low"] == pytest.approx(0.9289, abs=1e-4)  # 50 of 50, Clopper-Pearson
    assert row["tpr_1_fpr"] == 0.01
    assert row["tpr_1_fpr_high"] == pytest.approx(0.0545, abs=1e-4)
    assert row["tpr_01"] is None
    assert told_apart(members, rng.normal(size=1000))["tpr_01"] == 1


def test_without_twins_or_members_nothing_is_claimed() -> None:
    some, none = np.array([1.0, 2.0]), np.array([])
    assert told_apart(some, none)["reason"] == "no twins: nothing to compare with"
    assert told_apart(none, some)["reason"] == "no members with a score"
    for row in (told_apart(some, none), told_apart(none, some), told_apart(some, some, "why")):
        figures = [key for key in row if key not in ("members", "twins")]
        assert all(row[key] is None for key in figures if not key.endswith("reason"))


def test_equal_and_infinite_scores() -> None:
    assert auc(np.zeros(5), np.zeros(7)).point == 0.5
    assert at_fpr(np.zeros(5), np.zeros(100), 0.01) == (0, 0)
    found = auc(np.array([-np.inf, 1.0]), np.array([-np.inf, 0.0]))
    assert found.point == 0.625 and found.low < 0.5
