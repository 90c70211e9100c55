"""The curious half of a client: what it does with each model it is sent, besides training it.

It keeps to the protocol. It changes nothing that the server gets back, and sees nothing but its own
records and the models: the view "client".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flwr.app import ConfigRecord, RecordDict

from fedmem.engine.records import metrics_record, only_arrays, to_arrays

if TYPE_CHECKING:
    from fedmem.workspace import Workspace


def observe(workspace: Workspace, client: str, round_: int, content: RecordDict) -> RecordDict:
    """Let `client` attack the model in `content`; return its score rows (bytes) and a MetricRecord.

    `num-examples` is 1, the one model observed: Flower asks for the key, nobody weights by it.
    """
    scores = workspace.observe(client, round_, to_arrays(only_arrays(content)))
    # Flower's byte counting (message_size_mod) refuses an empty value, so no rows means no key.
    record = ConfigRecord({"scores": scores} if scores else {})
    return RecordDict({"scores": record, "metrics": metrics_record({"num-examples": 1})})
