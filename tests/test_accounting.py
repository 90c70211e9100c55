"""Epsilon: composition, corners, and the search for a noise multiplier."""

from __future__ import annotations

import math

import pytest

from fedmem.accounting import Step, epsilon, noise_multiplier

DELTA = 1e-5


@pytest.mark.parametrize(("z", "target"), [(0.970, 1.0), (0.683, 3.0), (0.501, 8.0)])
def test_the_figures_of_the_design(z: float, target: float) -> None:
    found = epsilon([Step(z, 0.008, 375)], DELTA)
    assert found.method == "prv"
    assert found.pld == pytest.approx(target, rel=2e-3)
    assert found.pld < found.rdp < 1.5 * found.pld


@pytest.mark.parametrize("target", [1.0, 8.0])
def test_noise_for_a_target_stays_below_it(target: float) -> None:
    z = noise_multiplier(target, DELTA, 0.008, 375)
    assert f"{z:.3g}" in {"0.97", "0.971", "0.501"}
    assert 0.998 * target < epsilon([Step(z, 0.008, 375)], DELTA).pld <= target


def test_a_target_that_no_noise_reaches_is_an_error() -> None:
    with pytest.raises(ValueError, match="no noise up to 10,000"):
        noise_multiplier(1e-4, DELTA, 1.0, 10_000)
    with pytest.raises(ValueError, match="above 0"):
        noise_multiplier(0.0, DELTA, 0.1, 10)


def test_ten_rounds_of_five_steps_are_fifty_at_once() -> None:
    assert epsilon([Step(1.0, 0.05, 5)] * 10, DELTA) == epsilon([Step(1.0, 0.05, 50)], DELTA)


def test_rounds_of_other_noise_and_rates_add_up_in_any_order() -> None:
    parts = [Step(1.0, 0.01, 20), Step(2.0, 0.05, 30)]
    both = epsilon(parts, DELTA)
    assert both == epsilon(parts[::-1], DELTA)
    assert both.pld > max(epsilon([part], DELTA).pld for part in parts)
    assert both.pld == pytest.approx(0.68989, abs=1e-3)  # Google's dp-accounting 0.6.0


def gaussian(mu: float, delta: float) -> float:
    """Epsilon of a Gaussian mechanism of ratio `mu` = sensitivity / sigma (Balle and Wang 2018,
    theorem 8), by bisection."""

    def normal(x: float) -> float:
        return 0.5 * math.erfc(-x / math.sqrt(2))

    low, high = 0.0, 100.0
    while high - low > 1e-9:
        e = (low + high) / 2
        reached = normal(mu / 2 - e / mu) - math.exp(e) * normal(-mu / 2 - e / mu)
        low, high = (e, high) if reached > delta else (low, e)
    return high


@pytest.mark.parametrize(("z", "steps"), [(1.0, 1), (5.0, 10), (3.0, 4)])
def test_without_sampling_it_is_the_gaussian_mechanism(z: float, steps: int) -> None:
    found = epsilon([Step(z, 1.0, steps)], DELTA).pld
    assert 0 <= found - gaussian(math.sqrt(steps) / z, DELTA) < 1e-3


def test_corners() -> None:
    nothing = epsilon([], DELTA)
    assert (nothing.pld, nothing.rdp) == (0.0, 0.0)
    assert epsilon([Step(1.0, 0.0, 10), Step(1.0, 0.1, 0)], DELTA) == nothing
    assert epsilon([Step(1.0, 0.1, 5), Step(0.0, 0.1, 1)], DELTA).pld == math.inf
    small = epsilon([Step(1000.0, 0.01, 30)], DELTA)
    assert 0 <= small.pld < 1e-3


def test_where_prv_cannot_be_had_the_bound_says_so() -> None:
    for history, delta in (
        ([Step(0.03, 0.1, 10)], DELTA),
        ([Step(1e-4, 0.1, 10)], DELTA),
        ([Step(0.5, 0.01, 100_000)], DELTA),
        ([Step(1.0, 0.01, 500)], 1e-12),
    ):
        found = epsilon(history, delta)
        assert found.method == "rdp"
        assert found.pld == found.rdp > 0


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: Step(-1.0, 0.1, 1), "noise multiplier"),
        (lambda: Step(math.nan, 0.1, 1), "noise multiplier"),
        (lambda: Step(1.0, 1.1, 1), "sample rate"),
        (lambda: Step(1.0, math.nan, 1), "sample rate"),
        (lambda: Step(1.0, 0.1, -1), "steps"),
        (lambda: epsilon([], 0.0), "delta"),
        (lambda: epsilon([], 1.0), "delta"),
    ],
)
def test_values_out_of_range_are_errors(make, what: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=what):
        make()
