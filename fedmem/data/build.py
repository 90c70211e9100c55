"""From a config to what every client holds: shards with canaries in them, and held-out questions.

The one way into this package: `build(config, tokenizer)`. The same config and tokenizer give the
same examples in the same order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmem.config import Config
from fedmem.config.sources import StoredSource
from fedmem.data import canaries as planning
from fedmem.data import coins, corpus, partition, shards, tokens
from fedmem.data.adapters import read_records
from fedmem.data.cache import Cache, Say
from fedmem.data.canaries import Drawn
from fedmem.data.corpus import Corpus
from fedmem.data.encoding import Coder
from fedmem.data.partition import Holding
from fedmem.data.phi import fill
from fedmem.data.records import Canary, EncodedQA, Example, Examples, Note, Shard
from fedmem.data.shards import Listed, Stored
from fedmem.data.sources import fingerprint
from fedmem.data.synthetic import notes as synthetic_notes
from fedmem.data.synthetic.identity import SLOTS, identity
from fedmem.data.tokens import Tokens
from fedmem.data.windows import window
from fedmem.errors import ConfigError, DataError

ALL = "all"  # the one shard of a centralized run


@dataclass(frozen=True)
class Dataset:
    """All data of a run, encoded.

    `shards` by client, in the config's order (centralized: the one shard `all`). `stats`:
    `clients` (counts by client), `canaries`, `heldout` (questions by task), `files` (SHA-256).
    `encoded`: by client, whether its records were encoded now rather than found in the cache.
    `audit`: the coin-flip canaries of the one-run audit (copies 1 or 0), which are no `canaries`.
    """

    shards: dict[str, Shard]
    canaries: tuple[Canary, ...]
    heldout: tuple[EncodedQA, ...]
    stats: dict[str, dict[str, Any]]
    encoded: dict[str, bool]
    audit: tuple[Canary, ...] = ()

    @property
    def synthetic(self) -> bool:
        """Whether every note is synthetic: only then may text of notes be shown or kept."""
        return all(canary.synthetic for canary in self.canaries)


def build(
    config: Config, tokenizer: Any, only: str | None = None, say: Say = lambda text: None
) -> Dataset:
    """Read, draw, encode and place everything that the config names.

    With `only`, a client's name, no source is read but its own and the canaries': other shards and
    held-out questions are missing, the canaries are the same. Token ids of files are kept in
    `data.cache` and mapped from there, so that memory grows by some 64 bytes a record. `say` is
    told what takes longer than two seconds.

    Raises DataError naming file and line, note or client, and what to do; ConfigError for settings
    that cannot be had together.
    """
    _check(config, only)
    coder = Coder(tokenizer)
    cache = Cache(config.data.cache, say)
    corpora = corpus.open_all(config, cache, only)
    holdings = partition.divide(config, corpora)
    if only is not None:
        holdings = {only: holdings[only]}
    stats = {name: _counts(holding) for name, holding in holdings.items()}
    encoded = _encode(coder, cache, holdings)
    heldout = _heldout(config, coder, holdings, encoded, stats)
    canaries, audit, canary_stats = _canaries(config, coder, holdings)
    examples: dict[str, Examples] = {}
    held: dict[str, set[str]] = {}
    for name, holding in holdings.items():
        own = [canary for canary in canaries if canary.owners.get(name, 0)]
        tossed = [canary for canary in audit if canary.owners.get(name, 0)]
        placed = [canary for canary in own + tossed for _ in range(canary.owners[name])]
        copies = Listed([Example(c.ids, canary=c.id) for c in placed], _note_units(config, placed))
        records = _examples(config, coder, encoded[name], name, holding, stats[name])
        examples[name] = shards.mixed([records, copies], f"{config.seed}/shard/{name}")
        held[name] = {canary.id for canary in own}
        stats[name]["canaries"] = len(own)
        stats[name]["canary_copies"] = len(copies) - len(tossed)
        if audit:
            stats[name]["audit_canaries"] = len(tossed)
        stats[name]["examples"] = len(examples[name])
        stats[name]["tokens"] = int(examples[name].lengths.sum())
    holders = _holders(examples, canaries, only)
    if config.rounds.topology == "centralized":
        holders = {ALL: 1}
        examples = {ALL: shards.mixed([*examples.values()], f"{config.seed}/shard/{ALL}")}
        held = {ALL: set().union(*held.values())}
    return Dataset(
        shards={
            name: Shard(name, examples[name], tuple(sorted(held[name])), holders[name])
            for name in examples
        },
        canaries=canaries,
        heldout=heldout,
        stats={
            "clients": stats,
            "canaries": canary_stats,
            "heldout": dict(Counter(item.task for item in heldout)),
            "files": _files(config, corpora),
        },
        encoded={name: one.made for name, one in encoded.items()},
        audit=audit,
    )


def _check(config: Config, only: str | None) -> None:
    if config.training.packing and config.training.loss_on != "all":
        raise ConfigError("training.packing: needs training.loss_on=all; a pack has many answers")
    if only is None:
        return
    if only not in [client.name for client in config.data.clients]:
        raise ConfigError(f"data.clients: no client is called {only!r}")
    if config.data.canaries.placement == "by_bytes":
        raise ConfigError(
            "data.canaries.placement: by_bytes needs every client's records in one place; "
            "set it to one_owner"
        )
    if config.rounds.topology == "centralized":
        raise ConfigError(
            "rounds.topology: centralized needs every client's records in one place; "
            "set it to federated"
        )


def _counts(holding: Holding) -> dict[str, int]:
    """All counts of a client, those that come later at 0; in the order in which they are shown."""
    names = ("bad_rows", "duplicate_ids", "heldout_seen")
    return {
        "records": len(holding.train),
        "bytes": holding.bytes,
        "heldout": 0,
        **{name: holding.counts[name] for name in names},
        "prompts_cut": 0,
        "answers_dropped": 0,
        "heldout_dropped": 0,
    }


def _encode(coder: Coder, cache: Cache, holdings: Mapping[str, Holding]) -> dict[str, Tokens]:
    """Each client's tokens; clients that share a corpus share them."""
    wanted: dict[int, list[partition.Ints]] = {}
    for holding in holdings.values():
        wanted.setdefault(id(holding.corpus), []).extend([holding.train, holding.heldout])
    done: dict[int, Tokens] = {}
    for holding in holdings.values():
        key = id(holding.corpus)
        if key not in done:
            places = np.concatenate(wanted[key])
            done[key] = tokens.encode(coder, cache, holding.corpus, places)
    return {name: done[id(holding.corpus)] for name, holding in holdings.items()}


