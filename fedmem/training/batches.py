"""Batches of a shard: shuffled, of similar length, right-padded."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fedmem.data.records import Example
from fedmem.training.loss import IGNORE

POOL = 16  # batches that are sorted by length together: padding is cut, order stays random


def order(lengths: Sequence[int], batch_size: int, rng: random.Random) -> list[list[int]]:
    """One epoch: every index once, batches of similar length, in random order."""
    indices = list(range(len(lengths)))
    rng.shuffle(indices)
    batches: list[list[int]] = []
    for start in range(0, len(indices), POOL * batch_size):
        pool = sorted(indices[start : start + POOL * batch_size], key=lambda i: lengths[i])
        batches += [pool[k : k + batch_size] for k in range(0, len(pool), batch_size)]
    rng.shuffle(batches)
    return batches


def epochs(
    lengths: Sequence[int], batch_size: int, seed: str, count: int | None
) -> Iterator[list[int]]:
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
