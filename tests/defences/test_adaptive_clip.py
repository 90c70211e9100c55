"""The norm follows the quantile: up when most are clipped, down when few are."""

from __future__ import annotations

import numpy as np
import pytest
from toys import toy_config

from fedmem.defences import Chain

Arrays = dict[str, np.ndarray]


def follow(norms: np.ndarray, rounds: int, **settings: float) -> list[float]:
    """The clip norm after each round, for clients whose updates have these norms."""
    defence = {"kind": "adaptive_clip", **settings}
    chain = Chain(toy_config(defences=[defence]))
    base = {"w": np.zeros(3, np.float32)}
    state: dict[str, dict[str, float]] = {}
    found = []
    for round_ in range(1, rounds + 1):
        sent = []
        for i, norm in enumerate(norms):
            update = {"w": np.array([norm, 0, 0], np.float32)}
            arrays, _ = chain.at_client(f"c{i}", round_, base, update, state)
            assert set(arrays) == {"w", "1.adaptive_clip/below"}
            sent.append(arrays)
        joined = {n: np.mean([a[n] for a in sent], axis=0) for n in sent[0]}
        mean, state, _ = chain.at_server(
            round_, len(norms), base, joined, state, lambda n: np.zeros(())
        )
        assert set(mean) == {"w"}  # what travelled beside the update is no part of the model
        found.append(state["1.adaptive_clip"]["norm"])
    return found


@pytest.mark.parametrize("start", [0.001, 100.0])
def test_it_moves_to_the_quantile_from_either_side(start: float) -> None:
    norms = np.linspace(1.0, 2.0, 101)
    last = follow(norms, 120, norm=start, quantile=0.5, rate=0.2)[-1]
    assert 1.4 < last < 1.6


def test_the_step_is_the_papers() -> None:
    # nobody is below 0.5, so b = 0: C <- C exp(-0.2 (0 - 0.5))
    (after,) = follow(np.array([1.0, 2.0]), 1, norm=0.5, quantile=0.5, rate=0.2)
    assert after == pytest.approx(0.5 * np.exp(0.1))


def test_the_count_has_its_own_noise_which_repeats_with_the_seed() -> None:
    norms = np.array([1.0, 2.0, 3.0])
    plain = follow(norms, 3, norm=1.5)
    noisy = follow(norms, 3, norm=1.5, noise=1.0)
    assert noisy != plain and noisy == follow(norms, 3, norm=1.5, noise=1.0)
