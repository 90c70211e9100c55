"""The reported epsilon against Google's dp-accounting (privacy loss distributions): within 1e-3."""

from __future__ import annotations

import pytest

from fedmem.accounting import Step, epsilon

pld = pytest.importorskip(
    "dp_accounting.pld", reason="Google's dp-accounting is not installed (it comes with `test`)"
)
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent  # noqa: E402


@pytest.mark.parametrize(
    "history",
    [
        [(0.970, 0.008, 375)],
        [(0.683, 0.008, 375)],
        [(0.501, 0.008, 375)],
        [(1.0, 0.5, 20)],
        [(3.0, 0.9, 20)],
        [(1.0, 0.01, 20), (2.0, 0.05, 30)],
        [(1.0, 1.0, 1)],
        [(5.0, 1.0, 10)],
        [(50.0, 0.01, 30)],
    ],
)
def test_the_epsilon_of_google(history: list[tuple[float, float, int]]) -> None:
    accountant = pld.PLDAccountant()
    for z, rate, steps in history:
        accountant.compose(PoissonSampledDpEvent(rate, GaussianDpEvent(z)), steps)
    found = epsilon([Step(*step) for step in history], 1e-5)
    assert found.method == "prv"
    assert found.pld == pytest.approx(accountant.get_epsilon(1e-5), abs=1e-3)
