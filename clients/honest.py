"""The honest half of a client: it trains the model it is sent on its own records."""

from __future__ import annotations

from flwr.app import RecordDict

from fedmem.engine.records import metrics_record, only_arrays, to_arrays, to_record
from fedmem.workspace import Workspace


def train(workspace: Workspace, client: str, round_: int, content: RecordDict) -> RecordDict:
    """Train `client` from the arrays in `content`; return one ArrayRecord and one MetricRecord.

    The metrics hold `num-examples`. Raises RunError, naming client and round, on a NaN loss.
    """
    arrays, metrics = workspace.train(client, round_, to_arrays(only_arrays(content)))
    return RecordDict({"arrays": to_record(arrays), "metrics": metrics_record(metrics)})
