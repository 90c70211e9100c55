"""Which records each client trains on, and which are held out from everybody.

A question is held out by the hash of its prompt, so that the same question under two ids never
stands on both sides. Clients that name the same file share it out between them.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from math import ceil
from pathlib import Path

from fedmem.config import Config, JsonlSource
from fedmem.data.adapters import read_records
from fedmem.data.records import QARecord
from fedmem.data.synthetic import qa
from fedmem.errors import DataError


@dataclass(frozen=True)
class Records:
    """One client's records. counts: `bad_rows` and `duplicate_ids` of its file.

    Clients that share a file: the counts stand at the first of them.
    """

    train: list[QARecord]
    heldout: list[QARecord]
    counts: Counter[str] = field(default_factory=Counter)


def resolve(config: Config, path: Path) -> Path:
    """A source's path: absolute as it is, relative from `data.root` (or where the command runs)."""
    return config.data.root / path if config.data.root else path


def question_key(record: QARecord) -> str:
    """What makes two records the same question: the prompt, but for case and white space."""
    return " ".join(record.prompt.casefold().split())


def client_records(config: Config) -> dict[str, Records]:
    """Every client's records, in an order drawn from the seed; capped by `max_records`.

    The smaller of the client's own and the data's `max_records` caps what it trains on. A held-out
    record that any client trains on, or that another client holds out too, is dropped. Raises
    DataError where a client is left without records, or more clients share a file than it has
    records to train on.
    """
    sharing: dict[JsonlSource, list[str]] = defaultdict(list)
    read: dict[str, Records] = {}
    for client in config.data.clients:
        source = client.source
        if isinstance(source, JsonlSource):
            sharing[source].append(client.name)
        else:
            train, heldout = qa.generate(source.adapter, source.records, config.seed, client.name)
            read[client.name] = Records(train, heldout)
    for source, names in sharing.items():
        read.update(_shared_file(config, source, names))
    trains = {
        client.name: _capped(read[client.name].train, client.max_records, config.data.max_records)
        for client in config.data.clients
    }
    for name, train in trains.items():
        if not train:
            raise DataError(f"client {name}: no record to train on; give it more records")
    seen = {question_key(record) for train in trains.values() for record in train}
    taken: set[tuple[str, str]] = set()
    out = {}
    for name, train in trains.items():
        unseen = [record for record in read[name].heldout if question_key(record) not in seen]
        counts = read[name].counts + Counter(heldout_seen=len(read[name].heldout) - len(unseen))
        out[name] = Records(train, _first(unseen, taken), counts)
    return out


def _first(records: Sequence[QARecord], taken: set[tuple[str, str]]) -> list[QARecord]:
    """The records whose question and answer are not in `taken`, to which they are added."""
    out = []
    for record in records:
        key = question_key(record), record.answer
        if key not in taken:
            taken.add(key)
            out.append(record)
    return out


def _capped(records: list[QARecord], *caps: int | None) -> list[QARecord]:
    return records[: min((cap for cap in caps if cap is not None), default=None)]


def _shared_file(config: Config, source: JsonlSource, names: Sequence[str]) -> dict[str, Records]:
    counts: Counter[str] = Counter()
    rows = read_records(resolve(config, source.path), source, config.data.on_bad_row, counts)
    # two files may use the same ids: a record's id names its file too
    records = [
        replace(record, id=f"{source.path.as_posix()}:{record.id}")
        for record in rows
        if isinstance(record, QARecord)
    ]
    train, heldout = hold_out(records, config.data.validation, config.seed)
    if len(train) < len(names):
        raise DataError(
            f"{source.path}: {len(train)} records to train on for {len(names)} clients "
            f"({', '.join(names)}); name fewer clients, or give more records"
        )
    random.Random(f"{config.seed}/partition").shuffle(train)
    parts = len(names)
    return {
        name: Records(train[i::parts], heldout[i::parts], counts if i == 0 else Counter())
        for i, name in enumerate(names)
    }


def hold_out(
    records: Sequence[QARecord], share: float, seed: int
) -> tuple[list[QARecord], list[QARecord]]:
    """(train, held out): `share` of the different questions, at least one of two or more.

    The questions with the lowest keyed hashes are held out: the choice depends on the seed, and on
    a question's own text rather than on its place in the file.
    """
    key = seed.to_bytes(8, "little")
    digests = {
        question: blake2b(question.encode(), key=key, digest_size=16).digest()
        for question in {question_key(record) for record in records}
    }
    count = min(ceil(share * len(digests)), len(digests) - 1)
    chosen = set(sorted(digests, key=digests.__getitem__)[:count])
    train = [record for record in records if question_key(record) not in chosen]
    heldout = [record for record in records if question_key(record) in chosen]
    return train, heldout


def spread(tasks: Sequence[str], limit: int, seed: int) -> list[int]:
    """Indices of at most `limit` records, drawn from the seed, spread evenly over the tasks.

    tasks: each record's task; a task that has too few leaves its places to the others. The result
    is in the order of the tasks' names, then of the records.
    """
    order = list(range(len(tasks)))
    random.Random(f"{seed}/heldout").shuffle(order)
    waiting: dict[str, list[int]] = defaultdict(list)
    for index in order:
        waiting[tasks[index]].append(index)
    taken: list[int] = []
    while len(taken) < limit and any(waiting.values()):
        for task in sorted(waiting):
            if waiting[task] and len(taken) < limit:
                taken.append(waiting[task].pop())
    return sorted(taken, key=lambda index: (tasks[index], index))
