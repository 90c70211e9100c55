"""A source's records, read as often as needed, and an index: a few numbers about each of them.

Who trains on which record is decided on the index alone, so that the texts need never be in memory.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedmem.config import Config
from fedmem.config.data import Client
from fedmem.config.sources import StoredSource, SyntheticSource
from fedmem.data import prompts, sources
from fedmem.data.adapters import read_records
from fedmem.data.cache import Cache, Entry, Put, Say, in_memory
from fedmem.data.records import QARecord
from fedmem.data.synthetic import qa

BATCH = 1024  # records that are in memory at once
T = TypeVar("T")


@dataclass(frozen=True)
class Corpus:
    """The records of one source and the clients that share them.

    `records()` gives them one at a time, always in the same order. `index`: arrays with a number a
    record. uint64 hashes, which depend on the seed: `question`, `pair` (question and answer),
    `unit` (what is held out whole: the patient, or else the question), `group` (value of the
    column that the split goes by). `size`: bytes of text. `task`: index into `tasks`. `heldout`:
    how many of the last records were made to be held out (synthetic ones). `key`: what the records
    are a function of; None for those that are generated.
    """

    source: StoredSource | SyntheticSource
    clients: tuple[Client, ...]
    records: Callable[[], Iterator[QARecord]]
    index: dict[str, NDArray[Any]]
    tasks: list[str]
    counts: Counter[str]
    heldout: int = 0
    key: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """The source as people know it."""
        if isinstance(self.source, SyntheticSource):
            return f"synthetic {self.source.adapter}"
        return sources.name(self.source)

    @property
    def files(self) -> dict[str, str]:
        """SHA-256 of what the records were read from, by its name in the config."""
        return self.key["files"] if self.key else {}

    def record_id(self, id: str) -> str:
        """A record's id among those of all corpora: two files may use the same."""
        return f"{self.name}:{id}" if self.key else id

    def __len__(self) -> int:
        return len(self.index["question"])


def question_key(record: QARecord) -> str:
    """What makes two records the same question: the prompt, but for case and white space."""
    return " ".join(record.prompt.casefold().split())


def open_all(config: Config, cache: Cache, only: str | None = None) -> list[Corpus]:
    """The corpora of all clients, or the one that the client `only` has records of, indexed.

    Clients that name the same file share it; synthetic records are made for each client by name.
    Raises DataError as reading does.
    """
    sharing: dict[StoredSource, list[Client]] = defaultdict(list)
    corpora = []
    for client in config.data.clients:
        if isinstance(client.source, StoredSource):
            sharing[client.source].append(client)
        elif only in (None, client.name):
            corpora.append(_synthetic(client, client.source, config.seed))
    for source, clients in sharing.items():
        if only is None or only in [client.name for client in clients]:
            corpora.append(_stored(config, cache, source, clients))
    return corpora


def _synthetic(client: Client, source: SyntheticSource, seed: int) -> Corpus:
    train, heldout = qa.generate(source.adapter, source.records, seed, client.name)
    records = train + heldout
    entry = in_memory(partial(_index, records, seed))
    return Corpus(
        source=source,
        clients=(client,),
        records=lambda: iter(records),
        index=entry.arrays,
        tasks=entry.extra["tasks"],
        counts=Counter(),
        heldout=len(heldout),
    )


def _stored(config: Config, cache: Cache, source: StoredSource, clients: list[Client]) -> Corpus:
    data, split = config.data, clients[0].part and clients[0].part.split
    column = getattr(split, "column", None)

    def records(counts: Counter[str]) -> Iterator[QARecord]:
        for record in read_records(source, data.root, data.on_bad_row, counts, column):
            if isinstance(record, QARecord):
                yield record

    def index(put: Put) -> dict[str, Any]:
        counts: Counter[str] = Counter()
        read = told(records(counts), cache.say, f"reading {sources.name(source)}")
        return _index(read, config.seed, put) | {"counts": counts}

    key = {
        "source": source.model_dump(mode="json"),
        "files": sources.fingerprint(source, data.root),
        "on_bad_row": data.on_bad_row,
        "column": column,
    }
    entry: Entry = cache.entry("index", {**key, "seed": config.seed}, index)
    return Corpus(
        source=source,
        clients=tuple(clients),
        records=lambda: records(Counter()),
        index=entry.arrays,
        tasks=entry.extra["tasks"],
        counts=Counter(entry.extra["counts"]),
        key=key,
    )


def _index(records: Iterable[QARecord], seed: int, put: Put) -> dict[str, Any]:
    """Put all arrays of the index; returns the names of the tasks."""
    tasks: dict[str, int] = {}
    for batch in batches(records, BATCH):
        questions = [question_key(record) for record in batch]
        pairs = [f"{q}\0{record.answer}" for q, record in zip(questions, batch, strict=True)]
        units = [r.patient or question for question, r in zip(questions, batch, strict=True)]
        put("question", hashes(questions, seed))
        put("pair", hashes(pairs, seed))
        put("unit", hashes(units, seed))
        put("group", hashes((record.group or "" for record in batch), seed))
        put("size", np.array([len(prompts.text(r).encode()) for r in batch], np.int32))
        put("task", np.array([tasks.setdefault(r.task, len(tasks)) for r in batch], np.int16))
    return {"tasks": list(tasks)}


def hashes(texts: Iterable[str], seed: int) -> NDArray[np.uint64]:
    """Keyed with the seed, so that an index tells nothing about a text without it."""
    key = seed.to_bytes(8, "little")
    whole = b"".join(blake2b(t.encode(), key=key, digest_size=16).digest()[:8] for t in texts)
    return np.frombuffer(whole, ">u8").astype(np.uint64)


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items; the last may be shorter."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def told(items: Iterable[T], say: Say, what: str, of: int | None = None) -> Iterator[T]:
    """The items; after two seconds, and then ever more rarely, it is said how many there were."""
    last, wait = time.monotonic(), 2.0
    for done, item in enumerate(items, start=1):
        if done % 100 == 0 and time.monotonic() - last > wait:
            last, wait = time.monotonic(), min(1.5 * wait, 20.0)
            say(f"{what}: {done:,}{f' of {of:,}' if of else ''} records")
        yield item
