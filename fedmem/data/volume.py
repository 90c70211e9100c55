"""How many tokens a run reads, before anything is downloaded or trained: an estimate.

Where all records are synthetic they are made and counted. Of files the first records are read and
their number is counted; of a set on the hub only `max_records` is known here, so that the number
of tokens is a bound, at a length a record that is stated below.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from fedmem.config import Config
from fedmem.config.data import Client
from fedmem.config.sources import (
    CsvSource,
    HubSource,
    JsonlSource,
    ParquetSource,
    StoredSource,
    SyntheticSource,
)
from fedmem.data import prompts
from fedmem.data.adapters import examine
from fedmem.data.build import build
from fedmem.data.records import QARecord
from fedmem.data.sources import resolve
from fedmem.errors import DataError

CHARS_A_TOKEN = 4.0  # of English under a large vocabulary
# mean characters of a record as it is written: samples of the sets, and of clinical notes
CHARS = {"medmcqa": 210, "pubmedqa": 1470, "medical_meadow": 540, "medqa": 900, "mmlu": 370}
SYNTHETIC, NOTE = 240, 3100
SAMPLE = 100


@dataclass(frozen=True)
class Volume:
    """What all clients read in one epoch, copies of notes among it.

    unknown: clients of whose records nothing can be told. how: where the numbers come from.
    """

    tokens: float
    examples: float
    how: str
    unknown: tuple[str, ...] = ()


def volume(config: Config, tokenizer: Any | None = None) -> Volume:
    """The tokens of an epoch over all shards. `tokenizer`: the base's, where it is at hand.

    Raises DataError for synthetic data that cannot be made as the config has it.
    """
    made = [client.source for client in config.data.clients]
    sources = [*made, config.data.canaries.source]
    if tokenizer is not None and all(isinstance(source, SyntheticSource) for source in sources):
        counts = build(config, tokenizer).stats["clients"].values()
        tokens = sum(count["tokens"] for count in counts)
        return Volume(tokens, sum(count["examples"] for count in counts), "counted")
    longest = config.training.max_length
    copies = sum(level.copies * level.notes for level in config.data.canaries.levels)
    tokens = copies * min(longest, NOTE / CHARS_A_TOKEN)
    examples = float(copies)
    unknown, hows = [], []
    for client in config.data.clients:
        found = _records(client, config)
        if found is None:
            unknown.append(client.name)
            continue
        records, chars, how = found
        tokens += records * min(longest, chars / CHARS_A_TOKEN)
        examples += records
        hows.append(f"{client.name} {records:,.0f} records of {chars:.0f} characters, {how}")
    said = "; ".join([*hows, f"notes of {NOTE}, stated; {CHARS_A_TOKEN:g} characters a token"])
    return Volume(tokens, examples, said, tuple(unknown))


def _records(client: Client, config: Config) -> tuple[float, float, str] | None:
    """(records that the client trains on, their mean characters, how that is known)."""
    source, data = client.source, config.data
    caps = [cap for cap in (client.max_records, data.max_records) if cap is not None]
    if isinstance(source, SyntheticSource):
        return float(min([source.records, *caps])), SYNTHETIC, "stated"
    if isinstance(source, HubSource):
        if not caps or source.adapter not in CHARS:
            return None
        return float(min(caps)), CHARS[source.adapter], "at most, by max_records"
    rows = _rows(source, data.root)
    try:
        found = [record for _, record in islice(examine(source, data.root), SAMPLE)]
    except DataError:  # `data check` and `run` tell what is wrong
        return None
    texts = [prompts.text(record) for record in found if isinstance(record, QARecord)]
    if not texts or (rows is None and not caps):
        return None
    if rows is not None:
        share = 1 - data.validation
        sharing = sum(other.source == source for other in data.clients)
        caps.append(round(rows * share / sharing))
    return float(min(caps)), sum(map(len, texts)) / len(texts), "from the file"


def _rows(source: StoredSource, root: Path | None) -> int | None:
    """Rows of a file, without reading what stands in them; None where that cannot be."""
    try:
        if isinstance(source, ParquetSource):
            return int(pq.read_metadata(resolve(source, root)).num_rows)
        if isinstance(source, JsonlSource | CsvSource):
            with resolve(source, root).open("rb") as file:
                return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
    except (OSError, ValueError):
        return None
    return None


def read(config: Config, found: Volume) -> dict[str, float]:
    """Tokens read for the attacks and for the held-out questions, over the whole run.

    The scoring pass, its windows with their continuations decoded, prompts of the clients' own; not
    the ranking of candidates, nor passes that some attacks have of their own.
    """
    attack, data, rounds = config.attack, config.data, config.rounds.count
    notes = sum(level.notes for level in data.canaries.levels) + data.canaries.twins
    longest = config.training.max_length
    windows = [n for n in attack.prefix_lengths if n + attack.continuation < longest]
    once = notes * min(longest, NOTE / CHARS_A_TOKEN)
    once += notes * sum(n + 2 * attack.continuation for n in windows)
    if attack.paper_compat:
        once += notes * sum(n + attack.continuation for n in windows)
    if "own_prefix" in attack.knowledge and config.rounds.topology == "federated":
        once += len(config.present) * attack.own_prefixes * 2 * attack.continuation
    passes = 1 + rounds // attack.every + bool(rounds % attack.every)
    questions = config.utility.max_records * found.tokens / max(1.0, found.examples)
    evaluated = 1 + rounds // config.utility.every + bool(rounds % config.utility.every)
    return {"attacks": once * passes, "questions": questions * evaluated}


def trained(config: Config, found: Volume) -> float:
    """Tokens that are trained on in one round, by all clients that take part."""
    rounds, training = config.rounds, config.training
    taking_part: float = len(config.present)
    if isinstance(rounds.clients_per_round, int) and rounds.topology == "federated":
        taking_part = rounds.clients_per_round
    if rounds.local_steps:
        mean = training.max_length if training.packing else found.tokens / max(1, found.examples)
        clients = 1 if rounds.topology == "centralized" else taking_part
        return rounds.local_steps * training.batch_size * training.accumulation * mean * clients
    share = taking_part / len(config.data.clients)
    return found.tokens * share * (rounds.local_epochs or 1)


def length(config: Config, found: Volume) -> float:
    """Tokens of a sequence, which attention's part depends on."""
    if config.training.packing:
        return float(config.training.max_length)
    return min(float(config.training.max_length), found.tokens / max(1.0, found.examples))


def parts(work: Mapping[str, float]) -> str:
    """As in `training 5.3 TFLOP, attacks 120 GFLOP`."""
    return ", ".join(f"{name} {scaled(count)}FLOP" for name, count in work.items())


def scaled(count: float) -> str:
    """A number with its SI prefix, three digits."""
    for prefix in ("", "k", "M", "G", "T", "P"):
        if count < 1000:
            return f"{count:.3g} {prefix}"
        count /= 1000
    return f"{count:.3g} E"
