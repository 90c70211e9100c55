"""Bounds on epsilon from one run: known figures, brute force, and the promise that they keep."""

from __future__ import annotations

import math
from itertools import product

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmem.auditing.one_run import (
    ceiling,
    gaussian_epsilon,
    gaussian_lower_bound,
    lower_bound,
    p_value,
    refuted,
)


def exact_p(m: int, r: int, v: int, epsilon: float, delta: float) -> float:
    """Theorem 5.2 as it is written, term by term in 40 digits."""
    with mpmath.workdps(40):
        q = mpmath.e**epsilon / (1 + mpmath.e**epsilon)
        pmf = [mpmath.binomial(r, k) * q**k * (1 - q) ** (r - k) for k in range(r + 1)]
        worst = max((sum(pmf[v - i : v]) / i for i in range(1, v + 1)), default=mpmath.mpf(0))
        return float(sum(pmf[v:]) + 2 * m * delta * worst)


@given(st.data())
def test_the_p_value_is_theorem_5_2(data: st.DataObject) -> None:
    m = data.draw(st.integers(1, 60))
    r = data.draw(st.integers(0, m))
    v = data.draw(st.integers(0, r))
    epsilon, delta = data.draw(st.floats(0, 8)), data.draw(st.sampled_from([0.0, 1e-5, 1e-2]))
    expected = min(1.0, exact_p(m, r, v, epsilon, delta))
    assert p_value(m, r, v, epsilon, delta) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_ceilings_as_they_are_known() -> None:
    found = [ceiling(m, 0.0) for m in (20, 50, 100, 1000)]
    assert found == pytest.approx([1.8, 2.8, 3.5, 5.8], abs=0.05)
    # all of r right: q^r = 5 %
    q = 0.05 ** (1 / 40)
    assert ceiling(100, 0.0, guesses=40) == pytest.approx(math.log(q / (1 - q)), abs=1e-8)
    assert ceiling(100, 0.0, 0.999) < ceiling(100, 0.0, 0.95)
    assert ceiling(100, 1e-3) < ceiling(100, 1e-5) < ceiling(100, 0.0)


@given(st.data())
def test_bounds_move_the_right_way(data: st.DataObject) -> None:
    m = data.draw(st.integers(2, 400))
    r = data.draw(st.integers(1, m))
    v = data.draw(st.integers(0, r - 1))
    delta = data.draw(st.sampled_from([1e-6, 1e-4]))
    for bound in (lower_bound, gaussian_lower_bound):
        here = bound(m, r, v, delta)
        assert 0 <= here <= bound(m, r, v + 1, delta)
        assert bound(m, r, v, delta, 0.999) <= here
        assert bound(m, r, v, 10 * delta) <= here + 1e-8
        if 2 * v <= r:
            assert here == 0  # no better than coins
    # what is refuted is refuted, and a little above no more
    here = lower_bound(m, r, v, delta)
    if here > 0:
        assert p_value(m, r, v, here, delta) < 0.05 <= p_value(m, r, v, here + 1e-6, delta)


def test_the_epsilon_of_a_gaussian_mechanism() -> None:
    # noise equal to its sensitivity
    assert gaussian_epsilon(1.0, 1e-5) == pytest.approx(4.38, abs=5e-3)
    assert gaussian_epsilon(0.0, 1e-5) == 0 == gaussian_epsilon(1e-3, 0.1)
    for mu, delta in product((0.01, 0.3, 1.0, 4.0, 9.0), (1e-8, 1e-5, 1e-3)):
        epsilon = gaussian_epsilon(mu, delta)
        with mpmath.workdps(40):
            a, b = -epsilon / mu + mu / 2, -epsilon / mu - mu / 2
            found = mpmath.ncdf(a) - mpmath.e**epsilon * mpmath.ncdf(b)
        assert float(found) == pytest.approx(delta, rel=1e-6)


def tried(m: int, mu: float, guesses: int, seed: int) -> int:
    """Right guesses about m coins from scores of a Gaussian mechanism that is exactly mu-GDP."""
    rng = np.random.default_rng(seed)
    coins = rng.integers(0, 2, m)
    order = np.argsort(-rng.normal(coins * mu, 1.0))
    half = guesses // 2
    return int(coins[order[:half]].sum() + (1 - coins[order[m - half :]]).sum())


def test_the_gaussian_variant_is_tighter_where_it_holds() -> None:
    """True epsilon 4.38 (mu 1) and 5000 canaries: about 2.9 against 2.1."""
    right = [tried(5000, 1.0, 200, seed) for seed in range(5)]
    general = np.mean([lower_bound(5000, 200, v, 1e-5) for v in right])
    gaussian = np.mean([gaussian_lower_bound(5000, 200, v, 1e-5) for v in right])
    assert general == pytest.approx(2.1, abs=0.15)
    assert gaussian == pytest.approx(2.9, abs=0.2)


@pytest.mark.parametrize("mu", [0.0, 0.5, 1.5])
def test_a_true_guarantee_is_refuted_no_more_often_than_the_level_allows(mu: float) -> None:
    """200 runs of a mechanism that is mu-GDP: a binomial test of 5 % false alarms, at 0.1 %."""
    from scipy.stats import binom

    delta, runs = 1e-5, 200
    epsilon = gaussian_epsilon(mu, delta)
    right = [tried(300, mu, 100, seed) for seed in range(runs)]
    allowed = int(binom.ppf(0.999, runs, 0.05))
    bounds = {v: lower_bound(300, 100, v, delta) for v in set(right)}
    assert sum(bounds[v] > epsilon for v in right) <= allowed
    assert sum(refuted(300, 100, v, max(mu, 1e-9)) for v in right) <= allowed


def test_without_a_leak_the_bound_is_nought_in_nine_of_ten_runs_and_a_leak_is_found() -> None:
    nothing = [lower_bound(100, 100, tried(100, 0.0, 100, seed), 1e-5) for seed in range(200)]
    assert sum(bound == 0 for bound in nothing) >= 0.9 * 200
    leaks = [lower_bound(100, 100, tried(100, 3.0, 100, seed), 1e-5) for seed in range(20)]
    assert min(leaks) > 0.5


@pytest.mark.parametrize(
    ("m", "r", "v", "delta", "level"),
    [
        (10, 11, 5, 0.0, 0.95),
        (10, 5, 6, 0.0, 0.95),
        (0, 0, 0, 0.0, 0.95),
        (10, 5, 5, 1.0, 0.95),
        (10, 5, 5, -1e-9, 0.95),
        (10, 5, 5, 1e-5, 1.0),
        (10, 5, 5, 1e-5, 0.5),
    ],
)
def test_numbers_that_cannot_be(m: int, r: int, v: int, delta: float, level: float) -> None:
    for bound in (lower_bound, gaussian_lower_bound):
        with pytest.raises(ValueError, match=r"cannot be|delta|level"):
            bound(m, r, v, delta, level)
    with pytest.raises(ValueError, match="no Gaussian mechanism"):
        gaussian_lower_bound(10, 5, 5, 0.0)
