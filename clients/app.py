"""The ClientApp: it finds out which client it plays, and hands over to `honest` or `curious`.

Works unchanged in process, under Ray and in deployment: the config comes in the message, the client
from the node's partition id, the base model from the process's workspace. In deployment the folder
of a hospital's records is its own to say: `data-root` in the node config goes before `data.root`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from clients import curious, honest
from fedmem.engine.deployment import at_home
from fedmem.engine.records import CONFIG, ROUND, only_config

if TYPE_CHECKING:
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


@app.evaluate("report")
def report(message: Message, context: Context) -> Message:
    """Say how the model does on this client's own canaries and held-out questions."""
    workspace, client, round_ = _turn(message, context)
    return Message(honest.report(workspace, client, round_, message.content), reply_to=message)


def _turn(message: Message, context: Context) -> tuple[Workspace, str, int]:
    """Return this process's workspace, the client's name and the round."""
    # here, and not above: a process that is only asked for its partition id need not load torch
    from fedmem import workspace as workspaces

    settings = only_config(message.content)
    round_ = settings[ROUND]
    if not isinstance(round_, int):
        raise ValueError(f"{ROUND}: expected a whole number, found {round_!r}")
    config_json = str(settings[CONFIG])
    if "data-root" in context.node_config:
        config_json = at_home(config_json, Path(str(context.node_config["data-root"])))
    workspace = workspaces.get(config_json)
    return workspace, workspace.clients[_partition(context)], round_


def _partition(context: Context) -> int:
    return int(context.node_config["partition-id"])
