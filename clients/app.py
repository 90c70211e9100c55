"""The ClientApp: it finds out which client it plays, and hands over to `honest` or `curious`.

Works unchanged in process, under Ray and in deployment: the config comes in the run config, the
client from the node's partition id, the base model from the process's workspace.
"""

from __future__ import annotations

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from clients import curious, honest
from fedmem import workspace as workspaces
from fedmem.engine.records import ROUND, only_config
from fedmem.workspace import Workspace

app = ClientApp()


@app.query()
def introduce(message: Message, context: Context) -> Message:
    """Tell the server which partition this node holds; node ids say nothing about it."""
    record = MetricRecord({"partition-id": _partition(context)})
    return Message(RecordDict({"node": record}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the model that the server sent."""
    workspace, client, round_ = _turn(message, context)
    return Message(honest.train(workspace, client, round_, message.content), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Look at the model that the server sent."""
    workspace, client, round_ = _turn(message, context)
    return Message(curious.observe(workspace, client, round_, message.content), reply_to=message)


def _turn(message: Message, context: Context) -> tuple[Workspace, str, int]:
    """Return this process's workspace, the client's name and the round."""
    workspace = workspaces.get(str(context.run_config["config"]))
    round_ = only_config(message.content)[ROUND]
    if not isinstance(round_, int):
        raise ValueError(f"{ROUND}: expected a whole number, found {round_!r}")
    return workspace, workspace.clients[_partition(context)], round_


def _partition(context: Context) -> int:
    return int(context.node_config["partition-id"])