def _examples(
    config: Config,
    coder: Coder,
    encoded: Tokens,
    client: str,
    holding: Holding,
    stats: dict[str, int],
) -> Stored:
    units = None
    if config.training.dp is not None:  # a copy is the same question with the same answer
        key = "unit" if config.training.dp.unit == "patient" else "pair"
        units = holding.corpus.index[key][holding.train]
    examples = Stored(coder, encoded, encoded.slots(holding.train), config.training, units)
    stats["answers_dropped"], stats["prompts_cut"] = examples.dropped, examples.cut
    if not len(examples):
        raise DataError(
            f"client {client}: no answer fits training.max_length {config.training.max_length}; "
            "raise it"
        )
    return examples


def _note_units(config: Config, placed: Sequence[Canary]) -> NDArray[np.uint64] | None:
    """The privacy units of canaries as they are placed: the note, or under `patient` whose it is.

    Patients are known by the names that the sources give them: of two files that number theirs
    alike, one patient is made of two, which protects both.
    """
    dp = config.training.dp
    if dp is None:
        return None
    names = (c.patient if dp.unit == "patient" else f"note\0{c.id}" for c in placed)
    return corpus.hashes(names, config.seed)


def _holders(
    examples: Mapping[str, Examples], canaries: Sequence[Canary], only: str | None
) -> dict[str, int]:
    """For each client, how many hold the unit that most hold; with `only`, of canaries alone."""
    if only is not None:
        owners = [[n for n, copies in c.owners.items() if copies] for c in canaries]
        return {only: max([len(names) for names in owners if only in names], default=1)}
    own = {name: np.unique(e.units) for name, e in examples.items() if e.units is not None}
    if not own:
        return dict.fromkeys(examples, 1)
    units, counts = np.unique(np.concatenate([*own.values()]), return_counts=True)
    return {n: int(counts[np.searchsorted(units, held)].max()) for n, held in own.items()}


