"""The audit's bounds against JAX-Privacy 2.0.0 (`CanaryScoreAuditor`): code independent of ours.

Its figures for given counts stand here; where the package is installed, its own class is asked too
(`pip install --no-deps jax-privacy==2.0.0` beside dp-accounting: the one module needs no JAX).
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmem.auditing.one_run import gaussian_lower_bound, lower_bound

# canaries, guesses, right, delta, level, bound of theorem 5.2, bound of the f-DP variant
FIGURES = [
    (20, 20, 20, 0.0, 0.95, 1.822715, None),
    (100, 100, 100, 1e-05, 0.95, 3.490216, 8.216186),
    (100, 100, 70, 1e-05, 0.95, 0.471419, 1.060703),
    (100, 40, 38, 1e-05, 0.95, 1.739928, 3.408299),
    (100, 40, 38, 1e-05, 0.999, 1.075460, 1.653312),
    (1000, 1000, 600, 1e-05, 0.95, 0.297227, 0.58354),
    (1000, 200, 190, 0.001, 0.95, 1.407995, 2.78671),
    (5000, 200, 181, 1e-05, 0.95, 1.832861, 2.466606),
    (5000, 5000, 3450, 1e-06, 0.999, 0.705089, 0.94032),
    (50, 50, 30, 1e-05, 0.95, 0.0, 0.0),
    (37, 13, 13, 0.0001, 0.95, 1.337745, 2.293426),
    (2000, 500, 500, 1e-05, 0.999, 2.760728, 5.917214),
]


@pytest.mark.parametrize(("m", "r", "v", "delta", "level", "general", "gaussian"), FIGURES)
def test_its_figures(
    m: int, r: int, v: int, delta: float, level: float, general: float, gaussian: float | None
) -> None:
    # six digits are given, and its own solver stops within 1e-6
    assert lower_bound(m, r, v, delta, level) == pytest.approx(general, abs=2e-6)
    if gaussian is not None:
        assert gaussian_lower_bound(m, r, v, delta, level) == pytest.approx(gaussian, abs=2e-6)


def module() -> Any:
    """JAX-Privacy's auditing module by itself: the package's own __init__ would import JAX."""
    spec = importlib.util.find_spec("jax_privacy")
    places = list(spec.submodule_search_locations or []) if spec else []
    if not places or importlib.util.find_spec("dp_accounting") is None:
        pytest.skip("jax-privacy and dp-accounting are not installed")
    name = "jax_privacy_auditing"
    found = importlib.util.spec_from_file_location(name, Path(places[0]) / "auditing.py")
    assert found is not None and found.loader is not None
    loaded = importlib.util.module_from_spec(found)
    sys.modules[name] = loaded  # its dataclasses look for their module
    found.loader.exec_module(loaded)
    return loaded


@pytest.mark.parametrize("seed", range(5))
def test_its_auditor_on_the_same_scores(seed: int) -> None:
    theirs = module()
    rng = np.random.default_rng(seed)
    members, others = rng.normal(1.5, 1, 160), rng.normal(0, 1, 140)
    auditor = theirs.CanaryScoreAuditor(members, others)
    at = theirs.Explicit(1.0)  # guesses "in" from this score on, and none below
    right = int((members >= 1.0).sum())
    guesses = right + int((others >= 1.0).sum())
    for level in (0.95, 0.999):
        given = {"significance": 1 - level, "delta": 1e-5, "threshold_strategy": at}
        ours = lower_bound(300, guesses, right, 1e-5, level)
        assert ours == pytest.approx(auditor.epsilon_one_run(**given), abs=2e-6)
        ours = gaussian_lower_bound(300, guesses, right, 1e-5, level)
        # it begins its search at 0, where its blow-up has no finite noise
        counted = theirs._epsilon_one_run_fdp(1e-6, 300, guesses, right, 1 - level, 1e-5)
        assert ours == pytest.approx(counted, abs=2e-6)
