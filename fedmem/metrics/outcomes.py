"""From score rows to what one attack pass showed about one note: common ground of all metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from fedmem.errors import DataError

# A table, or a dict of equally long columns.
Columns: TypeAlias = Mapping[str, Any] | pa.Table
SCORE_COLUMNS = [
    *("round", "model", "attacker", "knowledge", "attack", "canary", "target", "prefix_tokens"),
    *("prefix_chars", "tokens", "matched", "hit", "logprob", "longest", "bleu", "category", "type"),
    "queries",
]
OTHER = "; was it written by another version?"
_TEXT, _NUMBER = (
    (pa.types.is_string, pa.types.is_large_string),
    (pa.types.is_integer, pa.types.is_floating),
)
KINDS: dict[str, tuple[Callable[[pa.DataType], bool], ...]] = {
    **dict.fromkeys(("model", "attacker", "knowledge", "attack", "canary", "patient"), _TEXT),
    **dict.fromkeys(("category", "type", "client", "owner"), _TEXT),
    **dict.fromkeys(("round", "target", "start", "tokens", "chars", "phi"), _NUMBER[:1]),
    **dict.fromkeys(("copies", "matched", "longest", "queries", "space"), _NUMBER[:1]),
    **dict.fromkeys(("prefix_tokens", "prefix_chars"), _NUMBER[:1]),
    **dict.fromkeys(("logprob", "bleu", "base", "final"), _NUMBER),
    **dict.fromkeys(("hit", "twin", "included"), (pa.types.is_boolean,)),
    **dict.fromkeys(("owners", "candidates"), (pa.types.is_list, pa.types.is_large_list)),
}
PAPER = "paper_compat"  # rows of the released code's own measures: none of ours may count them


@dataclass(frozen=True)
class Owned:
    """A row of canaries.parquet, less its text. A twin's owners would have been its owners."""

    id: str
    patient: str
    owners: tuple[str, ...]
    copies: int
    twin: bool
    tokens: int
    chars: int
    phi: int


@dataclass
class Outcome:
    """One note, one round, one model, one attacker, one knowledge.

    exact, approximate, prefix_chars: by prefix length in tokens.
    phi: by index of the value. nll: nats a token over the whole note. best: (matched tokens,
    tokens asked for, prefix tokens, prefix characters, BLEU) of the closest continuation.
    """

    exact: dict[int, bool] = field(default_factory=dict)
    approximate: dict[int, bool] = field(default_factory=dict)
    prefix: dict[int, tuple[int, int]] = field(default_factory=dict)  # target -> tokens, chars
    phi: dict[int, bool] = field(default_factory=dict)
    kinds: dict[int, tuple[str, str]] = field(default_factory=dict)  # index -> category, type
    longest: int | None = None
    tokens: int = 0
    nll: float | None = None
    best: tuple[int, int, int, int, float] | None = None
    queries: int = 0

    def hit(self, attack: str, continuation: int, prefix: int | None = None) -> bool | None:
        """Did `attack` succeed on this note? None where it was not tried or could not be."""
        if attack == "phi":
            return any(self.phi.values()) if self.phi else None
        if attack == "window":
            if self.longest is None or self.tokens < continuation:
                return None
            return self.longest >= continuation
        tried = self.exact if attack == "exact" else self.approximate
        if prefix is not None:
            return tried.get(prefix)
        return any(tried.values()) if tried else None


@dataclass(frozen=True)
class Key:
    """Which pass an Outcome belongs to."""

    round: int
    model: str
    attacker: str
    knowledge: str
    canary: str


