"""Batches: every example once an epoch, in an order that the seed alone decides."""

from __future__ import annotations

import random
from itertools import islice
from math import ceil

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedmem.data.records import Example
from fedmem.training.batches import POOL, collate, epochs, order
from fedmem.training.loss import IGNORE

lengths = st.lists(st.integers(1, 500), min_size=1, max_size=300)
sizes = st.integers(1, 12)


@given(lengths, sizes, st.integers(0, 9))
def test_an_epoch_holds_every_index_once(lengths: list[int], size: int, seed: int) -> None:
    batches = list(order(lengths, size, random.Random(seed)))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert len(batches) == ceil(len(lengths) / size)
    assert sorted(map(len, batches))[1:] == [size] * (len(batches) - 1)  # one may be shorter
    assert batches == list(order(lengths, size, random.Random(seed)))


@given(lengths, sizes, st.integers(1, 3))
def test_epochs_follow_one_another_in_other_orders(
    lengths: list[int], size: int, count: int
) -> None:
    batches = list(epochs(lengths, size, "0/a/1", count))
    each = ceil(len(lengths) / size)
    assert len(batches) == count * each
    for epoch in range(count):
        part = batches[epoch * each : (epoch + 1) * each]
        assert sorted(i for batch in part for i in batch) == list(range(len(lengths)))
    endless = list(islice(epochs(lengths, size, "0/a/1", None), count * each))
    assert endless == batches


def test_other_rounds_and_epochs_have_other_orders() -> None:
    lengths = [5] * 64
    first, second = (list(epochs(lengths, 4, f"0/a/{round_}", 2)) for round_ in (1, 2))
    assert first != second and first[:16] != first[16:]


def test_batches_hold_similar_lengths() -> None:
    rng = random.Random(0)
    lengths = [rng.randint(1, 300) for _ in range(4 * POOL)]
    padded = sum(len(b) * max(lengths[i] for i in b) for b in order(lengths, 4, random.Random(1)))
    assert padded < 1.15 * sum(lengths)


def test_collate_pads_on_the_right_and_labels_from_supervised_on() -> None:
    examples = [
        Example(np.array([1, 5, 6, 7, 8], dtype=np.int32), supervised=3),
        Example(np.array([1, 9], dtype=np.int32)),
    ]
    ids, labels = collate(examples, 0, torch.device("cpu"))
    assert ids.tolist() == [[1, 5, 6, 7, 8], [1, 9, 0, 0, 0]]
    x = IGNORE
    assert labels.tolist() == [[x, x, x, 7, 8], [x, 9, x, x, x]]
    assert ids.dtype == labels.dtype == torch.long
