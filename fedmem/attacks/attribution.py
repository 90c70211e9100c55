"""The curious server: whose update makes a note more likely? (Source attribution.)

Each update by itself is applied to the model it was made from, and every candidate note is scored.
The rows of server.parquet hold log-likelihoods alone; who is named, and how often rightly, is for
`fedmem.metrics.attribution` to say. It needs every client's update in the clear: under secure
aggregation there is no such thing, and the attack fails for want of the field `updates`.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from fedmem.attacks.scoring import score
from fedmem.attacks.views import Candidates, ServerView
from fedmem.metrics.attribution import SCHEMA


def attribute(view: ServerView, knowledge: Candidates) -> list[dict[str, Any]]:
    """A row of server.parquet for each client's update and candidate; one model at a time."""
    rows = []
    texts = [note.ids for note in knowledge.notes]
    for client, update in view.updates.items():
        moved = {name: array + update[name] for name, array in view.received.items()}
        for note, one in zip(knowledge.notes, score(view.model_of(moved), texts), strict=True):
            head = {"round": view.round, "client": client, "canary": note.id}
            rows.append(head | {"tokens": len(one.ok), "logprob": float(one.logprob.sum())})
    return rows


def table(rows: list[dict[str, Any]]) -> pa.Table:
    """Rows as server.parquet holds them."""
    return pa.Table.from_pylist(rows, schema=SCHEMA)
