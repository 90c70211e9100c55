"""Who is in a step of DP-SGD: Poisson samples of privacy units, their rate, and their randomness.

Of a unit with several examples (copies of a note, records of a patient) one is drawn: then clipping
an example's gradient bounds what the unit does to a step (user-level sampling with one example a
user: Charles et al. 2024, arXiv 2407.07737).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

import numpy as np
import torch
from numpy.typing import NDArray

from fedmem.accounting import Step, noise_multiplier
from fedmem.config import Config
from fedmem.data.records import Shard
from fedmem.errors import ConfigError
from fedmem.training.local import steps_per_round

SPREAD = 2.5  # longest to shortest in a batch: beyond it another pass costs less than the padding

_noise_multiplier = lru_cache(maxsize=256)(noise_multiplier)


@dataclass(frozen=True)
class Units:
    """A shard's privacy units: examples order[starts[u]:starts[u + 1]] are unit u's, int64."""

    order: NDArray[np.int64]
    starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def largest(self) -> int:
        """Examples of the largest unit."""
        return int(np.diff(self.starts).max())

    def draw(self, rate: float, rng: np.random.Generator) -> NDArray[np.int64]:
        """A Poisson sample of the units, as one example of each; it may be empty."""
        chosen = np.flatnonzero(rng.random(len(self)) < rate)
        sizes = self.starts[chosen + 1] - self.starts[chosen]
        drawn: NDArray[np.int64] = self.order[self.starts[chosen] + rng.integers(sizes)]
        return drawn


def units_of(shard: Shard, unit: str) -> Units:
    """Who is protected as one: with unit `example` every example by itself."""
    if unit == "example":
        return Units(np.arange(len(shard.examples)), np.arange(len(shard.examples) + 1))
    keys = shard.units
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.diff(keys[order], prepend=~keys[order[:1]]))
    return Units(order, np.append(starts, len(keys)))


def physical_batches(
    drawn: NDArray[np.int64], lengths: NDArray[np.int32], most: int
) -> list[list[int]]:
    """A sample cut into batches of at most `most` examples of similar length, the shortest first.

    However it is cut, the step is the same; a batch whose longest is much longer than its shortest
    is mostly padding.
    """
    batches: list[list[int]] = []
    first = 0
    for place in np.argsort(lengths, kind="stable").tolist():
        if not batches or len(batches[-1]) == most or lengths[place] > SPREAD * first:
            batches.append([])
            first = int(lengths[place])
        batches[-1].append(int(drawn[place]))
    return batches


def plan(config: Config, shard: Shard) -> Step:
    """One round of this client as the accountant counts it: the same in every round.

    The sample rate is batch_size of its units. A target epsilon is that of a unit at all clients
    that hold it. Raises ConfigError where no noise reaches it.
    """
    dp = config.training.dp
    assert dp is not None
    units = len(units_of(shard, dp.unit))
    steps = steps_per_round(config, units)
    sample_rate = min(1.0, config.training.batch_size / units)
    z = dp.noise_multiplier
    if z is None:
        assert dp.target_epsilon is not None
        # a unit that several clients hold is in the mechanisms of all of them
        holders = 1 if dp.unit == "example" else shard.holders
        total = steps * config.rounds.count * holders
        try:
            z = _noise_multiplier(dp.target_epsilon, dp.delta, sample_rate, total)
        except ValueError as error:
            raise ConfigError(f"training.dp: client {shard.client}: {error}") from None
    return Step(z, sample_rate, steps)


def generators(
    config: Config, client: str, round_: int, device: torch.device
) -> tuple[np.random.Generator, torch.Generator]:
    """(for sampling, for noise): of the run's seed, so that a simulation repeats; in deployment of
    the system's entropy, for whoever knows a seed can take the noise off."""
    noise = torch.Generator(device)
    if config.engine.kind == "deployment":
        noise.seed()
        return np.random.default_rng(), noise
    name = f"{config.seed}/{client}/{round_}/dp-sgd"
    sample, add = (
        int.from_bytes(blake2b(f"{name}/{use}".encode(), digest_size=8).digest(), "big") >> 1
        for use in ("sample", "noise")
    )
    return np.random.default_rng(sample), noise.manual_seed(add)
