"""The honest half of a client: it trains the model it is sent on its own records."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from flwr.app import ConfigRecord, RecordDict

from fedmem.defences.client import take_turn
from fedmem.engine.records import (
    DEFENCES,
    OBSERVE,
    metrics_record,
    only_arrays,
    only_config,
    to_arrays,
    to_record,
)

if TYPE_CHECKING:
    from fedmem.workspace import Workspace


def train(workspace: Workspace, client: str, round_: int, content: RecordDict) -> RecordDict:
    """Train `client` from the arrays in `content`; return one ArrayRecord and one MetricRecord.

    The metrics hold `num-examples`. Raises RunError, naming client and round, on a NaN loss.
    """
    received = to_arrays(only_arrays(content))
    state = json.loads(str(only_config(content).get(DEFENCES, "{}")))
    arrays, metrics = take_turn(workspace, client, round_, received, state)
    return RecordDict({"arrays": to_record(arrays), "metrics": metrics_record(metrics)})


def report(workspace: Workspace, client: str, round_: int, content: RecordDict) -> RecordDict:
    """Score the client's own canaries and held-out questions here, and let out figures alone.

    For deployment, where no other machine holds them. Parts: see `Workspace.report`. A client that
    is due to attack does so in the same turn (`observed`): a node may be a new process for every
    message, which loads the base anew.
    """
    arrays = to_arrays(only_arrays(content))
    parts = workspace.report(client, round_, arrays)
    if only_config(content)[OBSERVE]:
        parts["observed"] = workspace.observe(client, round_, arrays)
    record = ConfigRecord({name: part for name, part in parts.items() if part})
    return RecordDict({"report": record, "metrics": metrics_record({"num-examples": 1})})
