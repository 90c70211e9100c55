"""Batches of a shard: shuffled, of similar length, right-padded."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmem.data.records import Example
from fedmem.training.loss import IGNORE

Lengths = Sequence[int] | NDArray[np.int32]
POOL = 16  # batches that are sorted by length together: padding is cut, order stays random


def order(lengths: Lengths, batch_size: int, rng: random.Random) -> Iterator[list[int]]:
    """One epoch: every index once, batches of similar length, in random order.

    Holds 8 bytes an example: a shard may have millions.
    """
    indices = array("q", range(len(lengths)))
    rng.shuffle(indices)
    pooled = np.array(indices, dtype=np.int64)
    lengths = np.asarray(lengths)
    for start in range(0, len(pooled), POOL * batch_size):
        pool = pooled[start : start + POOL * batch_size]
        pool[:] = pool[np.argsort(lengths[pool], kind="stable")]
    starts = array("q", range(0, len(pooled), batch_size))
    rng.shuffle(starts)
    for start in starts:
        yield pooled[start : start + batch_size].tolist()


def epochs(lengths: Lengths, batch_size: int, seed: str, count: int | None) -> Iterator[list[int]]:
    """Batches of `count` epochs, or without end."""
    rng = random.Random(seed)
    done = 0
    while count is None or done < count:
        yield from order(lengths, batch_size, rng)
        done += 1


def collate(examples: Sequence[Example], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(ids, labels), int64 [B, T]: padded on the right, labels IGNORE where there is no loss."""
    width = max(len(example.ids) for example in examples)
    ids = torch.full((len(examples), width), pad, dtype=torch.long)
    labels = torch.full((len(examples), width), IGNORE, dtype=torch.long)
    for row, example in enumerate(examples):
        tokens = torch.from_numpy(example.ids).long()
        ids[row, : len(tokens)] = tokens
        labels[row, example.supervised : len(tokens)] = tokens[example.supervised :]
    return ids.to(device), labels.to(device)
