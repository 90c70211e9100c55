"""Places on a frontier, against a slow walk along each line."""

from __future__ import annotations

import numpy as np
import pytest

from fedmem.comparison.frontier import first_reach, least, value_at


def slow(gain: np.ndarray, leak: np.ndarray, target: float) -> float:
    """Walk from round to round in tiny steps; the leakage where the gain is first reached."""
    if target <= gain[0]:
        return float(leak[0])
    fine = np.linspace(0, len(gain) - 1, (len(gain) - 1) * 20_000 + 1)
    whole = np.arange(len(gain))
    there = np.interp(fine, whole, gain) >= target - 1e-12
    return float(np.interp(fine, whole, leak)[there.argmax()]) if there.any() else float("nan")


def test_as_a_slow_walk() -> None:
    rng = np.random.default_rng(0)
    gain = np.cumsum(rng.normal(0.3, 0.4, (40, 6)), axis=1)
    gain[:, 0] = 0.0
    leak = rng.random((40, 6))
    for target in (-0.1, 0.0, 0.2, 0.9, 5.0):
        found = value_at(leak, first_reach(gain, target))
        expected = [slow(*pair, target) for pair in zip(gain, leak, strict=True)]
        np.testing.assert_allclose(found, expected, atol=2e-4, equal_nan=True)


def test_the_first_time_counts_where_a_line_falls_back() -> None:
    gain = np.array([[0.0, 0.4, 0.1, 0.5]])
    leak = np.array([[0.0, 0.2, 0.6, 1.0]])
    assert value_at(leak, first_reach(gain, 0.2))[0] == pytest.approx(0.1)


def test_the_least_leaky_rate_and_ties() -> None:
    nan = float("nan")
    leak = np.array([[0.3, nan, 0.1, nan], [0.2, 0.5, 0.1, nan]])
    lowest, which = least(leak)
    np.testing.assert_array_equal(lowest, [0.2, 0.5, 0.1, nan])
    assert which[:3].tolist() == [1, 1, 0]  # of equal ones the first
