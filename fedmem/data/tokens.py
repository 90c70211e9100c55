"""Token ids of a corpus's records: encoded once, kept on disk, read where they stand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import accumulate, chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmem.data.cache import Cache, Put, in_memory
from fedmem.data.corpus import BATCH, Corpus, batches, told
from fedmem.data.encoding import Coder
from fedmem.data.records import QARecord

MOSTLY = 0.75  # of a corpus: then all of it is encoded, for other seeds and splits to find it


@dataclass(frozen=True)
class Tokens:
    """Pieces of text, each encoded alone: of a record its prompt, then its options or one answer.

    A record is asked for by its slot, its place among those encoded; `positions` int64 are their
    places in the corpus (None: all were encoded). `ids` are those of all pieces, one behind
    another; piece p is ids[pieces[p]:pieces[p + 1]], int64; a record's are first[slot] up to
    first[slot + 1], int64. `correct`: the right option's number from 0, `longest`: tokens of the
    longest option, int32. `names`: their ids in UTF-8, from names[named[slot]] on. `made`: encoded
    now, not found in the cache.
    """

    positions: NDArray[np.int64] | None
    ids: NDArray[Any]
    pieces: NDArray[np.int64]
    first: NDArray[np.int64]
    correct: NDArray[np.int32]
    longest: NDArray[np.int32]
    names: NDArray[np.uint8]
    named: NDArray[np.int64]
    made: bool

    def slots(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Slots of records by their places in the corpus."""
        if self.positions is None:
            return positions
        return np.searchsorted(self.positions, positions)

    def lengths(self, slots: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Tokens of the prompt and of the answer, for each slot."""
        prompt = self.first[slots]
        answer = prompt + 1 + self.correct[slots]
        prompts, answers = (self.pieces[p + 1] - self.pieces[p] for p in (prompt, answer))
        return prompts, answers

    def record(self, slot: int) -> tuple[NDArray[Any], list[NDArray[Any]]]:
        """Ids of the prompt and of each option, as they stand on disk."""
        pieces = range(int(self.first[slot]), int(self.first[slot + 1]))
        prompt, *options = (self.ids[self.pieces[p] : self.pieces[p + 1]] for p in pieces)
        return prompt, options

    def name(self, slot: int) -> str:
        """The record's id."""
        return self.names[self.named[slot] : self.named[slot + 1]].tobytes().decode()


def encode(coder: Coder, cache: Cache, corpus: Corpus, wanted: NDArray[np.int64]) -> Tokens:
    """Tokens of the records at the places `wanted` (and perhaps others), from the cache if there.

    Only records of files are cached.
    """
    among = np.zeros(len(corpus), dtype=bool)
    among[wanted] = True
    positions = np.flatnonzero(among)
    chosen = None if len(positions) >= MOSTLY * len(corpus) else positions
    total = len(corpus) if chosen is None else len(chosen)

    def records() -> Iterator[QARecord]:
        kept = corpus.records() if chosen is None else _at(corpus.records(), chosen)
        return told(kept, cache.say, f"encoding {corpus.name}", total)

    if corpus.key is None:
        entry = in_memory(lambda put: _encode(coder, records(), put))
    else:
        rows = "all" if chosen is None else sha256(chosen.tobytes()).hexdigest()
        key = {**corpus.key, "tokenizer": coder.fingerprint, "records": rows}
        entry = cache.entry("tokens", key, lambda put: _encode(coder, records(), put))
    return Tokens(chosen, **entry.arrays, made=entry.made)


def _at(records: Iterator[QARecord], positions: NDArray[np.int64]) -> Iterator[QARecord]:
    wanted = iter(positions)
    next_ = next(wanted, None)
    for number, record in enumerate(records):
        if number == next_:
            yield record
            next_ = next(wanted, None)
        if next_ is None:
            return


def _encode(coder: Coder, records: Iterable[QARecord], put: Put) -> dict[str, Any]:
    ends = {name: 0 for name in ("pieces", "first", "named")}

    def put_ends(name: str, sizes: Iterable[int]) -> None:
        upto = np.fromiter(accumulate(sizes, initial=ends[name]), np.int64)
        ends[name] = int(upto[-1])
        put(name, upto[1:])

    for name in ends:
        put(name, np.zeros(1, np.int64))
    for batch in batches(records, BATCH):
        texts = [[record.prompt, *(record.options or (record.answer,))] for record in batch]
        coded = coder.encode_all(chain.from_iterable(texts))
        sizes = [len(piece) for piece in coded]
        put("ids", np.fromiter(chain.from_iterable(coded), coder.dtype, sum(sizes)))
        put_ends("pieces", sizes)
        put_ends("first", (len(pieces) for pieces in texts))
        each = iter(sizes)
        options = [[next(each) for _ in pieces][1:] for pieces in texts]
        put("longest", np.array([max(lengths) for lengths in options], np.int32))
        put("correct", np.array([record.correct or 0 for record in batch], np.int32))
        names = [record.id.encode() for record in batch]
        put("names", np.frombuffer(b"".join(names), np.uint8))
        put_ends("named", map(len, names))
    return {}
