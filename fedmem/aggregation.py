"""Joining the clients' updates: FedAvg (McMahan et al. 2017, algorithm 1), one update at a time."""

from __future__ import annotations

import math

import numpy as np


class WeightedMean:
    """A running sum of w_i * update_i, in float64; one model in memory, however many clients.

    Sums of floats depend on their order: add the updates in a fixed order for the same bytes.
    """

    def __init__(self) -> None:
        self._sum: dict[str, np.ndarray] = {}
        self._weight = 0.0

    def add(self, arrays: dict[str, np.ndarray], weight: float) -> None:
        """Add one update. Names and shapes must be those of the first, `weight` positive."""
        if not (math.isfinite(weight) and weight > 0):
            raise ValueError(f"a weight must be positive and finite, not {weight}")
        if not self._sum:
            self._sum = {name: np.zeros(a.shape, np.float64) for name, a in arrays.items()}
        for name, total in self._sum.items():
            total += weight * arrays[name].astype(np.float64)
        self._weight += weight

    def result(self) -> dict[str, np.ndarray]:
        """Return the mean as float32, names in the first update's order."""
        if not self._weight:
            raise ValueError("a mean of no updates")
        return {name: np.asarray(s / self._weight, np.float32) for name, s in self._sum.items()}


def problem_with(arrays: dict[str, np.ndarray], shapes: dict[str, tuple[int, ...]]) -> str | None:
    """Say what makes an update unusable against the model that was sent, or None."""
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
