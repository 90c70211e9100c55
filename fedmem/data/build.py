"""From a config to what every client holds: shards with canaries in them, and held-out questions.

The one way into this package: `build(config, tokenizer)`. The same config and tokenizer give the
same examples in the same order.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedmem.config import Config, JsonlSource
from fedmem.data import canaries as planning
from fedmem.data import partition, prompts
from fedmem.data.adapters import read_records
from fedmem.data.canaries import Drawn
from fedmem.data.encoding import Coder, example, pack, question
from fedmem.data.partition import Records, resolve
from fedmem.data.phi import fill
from fedmem.data.records import Canary, EncodedQA, Example, Note, QARecord, Shard
from fedmem.data.sources import sha256
from fedmem.data.synthetic import notes as synthetic_notes
from fedmem.data.synthetic.identity import SLOTS, identity
from fedmem.data.windows import window
from fedmem.errors import ConfigError, DataError

ALL = "all"  # the one shard of a centralized run


@dataclass(frozen=True)
class Dataset:
    """All data of a run, encoded.

    `shards` by client, in the config's order (centralized: the one shard `all`). `stats`:
    `clients` (counts by client), `canaries`, `heldout` (questions by task), `files` (SHA-256).
    """

    shards: dict[str, Shard]
    canaries: tuple[Canary, ...]
    heldout: tuple[EncodedQA, ...]
    stats: dict[str, dict[str, Any]]

    @property
    def synthetic(self) -> bool:
        """Whether every note is synthetic: only then may text of notes be shown or kept."""
        return all(canary.synthetic for canary in self.canaries)


def build(config: Config, tokenizer: Any) -> Dataset:
    """Read, draw, encode and place everything that the config names.

    Raises DataError naming file and line, note or client, and what to do; ConfigError for packing
    with loss on answers only.
    """
    if config.training.packing and config.training.loss_on != "all":
        raise ConfigError("training.packing: needs training.loss_on=all; a pack has many answers")
    coder = Coder(tokenizer)
    records = partition.client_records(config)
    stats = {name: _counts(one) for name, one in records.items()}
    encoded = {
        name: _examples(config, coder, one.train, name, stats[name])
        for name, one in records.items()
    }
    heldout = _heldout(config, coder, records, stats)
    canaries, canary_stats = _canaries(config, coder, records)
    shards = {}
    for name, examples in encoded.items():
        copies = [
            Example(canary.ids, canary=canary.id)
            for canary in canaries
            for _ in range(canary.owners.get(name, 0))
        ]
        shards[name] = _shard(name, examples + copies, config.seed)
        stats[name]["canaries"] = len(shards[name].canaries)
        stats[name]["canary_copies"] = len(copies)
        stats[name]["examples"] = len(shards[name].examples)
        stats[name]["tokens"] = sum(len(item.ids) for item in shards[name].examples)
    if config.rounds.topology == "centralized":
        pooled = [item for shard in shards.values() for item in shard.examples]
        shards = {ALL: _shard(ALL, pooled, config.seed)}
    return Dataset(
        shards=shards,
        canaries=canaries,
        heldout=heldout,
        stats={
            "clients": stats,
            "canaries": canary_stats,
            "heldout": dict(Counter(item.task for item in heldout)),
            "files": _files(config),
        },
    )


def _counts(records: Records) -> dict[str, int]:
    """All counts of a client, those that come later at 0; in the order in which they are shown."""
    names = ("bad_rows", "duplicate_ids", "heldout_seen")
    return {
        "records": len(records.train),
        "heldout": 0,
        **{name: records.counts[name] for name in names},
        "prompts_cut": 0,
        "answers_dropped": 0,
        "heldout_dropped": 0,
    }


def _examples(
    config: Config, coder: Coder, records: Sequence[QARecord], client: str, stats: dict[str, int]
) -> list[Example]:
    training = config.training
    out = []
    for record in records:
        encoded = example(coder, record, training.max_length, training.loss_on)
        if encoded is None:
            stats["answers_dropped"] += 1
            continue
        stats["prompts_cut"] += encoded.cut
        out.append(encoded.example)
    if not out:
        raise DataError(
            f"client {client}: no answer fits training.max_length {training.max_length}; raise it"
        )
    return pack(out, training.max_length) if training.packing else out


def _heldout(
    config: Config, coder: Coder, records: Mapping[str, Records], stats: dict[str, dict[str, int]]
) -> tuple[EncodedQA, ...]:
    out = []
    for name, one in records.items():
        for record in one.heldout:
            encoded = question(coder, record, config.training.max_length)
            if encoded is None:
                stats[name]["heldout_dropped"] += 1
            else:
                out.append((name, encoded))
    tasks = [item.task for _, item in out]
    chosen = [out[i] for i in partition.spread(tasks, config.utility.max_records, config.seed)]
    for name, _ in chosen:
        stats[name]["heldout"] += 1
    return tuple(item for _, item in chosen)


def _canaries(
    config: Config, coder: Coder, records: Mapping[str, Records]
) -> tuple[tuple[Canary, ...], dict[str, int]]:
    wanted = config.data.canaries
    filled: set[str] = set()

    def prepare(note: Note, index: int) -> Drawn | None:
        if wanted.fill_phi and not note.phi:
            note = fill(note, identity(index, config.seed), SLOTS)
            filled.add(note.id)
        found = window(coder, note, config.training.max_length, wanted.long)
        return None if found is None else Drawn(note, found)

    counts: Counter[str] = Counter()
    notes = _notes(config, counts)
    need = sum(level.notes for level in wanted.levels) + wanted.twins
    drawn, left_out = planning.draw(notes, need, config.seed, prepare)
    shard_bytes = {
        name: sum(len(prompts.text(record).encode()) for record in one.train)
        for name, one in records.items()
    }
    canaries = planning.plan(wanted, drawn, shard_bytes, config.seed)
    stats = {
        "notes": len(notes),
        "bad_rows": counts["bad_rows"],
        "duplicate_ids": counts["duplicate_ids"],
        **{
            reason: left_out[reason]
            for reason in ("same_patient", "shared_value", "near_duplicate", "too_long")
        },
        "canaries": sum(not canary.twin for canary in canaries),
        "twins": sum(canary.twin for canary in canaries),
        "copies": sum(canary.copies for canary in canaries),
        "windows": sum(item.window.cut for item in drawn),
        "filled": sum(item.note.id in filled for item in drawn),
        "without_phi": sum(not canary.phi for canary in canaries),
    }
    return canaries, stats


def _notes(config: Config, counts: Counter[str]) -> list[Note]:
    source = config.data.canaries.source
    if not isinstance(source, JsonlSource):
        return list(synthetic_notes.generate(source.records, config.seed))
    path = resolve(config, source.path)
    rows = read_records(path, source, config.data.on_bad_row, counts)
    return [note for note in rows if isinstance(note, Note)]


def _shard(client: str, examples: list[Example], seed: int) -> Shard:
    """The examples in an order drawn from the seed and the client's name."""
    random.Random(f"{seed}/shard/{client}").shuffle(examples)
    held = dict.fromkeys(item.canary for item in examples if item.canary is not None)
    return Shard(client, tuple(examples), tuple(sorted(held)))


def _files(config: Config) -> dict[str, str]:
    sources = [client.source for client in config.data.clients] + [config.data.canaries.source]
    return {
        str(source.path): sha256(resolve(config, source.path))
        for source in sources
        if isinstance(source, JsonlSource)
    }
