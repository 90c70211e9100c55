"""How often the curious server names a note's owner, from server.parquet; and who sees what."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from fedmem.config import Config
from fedmem.metrics.intervals import wilson
from fedmem.metrics.outcomes import Columns, Owned
from fedmem.metrics.outcomes import rows as rows_of

SERVER = "server.parquet"
SCHEMA = pa.schema(
    [
        pa.field("round", pa.int32(), nullable=False),
        pa.field("client", pa.string(), nullable=False),  # whose update was applied
        pa.field("canary", pa.string(), nullable=False),
        pa.field("tokens", pa.int32(), nullable=False),
        pa.field("logprob", pa.float64(), nullable=False),  # natural, summed, of the whole note
    ]
)


def rows(table: Columns, canaries: Mapping[str, Owned]) -> list[dict[str, Any]]:
    """A row for each round and number of copies, and with round None over all rounds together.

    For each note the client is named whose update favours it most: nats a token, less that
    client's mean over all candidates of the round (an update that favours every note tells
    nothing of one). Notes that one client alone owns count, in rounds in which it took part.
    `chance`: of a guess among the participants. copies 0, twins, would have been their owner's:
    the check that nothing but training names a client.
    """
    nats: dict[int, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows_of(table, SCHEMA.names):
        nats[row["round"]][row["client"]][row["canary"]] = row["logprob"] / row["tokens"]
    named: dict[int, dict[str, dict[str, float]]] = {
        round_: {client: _centred(of) for client, of in by_client.items()}
        for round_, by_client in nats.items()
    }
    found = [row for round_ in sorted(named) for row in _graded(round_, named[round_], canaries)]
    return found + (_graded(None, _together(list(named.values())), canaries) if named else [])


def _centred(scores: Mapping[str, float]) -> dict[str, float]:
    mean = float(np.mean([*scores.values()]))
    return {canary: value - mean for canary, value in scores.items()}


def _together(
    rounds: Sequence[Mapping[str, Mapping[str, float]]],
) -> dict[str, dict[str, float]]:
    """Every client's mean over the rounds it took part in."""
    each: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for by_client in rounds:
        for client, scores in by_client.items():
            for canary, value in scores.items():
                each[client][canary].append(value)
    return {
        client: {canary: float(np.mean(values)) for canary, values in scores.items()}
        for client, scores in each.items()
    }


def _graded(
    round_: int | None,
    scores: Mapping[str, Mapping[str, float]],
    canaries: Mapping[str, Owned],
) -> list[dict[str, Any]]:
    hits: dict[int, list[bool]] = defaultdict(list)
    clients = sorted(scores)
    if len(clients) < 2:  # nobody to tell apart
        return []
    for name, canary in canaries.items():
        if len(canary.owners) == 1 and canary.owners[0] in scores:
            best = max(clients, key=lambda client: scores[client][name])
            hits[canary.copies].append(best == canary.owners[0])
    found = []
    for copies, of in sorted(hits.items()):
        share = wilson(sum(of), len(of))
        head = {"view": "server", "knowledge": "candidates", "round": round_, "copies": copies}
        figures = {"n": len(of), "hits": sum(of), "rate": share.point}
        figures |= {"low": share.low, "high": share.high, "chance": 1 / len(clients)}
        found.append(head | figures)
    return found


def seats(config: Config) -> list[dict[str, Any]]:
    """A row for each view of the config: what it sees, and whether updates by themselves are in it.

    Under secure aggregation the server sees the sum alone, which every client can work out from two
    consecutive models: no attribution is possible, and the clients' seats see what they saw.
    """
    secure = config.aggregation.secure.enabled
    sees = {
        "client": "the model of every round it takes part in, and its own records and updates",
        "public": "the last model alone",
        "server": "the sum of a round's updates" if secure else "every client's update, by name",
    }
    return [
        {"view": view, "sees": sees[view], "updates": view == "server" and not secure}
        for view in config.attack.views
    ]
