"""Score rows: the one table of all attacks, a row for each thing tried on a canary."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from fedmem.attacks.scoring import TokenScores
from fedmem.data.records import Canary
from fedmem.metrics import tokens

# Round 0 is the untouched base. attacker "*": every client that received this model and holds no
# copy. target: extraction, the prefix length asked for; phi, the index of the value in the plan.
SCHEMA = pa.schema(
    [
        ("round", pa.int32()),
        ("model", pa.string()),
        ("view", pa.string()),
        ("attacker", pa.string()),
        ("knowledge", pa.string()),
        ("attack", pa.string()),
        ("canary", pa.string()),
        ("target", pa.int32()),
        ("prefix_tokens", pa.int32()),
        ("prefix_chars", pa.int32()),
        ("tokens", pa.int32()),
        ("matched", pa.int32()),
        ("hit", pa.bool_()),
        ("logprob", pa.float64()),  # natural log, summed over the target's tokens
        ("margin", pa.float32()),  # smallest logit gap over the target
        ("longest", pa.int32()),  # loss rows: longest run of tokens given back
        ("bleu", pa.float32()),
        ("edit", pa.float32()),
        ("category", pa.string()),
        ("type", pa.string()),
        ("queries", pa.int32()),
        ("start", pa.int32()),  # which token of the canary the target begins with (BOS counted)
        ("rouge_l", pa.float32()),
        # phi rows: natural log of the value's probability, then of each candidate's, same prefix
        ("candidates", pa.list_(pa.field("element", pa.float32()))),
        ("space", pa.int64()),  # values of this form that there are; null where nobody knows
    ]
)


def table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Rows with keys of the schema (missing ones are null) as an Arrow table."""
    columns = {name: [row.get(name) for row in rows] for name in SCHEMA.names}
    return pa.table(columns, schema=SCHEMA)


def token_row(canary: Canary, scores: TokenScores) -> dict[str, Any]:
    """A row of tokens.parquet, without round and model."""
    lists = {name: getattr(scores, name) for name in tokens.LISTS}
    lists |= {f"np_{point}": one for point, one in enumerate(scores.sampled)}
    size = len(zlib.compress(canary.text.encode()))
    return {"canary": canary.id, "zlib": size, **lists}


def token_table(rows: Sequence[dict[str, Any]], points: int) -> pa.Table:
    """Rows of tokens.parquet for a sampling grid of `points` as an Arrow table."""
    made = tokens.schema(points)
    return pa.table({name: [row.get(name) for row in rows] for name in made.names}, schema=made)


def to_bytes(rows: Sequence[dict[str, Any]]) -> bytes:
    """The table as an Arrow stream, for a message; empty bytes for no rows."""
    return table_bytes(table(rows)) if rows else b""


def table_bytes(made: pa.Table) -> bytes:
    """Any table as an Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, made.schema) as writer:
        writer.write_table(made)
    return bytes(sink.getvalue())


def from_bytes(data: bytes) -> pa.Table:
    """The table in an Arrow stream."""
    with pa.ipc.open_stream(data) as reader:
        return reader.read_all()
