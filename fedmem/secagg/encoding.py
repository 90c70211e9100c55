"""A client's update as a vector of words mod 2^32, and the mean back from the sum of such vectors.

Every number of the update, times the client's weight, is rounded to a multiple of a public step, so
that all summands of a round together stay below 2^31: nothing wraps, and a value beyond the public
range is an error, never cut. Scalars (weight, side numbers, metrics) are few and get more words:
fixed-point with 60 bits behind the point, cut into limbs whose sums cannot overflow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedmem.secagg.crypto import Words

Arrays = Mapping[str, np.ndarray]
Shapes = Mapping[str, tuple[int, ...]]

LIMBS, LIMB_BITS, POINT = 5, 21, 60
OFFSET = 1 << (LIMBS * LIMB_BITS - 1)  # makes a scalar's words those of a positive number
LARGEST = 2.0 ** (LIMBS * LIMB_BITS - 1 - POINT)  # 2^44


@dataclass(frozen=True)
class Encoding:
    """How the `summands` clients of a round at most encode: what every one of them knows.

    `range`: the largest magnitude of a number of an update. `weight`: the largest weight.
    """

    summands: int
    range: float
    weight: float

    @property
    def unit(self) -> float:
        """Steps to 1 of a weighted number; so that n (range weight unit + 1/2) < 2^31."""
        return (2**31 - 1 - self.summands) / (self.summands * self.range * self.weight)

    def error(self, whole: float) -> float:
        """The largest error of a mean's number by rounding, for summands of weight `whole`."""
        return self.summands / (2 * self.unit * whole)

    def encode(self, update: Arrays, weight: float, scalars: Mapping[str, float]) -> Words:
        """weight * update, then the weight and the scalars. Raises ValueError for what is not
        finite or beyond its range, naming the array or scalar."""
        if not 0 < weight <= self.weight:
            raise ValueError(
                f"a weight of {weight:g}, and {self.weight:g} is the most that was agreed on; "
                "raise aggregation.secure.max_examples"
            )
        words = np.empty(length(update, scalars), np.uint32)
        at = 0
        for name, array in update.items():
            largest = float(np.max(np.abs(array), initial=0.0))
            if not math.isfinite(largest):
                raise ValueError(
                    f"array {name} holds NaN or infinity; lower training.lr, or set max_grad_norm"
                )
            if largest > self.range:
                raise ValueError(
                    f"array {name} holds {largest:.3g}, beyond aggregation.secure.range="
                    f"{self.range:g}; raise it, or where no noise was added lower training.lr"
                )
            steps = np.rint(array.astype(np.float64).ravel() * (weight * self.unit))
            words[at : at + array.size] = steps.astype(np.int32).view(np.uint32)
            at += array.size
        for name, value in {"weight": weight, **scalars}.items():
            if not abs(value) < LARGEST:
                raise ValueError(f"{name} is {value}, beyond what secure aggregation sums")
            fixed = int(value * 2.0**POINT) + OFFSET
            limbs = [(fixed >> (LIMB_BITS * i)) & ((1 << LIMB_BITS) - 1) for i in range(LIMBS)]
            words[at : at + LIMBS] = limbs
            at += LIMBS
        return words

    def decode(
        self, total: Words, summed: int, shapes: Shapes, scalars: Sequence[str]
    ) -> tuple[dict[str, np.ndarray], float, dict[str, float]]:
        """(weighted sums by array, float64; the weights' sum; the scalars' sums) of `summed`
        clients' vectors added up mod 2^32. Raises ValueError where the sum cannot be one."""
        sums, at = {}, 0
        for name, shape in shapes.items():
            size = math.prod(shape)
            steps = total[at : at + size].view(np.int32).astype(np.float64)
            sums[name] = (steps / self.unit).reshape(shape)
            at += size
        found = {}
        for name in ["weight", *scalars]:
            limbs = [int(word) for word in total[at : at + LIMBS]]
            fixed = sum(limb << (LIMB_BITS * i) for i, limb in enumerate(limbs))
            found[name] = (fixed - summed * OFFSET) / (1 << POINT)
            at += LIMBS
        whole = found.pop("weight")
        if not 0 < whole <= summed * self.weight:
            raise ValueError(f"the weights of {summed} clients add up to {whole:g}")
        return sums, whole, found


def length(arrays: Arrays | Shapes, scalars: Sequence[str] | Mapping[str, float]) -> int:
    """Words of a vector; `arrays` by array or shape."""
    shapes = [a if isinstance(a, tuple) else a.shape for a in arrays.values()]
    return sum(math.prod(shape) for shape in shapes) + LIMBS * (1 + len(scalars))
