"""From floats to words mod 2^32 and back: errors within bounds, nothing wraps, nothing is cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fedmem.secagg.encoding import LARGEST, Encoding, length

SHAPES = {"b": (3, 2), "a": (), "c": (0, 4)}


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(
            arrays.arrays(np.float32, (3, 2), elements=st.floats(-2, 2, width=32)),
            st.integers(1, 500),
            st.floats(-1e6, 1e6),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_the_sum_of_vectors_is_the_vector_of_sums(
    summands: list[tuple[np.ndarray, int, float]],
) -> None:
    encoding = Encoding(12, 2.0, 500)
    total = np.zeros(length(SHAPES, ["loss"]), np.uint32)
    for b, weight, loss in summands:
        update = {"b": b, "a": np.array(0.5, np.float32), "c": np.zeros((0, 4), np.float32)}
        total += encoding.encode(update, weight, {"loss": loss})
    sums, whole, scalars = encoding.decode(total, len(summands), SHAPES, ["loss"])
    assert list(sums) == list(SHAPES) and sums["c"].shape == (0, 4)
    assert whole == sum(weight for _, weight, _ in summands)  # whole numbers come out exactly
    assert scalars["loss"] == pytest.approx(sum(loss for *_, loss in summands), abs=1e-6)
    exact = sum(weight * b.astype(np.float64) for b, weight, _ in summands) / whole
    assert np.abs(sums["b"] / whole - exact).max() <= encoding.error(whole) * (1 + 1e-9)
    assert sums["a"].shape == () and sums["a"] / whole == pytest.approx(0.5, abs=1e-5)


@pytest.mark.parametrize("clients", [3, 30, 2048])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_values_of_all_clients_do_not_wrap(clients: int, sign: int) -> None:
    encoding = Encoding(clients, 0.1, 3.0)
    largest = np.full(2, sign * 0.1)
    vector = encoding.encode({"w": largest}, 3.0, {"x": sign * (LARGEST / 2)})
    total = (vector.astype(np.uint64) * clients).astype(np.uint32)
    sums, whole, scalars = encoding.decode(total, clients, {"w": (2,)}, ["x"])
    np.testing.assert_allclose(sums["w"] / whole, sign * 0.1, rtol=1e-3)
    assert whole == 3.0 * clients
    assert scalars["x"] == pytest.approx(sign * clients * LARGEST / 2)


def test_an_update_a_hundredth_of_the_range_is_exact_to_a_millionth() -> None:
    rng = np.random.default_rng(0)
    updates = [rng.uniform(-0.01, 0.01, 100_000).astype(np.float32) for _ in range(30)]
    weights = rng.integers(100, 401, 30)
    encoding = Encoding(30, 1.0, 400)
    total = np.zeros(length({"w": (100_000,)}, []), np.uint32)
    for update, weight in zip(updates, weights, strict=True):
        total += encoding.encode({"w": update}, float(weight), {})
    sums, whole, _ = encoding.decode(total, 30, {"w": (100_000,)}, [])
    exact = np.average(np.asarray(updates, np.float64), axis=0, weights=weights)
    assert np.abs(sums["w"] / whole - exact).max() < 1e-6 * 0.01


@pytest.mark.parametrize(
    ("value", "weight", "scalar", "said"),
    [
        (1.0001, 1.0, 0.0, r"array w holds 1, beyond aggregation\.secure\.range=1"),
        (-7.0, 1.0, 0.0, r"array w holds 7, beyond .* raise it, or .* lower training"),
        (np.nan, 1.0, 0.0, "array w holds NaN or infinity"),
        (np.inf, 1.0, 0.0, "array w holds NaN or infinity"),
        (0.5, 11.0, 0.0, r"a weight of 11, and 10 is the most .*max_examples"),
        (0.5, 0.0, 0.0, "a weight of 0"),
        (0.5, float("nan"), 0.0, "a weight of nan"),
        (0.5, 1.0, 1e14, "loss is 100000000000000.0, beyond"),
        (0.5, 1.0, float("nan"), "loss is nan"),
    ],
)
def test_what_is_out_of_range_is_named(
    value: float, weight: float, scalar: float, said: str
) -> None:
    update = {"w": np.array([0.0, value], np.float32)}
    with pytest.raises(ValueError, match=said):
        Encoding(3, 1.0, 10.0).encode(update, weight, {"loss": scalar})


def test_noise_in_place_of_a_sum_is_refused() -> None:
    noise = np.random.default_rng(0).integers(0, 2**32, length({"w": (2,)}, []), np.uint32)
    with pytest.raises(ValueError, match="the weights of 3 clients add up to"):
        Encoding(3, 1.0, 10.0).decode(noise, 3, {"w": (2,)}, [])