def _heldout(
    config: Config,
    coder: Coder,
    holdings: Mapping[str, Holding],
    encoded: Mapping[str, Tokens],
    stats: dict[str, dict[str, int]],
) -> tuple[EncodedQA, ...]:
    """At most `utility.max_records` questions of all that are held out and fit."""
    max_length = config.training.max_length
    found: list[tuple[str, int]] = []  # client, slot
    tasks: list[str] = []
    for name, holding in holdings.items():
        slots = encoded[name].slots(holding.heldout)
        fits = shards.room(coder, encoded[name], slots, max_length) >= 1
        stats[name]["heldout_dropped"] = int((~fits).sum())
        found += [(name, slot) for slot in slots[fits].tolist()]
        codes = holding.corpus.index["task"][holding.heldout[fits]]
        tasks += [holding.corpus.tasks[code] for code in codes.tolist()]
    chosen = partition.spread(tasks, config.utility.max_records, config.seed)
    questions = []
    for index in chosen:
        name, slot = found[index]
        stats[name]["heldout"] += 1
        id = holdings[name].corpus.record_id(encoded[name].name(slot))
        questions.append(shards.question(coder, encoded[name], slot, max_length, id, tasks[index]))
    return tuple(questions)


def _canaries(
    config: Config, coder: Coder, holdings: Mapping[str, Holding]
) -> tuple[tuple[Canary, ...], tuple[Canary, ...], dict[str, int]]:
    """The canaries and twins, those of the audit, and how they were come by."""
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
    if wanted.disjoint:
        need = sum(level.notes for level in wanted.levels) + wanted.twins
        drawn, left_out = planning.draw(notes, need, config.seed, prepare)
    else:
        drawn, left_out = planning.draw_whole(notes, wanted, config.seed, prepare)
    # every client has its turn, those too that are not read here
    shard_bytes = {client.name: 0 for client in config.data.clients}
    shard_bytes |= {name: holding.bytes for name, holding in holdings.items()}
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
    audit: tuple[Canary, ...] = ()
    if config.attack.audit:
        tossing = (config.attack.audit, notes + _more_notes(config), drawn, [*shard_bytes])
        audit = coins.toss(*tossing, config.seed, prepare)
    return canaries, audit, stats


def _notes(config: Config, counts: Counter[str]) -> list[Note]:
    source = config.data.canaries.source
    if not isinstance(source, StoredSource):
        return list(synthetic_notes.generate(source.records, config.seed))
    rows = read_records(source, config.data.root, config.data.on_bad_row, counts)
    return [note for note in rows if isinstance(note, Note)]


def _more_notes(config: Config) -> list[Note]:
    """Synthetic notes of further patients, for the audit; a file holds all notes there are."""
    source, audit = config.data.canaries.source, config.attack.audit
    if isinstance(source, StoredSource) or not audit:
        return []
    whole = source.records + 2 * audit.canaries  # some will be too much like others
    whole = max(source.records, min(whole, synthetic_notes.MAX_PATIENTS))
    return list(synthetic_notes.generate(whole, config.seed))[source.records :]


def _files(config: Config, corpora: Sequence[Corpus]) -> dict[str, str]:
    """SHA-256 of what was read, by its name in the config."""
    files: dict[str, str] = {}
    for one in corpora:
        files |= one.files
    source = config.data.canaries.source
    if isinstance(source, StoredSource):
        files |= fingerprint(source, config.data.root)
    return files
