"""Joining the clients' updates into the next model: one rule each, looked up in `RULES`.

Sums of floats depend on their order: updates are added in a fixed one, for the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from fedmem.config import Aggregation
from fedmem.model.merge import Product

Arrays = dict[str, np.ndarray]
Shapes = dict[str, tuple[int, ...]]


class Rule(Protocol):
    """Takes a round's updates one by one; gives the next model."""

    def add(self, arrays: Arrays, weight: float) -> None:
        """Add one client's update; `weight` is positive."""

    def result(self, before: Arrays) -> Arrays:
        """Return the next model, given the one that was sent out; float32."""


class WeightedMean:
    """FedAvg (McMahan et al. 2017, algorithm 1): sum of w_i * update_i over sum of w_i.

    A running sum in float64: one model in memory, however many clients. With a `denominator` the
    sum is divided by that, whoever took part: the sensitivity of client-level DP depends on it.
    """

    def __init__(self, denominator: float | None = None) -> None:
        self._sum: Arrays = {}
        self._weight = 0.0
        self._denominator = denominator

    def add(self, arrays: Arrays, weight: float) -> None:
        """Add one update. Names and shapes must be those of the first, `weight` positive."""
        _check(weight)
        if not self._sum:
            self._sum = {name: np.zeros(a.shape, np.float64) for name, a in arrays.items()}
        for name, total in self._sum.items():
            total += weight * arrays[name].astype(np.float64)
        self._weight += weight

    def result(self, before: Arrays | None = None) -> Arrays:
        """Return the mean as float32, names in the first update's order; of no updates, zeros."""
        if not self._weight:
            if self._denominator is None or before is None:
                raise ValueError("a mean of no updates")
            return {name: np.zeros(array.shape, np.float32) for name, array in before.items()}
        whole = self._denominator or self._weight
        return {name: np.asarray(s / whole, np.float32) for name, s in self._sum.items()}


class ProductMean:
    """The mean of the products B_i A_i, exactly, added to the dense deltas of the round before.

    Averaging A and B apart gives mean(B) mean(A), which is no mean of the clients' models; the
    paper's code merges each client's LoRA into the weights and averages those (Bossy et al. 2026).
    Holds the low-rank factors of the round and multiplies out one weight at a time.
    """

    def __init__(self, products: Sequence[Product]) -> None:
        self._products = products
        self._updates: list[tuple[float, Arrays]] = []

    def add(self, arrays: Arrays, weight: float) -> None:
        """Add one update: the client's A and B."""
        _check(weight)
        self._updates.append((weight, arrays))

    def result(self, before: Arrays) -> Arrays:
        """Return before + sum of w_i * scaling * B_i A_i over sum of w_i."""
        whole = math.fsum(weight for weight, _ in self._updates)
        if not whole:
            raise ValueError("a mean of no updates")
        after = {}
        for product in self._products:
            mean = np.zeros(product.shape, np.float64)
            for weight, arrays in self._updates:
                mean += weight / whole * product.delta(arrays)
            after[product.weight] = (before[product.weight] + mean).astype(np.float32)
        return after


def rule(
    settings: Aggregation, products: Sequence[Product], denominator: float | None = None
) -> Rule:
    """A fresh rule for one round. `freeze_a` is a mean too: of B, which alone is trained."""
    return ProductMean(products) if settings.rule == "product" else WeightedMean(denominator)


def weight_of(settings: Aggregation, client: str, examples: float) -> float:
    """What a client's update counts: its examples, one, or what the config gives it."""
    if isinstance(settings.weights, Mapping):
        return settings.weights[client]
    return examples if settings.weights == "examples" else 1.0


def problem_with(arrays: Arrays, shapes: Shapes) -> str | None:
    """Say what makes an update unusable against the arrays that are due, or None."""
    if list(arrays) != list(shapes):
        missing, extra = sorted(shapes.keys() - arrays), sorted(arrays.keys() - shapes)
        return f"other arrays than the model's (missing {missing[:3]}, extra {extra[:3]})"
    for name, array in arrays.items():
        if array.shape != shapes[name]:
            return f"array {name} has the shape {array.shape}, the model's has {shapes[name]}"
        if not np.issubdtype(array.dtype, np.floating):
            return f"array {name} holds {array.dtype}, not floating-point numbers"
        if not np.isfinite(array).all():
            return f"array {name} holds NaN or infinity; lower training.lr, or set max_grad_norm"
    return None


def _check(weight: float) -> None:
    if not (math.isfinite(weight) and weight > 0):
        raise ValueError(f"a weight must be positive and finite, not {weight}")