def rows(table: Columns, columns: Iterable[str]) -> list[dict[str, Any]]:
    """The table's rows as dicts of plain Python values.

    DataError where a column is missing, or a saved one is of another kind than it is read as.
    """
    columns = list(columns)
    names = table.column_names if isinstance(table, pa.Table) else list(table)
    missing = [name for name in columns if name not in names]
    if missing:
        raise DataError(f"the table has no column {', '.join(missing)}{OTHER}")
    if isinstance(table, pa.Table):
        _check_kinds(table, columns)
        return list(table.select(columns).to_pylist())
    lists = [
        table[name].tolist() if isinstance(table[name], np.ndarray) else list(table[name])
        for name in columns
    ]
    return [dict(zip(columns, row, strict=True)) for row in zip(*lists, strict=True)]


def _check_kinds(table: pa.Table, columns: Iterable[str]) -> None:
    for name in columns:
        found = table.schema.field(name).type
        allowed = KINDS.get(name, ())
        if (
            allowed
            and not pa.types.is_null(found)
            and not any(is_kind(found) for is_kind in allowed)
        ):
            raise DataError(f"the table's column {name} holds {found}{OTHER}")


def read_canaries(table: Columns) -> dict[str, Owned]:
    """canaries.parquet by id. Fails with DataError on an id that stands twice."""
    names = ["canary", "patient", "owners", "copies", "twin", "tokens", "chars", "phi"]
    found: dict[str, Owned] = {}
    for row in rows(table, names):
        name, patient, owners, *rest = (row[key] for key in names)
        if name in found:
            raise DataError(f"canaries: {name!r} stands twice")
        found[name] = Owned(name, patient, tuple(owners), *rest)
    return found


def collect(scores: Columns, canaries: Mapping[str, Owned], bleu: float) -> dict[Key, Outcome]:
    """All score rows, gathered by note. `bleu`: from which token BLEU a match is approximate."""
    found: dict[Key, Outcome] = {}
    for row in rows(scores, SCORE_COLUMNS):
        if row["attack"] == PAPER:
            continue
        if row["canary"] not in canaries:
            raise DataError(f"scores: canary {row['canary']!r} is not in the table of canaries")
        key = Key(row["round"], row["model"], row["attacker"], row["knowledge"], row["canary"])
        outcome = found.get(key)
        if outcome is None:
            outcome = found[key] = Outcome()
        _add(outcome, row, bleu)
    return found


def _add(outcome: Outcome, row: dict[str, Any], bleu: float) -> None:
    """Note one score row in `outcome`."""
    attack, target = row["attack"], row["target"]
    outcome.queries = max(outcome.queries, row["queries"] or 0)
    if attack == "phi":
        outcome.phi[target] = bool(row["hit"])
        outcome.kinds[target] = (row["category"], row["type"])
    elif attack == "extraction":
        score = row["bleu"] or 0.0
        outcome.exact[target] = bool(row["hit"])
        outcome.approximate[target] = bool(row["hit"]) or score >= bleu
        outcome.prefix[target] = (row["prefix_tokens"], row["prefix_chars"])
        best = (row["matched"], row["tokens"], row["prefix_tokens"], row["prefix_chars"], score)
        if outcome.best is None or (best[0], best[4]) > (outcome.best[0], outcome.best[4]):
            outcome.best = best
    elif attack == "loss":
        outcome.longest, outcome.tokens = row["longest"], row["tokens"]
        if row["logprob"] is not None and row["tokens"]:
            outcome.nll = -row["logprob"] / row["tokens"]
    else:
        raise DataError(f"scores: no attack is called {attack!r} (extraction, phi, loss)")


def eligible(attacker: str, canary: Owned, canaries: Mapping[str, Owned]) -> str | None:
    """Why `attacker` may not count as an outsider to `canary`; None if it may.

    The reasons: "holds a copy", "same patient" (holds another note of the patient's). A twin is
    held by nobody, but its would-be owner does not count, so that it stands for a canary fairly.
    """
    if attacker in canary.owners:
        return "would have held a copy" if canary.twin else "holds a copy"
    for other in canaries.values():
        held = not other.twin and attacker in other.owners
        if held and other.id != canary.id and other.patient == canary.patient:
            return "same patient"
    return None
