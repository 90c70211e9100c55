"""Exposure against its definition, TensorFlow Privacy's worked example, and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import skewnorm

from fedmem.metrics.candidates import rank
from fedmem.metrics.exposure import LEAST, by_rank, extrapolated, skew_normal

numbers = st.floats(-50, 0, allow_nan=False, width=32)


def of(perplexity: float, others: list[float]) -> np.ndarray:
    """Scores as they are kept: higher is likelier, the true value first."""
    return -np.array([perplexity, *others])


def test_tensorflow_privacys_own_example() -> None:
    # exposures_test.py: references 1 to 16; 0 and 0.1 are the smallest, 20 the largest, 3.5 is 4th
    others = [float(x) for x in range(1, 17)]
    assert by_rank(of(0.0, others)) == by_rank(of(0.1, others)) == math.log2(16)
    assert by_rank(of(20.0, others)) == pytest.approx(math.log2(16) - math.log2(17), abs=1e-12)
    assert by_rank(of(3.5, others)) == pytest.approx(math.log2(16) - math.log2(4), abs=1e-12)


@given(st.lists(numbers, min_size=2, max_size=60))
def test_the_rank_is_counted_and_ties_count_against_it(scores: list[float]) -> None:
    before = sum(other >= scores[0] for other in scores[1:])
    assert rank(np.array(scores)) == before + 1
    exposure = by_rank(np.array(scores))
    assert exposure == pytest.approx(math.log2((len(scores) - 1) / (before + 1)), abs=1e-9)
    assert exposure <= math.log2(len(scores) - 1)


@pytest.mark.parametrize(("shape", "location", "scale"), [(4, 0, 1), (-2, 30, 5), (0.5, -3, 0.1)])
def test_the_fit_is_scipys_by_moments(shape: float, location: float, scale: float) -> None:
    drawn = skewnorm.rvs(shape, location, scale, size=400, random_state=1)
    theirs = skewnorm.fit(drawn, method="mm")
    assert skew_normal(drawn) == pytest.approx(theirs, rel=1e-6)


def test_the_tail_is_scipys_and_near_the_fit_by_likelihood() -> None:
    parameters = (4, 0, 1)  # TensorFlow Privacy's test
    others = skewnorm.rvs(*parameters, size=4000, random_state=0)
    for perplexity in (-0.4, -0.1, 0.3, 1.0, 3.0):
        found = extrapolated(of(perplexity, [*others]), 10**12)
        mine = -np.log2(skewnorm.cdf(perplexity, *skewnorm.fit(others, method="mm")))
        assert found == pytest.approx(mine, rel=1e-6)
        true = -np.log2(skewnorm.cdf(perplexity, *parameters))
        assert found == pytest.approx(true, abs=0.35 + 0.15 * true)
    # it is what the rank says, where the rank can see it
    assert extrapolated(of(0.5, [*others]), 10**12) == pytest.approx(
        by_rank(of(0.5, [*others])), abs=0.1
    )


def test_no_more_than_the_space_holds_and_nothing_from_too_few() -> None:
    rng = np.random.default_rng(0)
    others = rng.normal(50, 1, 100).tolist()
    assert extrapolated(of(1.0, others), 1024) == 10
    assert extrapolated(of(90.0, others), 1024) == pytest.approx(0, abs=1e-9)
    assert extrapolated(of(1.0, others[: LEAST - 1]), 1024) is None
    assert extrapolated(of(1.0, [5.0] * 100), 1024) is None
    with pytest.raises(ValueError, match="alike"):
        skew_normal(np.ones(5))


def test_a_value_that_is_one_of_many_has_the_exposure_of_a_guess() -> None:
    # of a value drawn as the others were, every rank is as likely; the share of all values that
    # ranks before it is uniform, and has 1 / ln 2 bits
    rng = np.random.default_rng(3)
    drawn = rng.normal(size=(2000, 51))
    expected = math.log2(50) - np.log2(np.arange(1, 52)).mean()
    assert np.mean([by_rank(row) for row in drawn]) == pytest.approx(expected, abs=0.12)
    fitted = [extrapolated(row, 10**9) for row in drawn]
    assert np.mean(fitted) == pytest.approx(1 / math.log(2), abs=0.15)
