"""Between named numpy arrays and the records in Flower's messages. Order and names are kept.

A train message carries `arrays` and `config`, its reply `arrays` and `metrics`; an evaluate message
the same, its reply `scores` and `metrics`. Mods rely on one record of a kind.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

Arrays = dict[str, np.ndarray]
Record = TypeVar("Record", ArrayRecord, ConfigRecord, MetricRecord)

ROUND = "server-round"  # Flower's own strategies send the round under this key
CONFIG = "config"  # the whole config as JSON: a node needs nothing but the message to take part
OBSERVE = "observe"  # whether the client that reports is to attack the model, too
EXAMPLES = "num-examples"
TRAINED = "trained"  # under DP-SGD: the rounds in which the client has trained before
DEFENCES = "defences"  # what the server's defences left for the clients' ones, as JSON
SECAGG = "secagg"  # where a client keeps its part in secure aggregation between messages
LARGEST_WEIGHT = "largest-weight"  # of a client's update, known to all under secure aggregation
METRIC_NAMES = "metric-names"  # JSON: what the scalars in a masked vector are


def to_record(arrays: Arrays) -> ArrayRecord:
    """Pack arrays as float32, C order (the wire has no bfloat16)."""
    return ArrayRecord(
        {name: Array(np.asarray(a, dtype=np.float32, order="C")) for name, a in arrays.items()}
    )


def to_arrays(record: ArrayRecord) -> Arrays:
    """Unpack a record into fresh arrays that the caller may write to."""
    return {name: array.numpy() for name, array in record.items()}


def metrics_record(metrics: dict[str, float]) -> MetricRecord:
    """Pack metrics; numpy's scalars become Python's, which is all that Flower takes."""
    values = {name: float(value) for name, value in metrics.items() if name != EXAMPLES}
    return MetricRecord({EXAMPLES: int(metrics[EXAMPLES]), **values})


def only_arrays(content: RecordDict) -> ArrayRecord:
    """Return the one ArrayRecord of a message, or raise ValueError."""
    return _only(content, ArrayRecord)


def only_config(content: RecordDict) -> ConfigRecord:
    """Return the one ConfigRecord of a message, or raise ValueError."""
    return _only(content, ConfigRecord)


def only_metrics(content: RecordDict) -> dict[str, float]:
    """Return the numbers in the one MetricRecord of a message, or raise ValueError."""
    record = _only(content, MetricRecord)
    return {name: value for name, value in record.items() if not isinstance(value, list)}


def _only(content: RecordDict, kind: type[Record]) -> Record:
    # Not `content.array_records`: in Flower 1.41 that view is part of a reference cycle with the
    # content, and so keeps a whole update in memory until the garbage collector comes round.
    records = [record for record in content.values() if isinstance(record, kind)]
    if len(records) != 1:
        raise ValueError(f"expected one {kind.__name__}, found {len(records)}")
    return records[0]
