"""Clipping: the bound holds, the direction stays, and nothing is divided by zero."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import toy_config

from fedmem.claims import NO_DP, History
from fedmem.config import defences as cfg
from fedmem.defences.clip import Clip
from fedmem.defences.turn import Turn, l2

Arrays = dict[str, np.ndarray]


def update(seed: int = 0, scale: float = 1.0) -> Arrays:
    rng = np.random.default_rng(seed)
    shapes = {"a": (4, 3), "b": (5,), "c": ()}
    return {n: np.asarray(scale * rng.normal(size=s), np.float32) for n, s in shapes.items()}


def clipped(arrays: Arrays, **settings: object) -> tuple[Arrays, Turn]:
    turn = Turn(1, arrays, np.random.default_rng(0))
    return Clip(cfg.Clip(**settings), toy_config()).on_client_update(arrays, turn), turn


@given(st.integers(0, 1000), st.floats(1e-6, 1e6), st.floats(1e-5, 1e4))
def test_the_norm_is_at_most_the_bound_and_the_direction_stays(seed, scale, norm) -> None:
    before = update(seed, scale)
    after, turn = clipped(before, norm=norm)
    assert l2(after) <= norm
    assert turn.figures["norm"] == l2(before)
    assert turn.figures["clipped"] == (l2(before) > norm)
    factor = min(1.0, norm / l2(before))
    for name in before:
        np.testing.assert_allclose(after[name], before[name] * factor, rtol=1e-5, atol=1e-30)


def test_what_lies_within_the_bound_is_left_alone_to_the_byte() -> None:
    before = update()
    after, turn = clipped(before, norm=100.0)
    assert all(after[n].tobytes() == before[n].tobytes() for n in before)
    assert turn.figures["clipped"] == 0


def test_per_layer_each_array_has_its_own_bound() -> None:
    before = update() | {"small": np.full(2, 1e-3, np.float32)}
    after, turn = clipped(before, norm=0.5, per="layer")
    over = [l2({n: a}) > 0.5 for n, a in before.items()]
    assert all(l2({n: a}) <= 0.5 for n, a in after.items())
    assert after["small"].tobytes() == before["small"].tobytes()
    assert turn.figures["clipped"] == np.mean(over) and 0 < np.mean(over) < 1


def test_a_zero_update_stays_zero() -> None:
    zero = {n: np.zeros_like(a) for n, a in update().items()}
    for per in ("model", "layer"):
        after, turn = clipped(zero, norm=0.1, per=per)
        assert all(not a.any() for a in after.values()) and turn.figures["clipped"] == 0


def test_it_claims_no_guarantee() -> None:
    claim = Clip(cfg.Clip(norm=0.25), toy_config()).claim(History((), (), (), ()))
    assert claim.guarantee == NO_DP and claim.epsilon is None and "0.25" in claim.where


@pytest.mark.parametrize("norm", [0, -1, float("nan"), float("inf"), 1e9, "much"])
def test_a_norm_out_of_range_is_refused(norm: object) -> None:
    with pytest.raises(ValueError, match="norm"):
        cfg.Clip(norm=norm)
