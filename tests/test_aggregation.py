"""The running weighted mean, against numpy; and what makes an update unusable."""

from __future__ import annotations

import numpy as np
import pytest

from fedmem.aggregation import ProductMean, WeightedMean, problem_with, rule, weight_of
from fedmem.config import Aggregation
from fedmem.model.merge import Product

SHAPES = {"w": (3, 2), "b": ()}


def update(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: np.asarray(rng.normal(size=s), np.float32) for name, s in SHAPES.items()}


def test_the_mean_is_numpys_weighted_mean() -> None:
    updates, weights = [update(i) for i in range(5)], [3.0, 1.0, 4.0, 1.0, 5.0]
    mean = WeightedMean()
    for u, w in zip(updates, weights, strict=True):
        mean.add(u, w)
    for name, value in mean.result().items():
        exact = np.average([u[name].astype(np.float64) for u in updates], axis=0, weights=weights)
        assert value.dtype == np.float32 and value.shape == SHAPES[name]
        np.testing.assert_array_equal(value, exact.astype(np.float32))


def test_the_mean_of_one_update_is_that_update_bit_for_bit() -> None:
    mean = WeightedMean()
    mean.add(update(0), 7.0)
    assert all(mean.result()[name].tobytes() == update(0)[name].tobytes() for name in SHAPES)


def test_float64_keeps_what_a_float32_sum_loses() -> None:
    mean = WeightedMean()
    for value in (1e8, 1.0, -1e8):
        mean.add({"x": np.array([value], np.float32)}, 1.0)
    assert mean.result()["x"][0] == np.float32(1 / 3)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_weights_must_be_positive(weight: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        WeightedMean().add(update(0), weight)
    with pytest.raises(ValueError, match="no updates"):
        WeightedMean().result()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, None),
        ({"w": np.zeros((2, 3), np.float32)}, r"w has the shape (2, 3)"),
        ({"w": np.zeros((3, 2), np.int64)}, "w holds int64"),
        ({"b": np.array(np.nan, np.float32)}, "b holds NaN"),
        ({"b": np.array(-np.inf, np.float32)}, "b holds NaN or infinity"),
        ({"c": np.zeros(1, np.float32)}, "extra ['c']"),
    ],
)
def test_an_unusable_update_is_described(change: dict[str, np.ndarray], said: str | None) -> None:
    problem = problem_with({**update(0), **change}, SHAPES)
    assert problem is None if said is None else said in str(problem)


def test_arrays_in_another_order_are_other_arrays() -> None:
    assert problem_with(dict(reversed(update(0).items())), SHAPES) is not None


def test_the_mean_of_products_is_exact_and_not_the_product_of_means() -> None:
    rng = np.random.default_rng(0)
    product = Product("w", "a", "b", 2, (4, 3), 0.5, transposed=False)
    turned = Product("v", "a", "b", 2, (3, 4), 0.5, transposed=True)
    updates = [
        {"a": np.float32(rng.normal(size=(2, 3))), "b": np.float32(rng.normal(size=(4, 2)))}
        for _ in range(3)
    ]
    assert product.shapes == turned.shapes == {"a": (2, 3), "b": (4, 2)}
    before = {"w": np.ones((4, 3), np.float32), "v": np.ones((3, 4), np.float32)}
    mean = rule(Aggregation(rule="product"), [product, turned])
    assert isinstance(mean, ProductMean)
    weights = [70.0, 141.0, 293.0]
    for update_, weight in zip(updates, weights, strict=True):
        mean.add(update_, weight)
    after = mean.result(before)
    exact = 1 + np.average(
        [0.5 * u["b"].astype(np.float64) @ u["a"] for u in updates], axis=0, weights=weights
    )
    np.testing.assert_array_equal(after["w"], exact.astype(np.float32))
    np.testing.assert_array_equal(after["v"], exact.T.astype(np.float32))
    a, b = (np.average([u[k] for u in updates], axis=0, weights=weights) for k in "ab")
    assert np.abs(after["w"] - 1 - 0.5 * b @ a).max() > 0.05
    with pytest.raises(ValueError, match="no updates"):
        ProductMean([product]).result(before)


def test_weights_by_examples_uniform_or_given() -> None:
    given = {"a": 70.0, "b": 141.0}
    assert weight_of(Aggregation(weights="examples"), "a", 12) == 12
    assert weight_of(Aggregation(weights="uniform"), "a", 12) == 1
    assert weight_of(Aggregation(weights=given), "b", 12) == 141
