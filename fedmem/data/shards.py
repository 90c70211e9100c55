"""Shards: a client's examples, put together from tokens on disk when they are asked for."""

from __future__ import annotations

import random
from array import array as numbers
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedmem.config import Training
from fedmem.data.encoding import Coder, array
from fedmem.data.records import EncodedQA, Example, Examples
from fedmem.data.tokens import Tokens


class Stored(Examples):
    """Training examples of records, of at most `max_length` tokens, BOS and newline counted.

    A prompt too long loses its beginning, for the question stands at its end; an answer is never
    cut. A record whose answer does not fit behind a single token of the prompt is left out.
    `cut`, `dropped`: how many of each. With packing an example is several records in a row.
    `units` are the slots'.
    """

    def __init__(
        self,
        coder: Coder,
        tokens: Tokens,
        slots: NDArray[np.int64],
        training: Training,
        units: NDArray[np.uint64] | None = None,
    ) -> None:
        self._tokens = tokens
        self._bos, self._end = array(coder.bos), array(coder.end)
        self._answers_only = training.loss_on == "answer"
        prompt, answer = tokens.lengths(slots)
        form = len(coder.bos) + len(coder.end)
        room = training.max_length - form - answer
        fits = room >= 1
        kept = np.minimum(prompt, room)
        self.dropped = int(np.count_nonzero(~fits))
        self.cut = int(np.count_nonzero((kept < prompt) & fits))
        self._slots = slots[fits].astype(np.int32)
        self._sizes = (form + kept + answer)[fits].astype(np.int32)
        self._packs: NDArray[np.int32] | None = None
        self.lengths = self._sizes
        self.units = None if units is None else units[fits]
        if training.packing and len(self._sizes):
            self._packs = pack(self._sizes, training.max_length)
            self.lengths = np.add.reduceat(self._sizes, self._packs[:-1], dtype=np.int32)

    def one(self, index: int) -> Example:
        if self._packs is None:
            return self._record(index)
        parts = [self._record(i) for i in range(*self._packs[index : index + 2])]
        return Example(np.concatenate([part.ids for part in parts]))

    def _record(self, index: int) -> Example:
        slot = int(self._slots[index])
        prompt, options = self._tokens.record(slot)
        tail = [options[self._tokens.correct[slot]], self._end]
        begin = len(self._bos) + sum(map(len, tail)) + len(prompt) - int(self._sizes[index])
        ids = np.concatenate([self._bos, prompt[begin:], *tail], dtype=np.int32)
        supervised = len(self._bos) + len(prompt) - begin if self._answers_only else 1
        return Example(ids, supervised)


class Listed(Examples):
    """Examples in memory: canaries, which are never written to a cache."""

    def __init__(
        self, examples: Sequence[Example], units: NDArray[np.uint64] | None = None
    ) -> None:
        self._examples = tuple(examples)
        self.units = units
        self.lengths = np.array([len(example.ids) for example in examples], dtype=np.int32)

    def one(self, index: int) -> Example:
        return self._examples[index]


class Joined(Examples):
    """Examples of several sequences, in an order given by their places in the one after another."""

    def __init__(self, parts: Sequence[Examples], order: NDArray[np.int64]) -> None:
        self._parts = parts
        self._order = order.astype(np.int32)
        self._starts = [0, *np.cumsum([len(part) for part in parts]).tolist()]
        self.lengths = np.concatenate([part.lengths for part in parts])[order]
        units = [part.units for part in parts if part.units is not None]
        self.units = np.concatenate(units)[order] if len(units) == len(parts) else None

    def one(self, index: int) -> Example:
        place = int(self._order[index])
        part = bisect_right(self._starts, place) - 1
        return self._parts[part].one(place - self._starts[part])


def pack(lengths: NDArray[np.int32], max_length: int) -> NDArray[np.int32]:
    """Where packs begin, and the end: records are joined, in order, while they fit `max_length`.

    Each keeps its BOS inside the pack; later ones see earlier ones, as in the paper. Canaries are
    not packed, so that a note's tokens stand where the attack puts them. For loss on all tokens.
    """
    starts, room = numbers("i"), 0
    for index, length in enumerate(lengths.tolist()):
        if length > room or not starts:
            starts.append(index)
            room = max_length
        room -= length
    return np.array([*starts, len(lengths)], dtype=np.int32)


def shuffled(count: int, seed: str) -> NDArray[np.int64]:
    """0 .. count - 1 in an order drawn from the seed, 8 bytes each."""
    order = numbers("q", range(count))
    random.Random(seed).shuffle(order)
    return np.frombuffer(order, dtype=np.int64) if count else np.empty(0, np.int64)


def mixed(parts: Sequence[Examples], seed: str) -> Joined:
    """All examples of the parts in an order drawn from the seed."""
    return Joined(parts, shuffled(sum(map(len, parts)), seed))


def question(
    coder: Coder, tokens: Tokens, slot: int, max_length: int, id: str, task: str
) -> EncodedQA:
    """The record as held-out question: every option behind the same prompt, cut for the longest.

    The options must fit behind a token of the prompt (`room` is 1 or more).
    """
    prompt, options = tokens.record(slot)
    left = int(room(coder, tokens, np.array([slot]), max_length)[0])
    return EncodedQA(
        id=id,
        task=task,
        prompt=np.concatenate([array(coder.bos), prompt[-left:]], dtype=np.int32),
        options=tuple(option.astype(np.int32) for option in options),
        correct=int(tokens.correct[slot]),
        scored=len(options) > 1,
    )


def room(
    coder: Coder, tokens: Tokens, slots: NDArray[np.int64], max_length: int
) -> NDArray[np.int32]:
    """Tokens left for the prompt of a held-out question, before its longest option."""
    return max_length - len(coder.bos) - len(coder.end) - tokens.longest[slots]
