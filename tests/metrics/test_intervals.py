"""Intervals against values computed elsewhere (scipy 1.17, Newcombe 1998), and their properties."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmem.metrics.intervals import (
    Interval,
    bootstrap_mean,
    bootstrap_ratio,
    clopper_pearson,
    cluster_share,
    newcombe,
    paired_share,
    student_mean,
    times,
    wilson,
)

# scipy.stats.binomtest(k, n).proportion_ci(0.95, "wilson" / "exact")
KNOWN = [
    (0, 32, (0.00000000, 0.10717920), (0.00000000, 0.10888116)),
    (7, 16, (0.23098652, 0.66821444), (0.19753414, 0.70122310)),
    (1, 10, (0.01787621, 0.40415003), (0.00252858, 0.44501612)),
    (5, 5, (0.56551754, 1.00000000), (0.47817625, 1.00000000)),
    (450, 1304, (0.31977813, 0.37131593), (0.31927937, 0.37160500)),
]
counts = st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@pytest.mark.parametrize(("k", "n", "score", "exact"), KNOWN)
def test_known_values(k, n, score, exact):
    assert (wilson(k, n).low, wilson(k, n).high) == pytest.approx(score, abs=1e-7)
    found = clopper_pearson(k, n)
    assert (found.low, found.high) == pytest.approx(exact, abs=1e-7)
    assert found.point == k / n


@given(counts, st.sampled_from([0.8, 0.95, 0.999]))
def test_equal_to_scipy(count, level):
    stats = pytest.importorskip("scipy.stats", reason="scipy is no dependency; compared if there")
    for ours, method in ((wilson, "wilson"), (clopper_pearson, "exact")):
        theirs = stats.binomtest(*count).proportion_ci(level, method)
        found = ours(*count, level)
        assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


@given(counts)
def test_contains_the_point_and_mirrors(count):
    k, n = count
    for method in (wilson, clopper_pearson):
        found, mirrored = method(k, n), method(n - k, n)
        assert 0 <= found.low <= found.point <= found.high <= 1
        assert found.low == pytest.approx(1 - mirrored.high, abs=1e-9)


def test_zero_hits_are_no_certainty():
    assert wilson(0, 6).high > 0.3
    assert clopper_pearson(0, 6).high == pytest.approx(1 - 0.025 ** (1 / 6))


def test_newcombe_example_of_the_paper():
    # Newcombe 1998, table II, method 10: 56/70 - 48/80 is .2000 (.0524 to .3339).
    found = newcombe(56, 70, 48, 80)
    assert (found.point, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
    turned = newcombe(48, 80, 56, 70)
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))


@pytest.mark.parametrize(("k", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_impossible_counts(k, n):
    for method in (wilson, clopper_pearson):
        with pytest.raises(ValueError, match="0 <= k <= n"):
            method(k, n)
    with pytest.raises(ValueError, match="between 0 and 1"):
        wilson(1, 2, level=1.0)


def test_bootstrap_mean_is_near_the_normal_interval():
    values = [i / 99 for i in range(100)]
    found = bootstrap_mean(values, seed=3)
    half = 1.96 * math.sqrt(sum((v - 0.5) ** 2 for v in values)) / 100
    assert found.point == pytest.approx(0.5)
    assert (found.low, found.high) == pytest.approx((0.5 - half, 0.5 + half), abs=0.006)
    assert found == bootstrap_mean(values, seed=3) != bootstrap_mean(values, seed=4)


def test_windows_of_a_note_are_one_unit():
    # attacks.md's warning: 6 notes x 4 windows at 25 % know less than 24 windows would.
    hits, windows = [4, 2, 0, 0, 0, 0], [4] * 6
    found, method = cluster_share(hits, windows)
    alone = wilson(6, 24)
    assert method == "wilson, notes as clusters" and found.point == 0.25
    assert found.high - found.low > alone.high - alone.low


def test_no_spread_falls_back_on_notes():
    found, method = cluster_share([0, 0, 0], [14, 14, 10])
    assert (found, method) == (wilson(0, 3), "wilson over notes")
    same, _ = cluster_share([1, 2], [2, 4])
    assert same.point == 0.5 and same.high - same.low > 0.5


def test_bootstrap_refuses_what_it_cannot_do():
    for over, under in (([], []), ([1], [1, 2]), ([1.0], [0.0])):
        with pytest.raises(ValueError, match="need"):
            bootstrap_ratio(over, under)


def test_paired_share_by_hand():
    # Bonett and Price 2012: (b + 1) / (n + 2), (c + 1) / (n + 2); here 5 and 11 of 40 + 2
    found = paired_share(4, 10, 40)
    up, down = 5 / 42, 11 / 42
    half = 1.959963984540054 * math.sqrt((up + down - (up - down) ** 2) / 42)
    assert found.point == pytest.approx(-6 / 40)
    assert (found.low, found.high) == pytest.approx((up - down - half, up - down + half))


def test_paired_share_where_nothing_changed_is_not_certain():
    found = paired_share(0, 0, 30)
    assert found.low < -0.05 and found.high > 0.05 and found.point == 0
    assert all(
        paired_share(a, b, 12).low <= paired_share(a, b, 12).point <= paired_share(a, b, 12).high
        for a in range(13)
        for b in range(13 - a)
    )


@pytest.mark.parametrize(
    ("gain", "loss", "n"), [(0.05, 0.05, 40), (0.02, 0.15, 60), (0.3, 0.2, 25)]
)
def test_paired_share_holds_the_truth_as_often_as_it_says(gain, loss, n):
    rng = np.random.default_rng(7)
    draws = rng.multinomial(n, [gain, loss, 1 - gain - loss], size=3000)
    held = [
        paired_share(int(g), int(lost), n).low
        <= gain - loss
        <= paired_share(int(g), int(lost), n).high
        for g, lost, _ in draws
    ]
    assert np.mean(held) > 0.94


def test_a_mean_of_few_notes_by_students_t():
    stats = pytest.importorskip("scipy.stats")
    values = [0.3, -0.1, 0.8, 0.4]
    for level in (0.9, 0.95):
        found = student_mean(values, level)
        low, high = stats.t.interval(level, 3, np.mean(values), stats.sem(values))
        assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9)
    for n in (2, 3, 4, 11, 100):  # even and odd degrees of freedom
        found = student_mean([0.0, 1.0] * (n // 2) + [0.5] * (n % 2))
        spread = stats.sem([0.0, 1.0] * (n // 2) + [0.5] * (n % 2))
        assert found.high - found.point == pytest.approx(stats.t.ppf(0.975, n - 1) * spread)
    with pytest.raises(ValueError, match="two values"):
        student_mean([1.0])


def test_a_ratio_from_two_intervals() -> None:
    same = Interval(1.0, 0.65, 1.0)
    found = times(same, same)
    assert found.point == 1.0 and found.low == pytest.approx(0.65)
    assert found.high == pytest.approx(1 / 0.65)
    # as Fieller's interval, for two normal means with small errors
    rng = np.random.default_rng(0)
    drawn = rng.normal(3.0, 0.1, 200_000) / rng.normal(2.0, 0.1, 200_000)
    near = times(Interval(3.0, 3 - 0.196, 3 + 0.196), Interval(2.0, 2 - 0.196, 2 + 0.196))
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert near.low == pytest.approx(low, abs=0.01) and near.high == pytest.approx(high, abs=0.01)
