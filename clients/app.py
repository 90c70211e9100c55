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

from clients import curious, honest, privacy, secagg
from fedmem.config import Config
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
    """Train the model that the server sent; under secure aggregation the update goes masked."""
    workspace, client, round_ = _turn(message, context)
    privacy.account(workspace, client, round_, message.content, context)
    if workspace.config.aggregation.secure.enabled:
        masked = secagg.train(workspace, client, round_, message.content, context)
        return Message(masked, reply_to=message)
    return Message(honest.train(workspace, client, round_, message.content), reply_to=message)


@app.train("keys")
def keys(message: Message, context: Context) -> Message:
    """Secure aggregation: announce this round's public keys."""
    config, client, round_ = _player(message, context)
    return Message(secagg.keys(config, client, round_, context), reply_to=message)


@app.train("shares")
def shares(message: Message, context: Context) -> Message:
    """Secure aggregation: share this round's secrets among the neighbours."""
    config, client, round_ = _player(message, context)
    content = secagg.shares(config, client, round_, message.content, context)
    return Message(content, reply_to=message)


@app.train("unmask")
def unmask(message: Message, context: Context) -> Message:
    """Secure aggregation: hand out the shares that open the sum."""
    config, client, round_ = _player(message, context)
    content = secagg.unmask(config, client, round_, message.content, context)
    return Message(content, reply_to=message)


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

    config_json, round_ = _asked(message)
    if "data-root" in context.node_config:
        config_json = at_home(config_json, Path(str(context.node_config["data-root"])))
    workspace = workspaces.get(config_json)
    return workspace, workspace.clients[_partition(context)], round_


def _player(message: Message, context: Context) -> tuple[Config, str, int]:
    """The config, the client's name and the round, where neither base nor data are needed."""
    config_json, round_ = _asked(message)
    config = Config.model_validate_json(config_json)
    return config, config.present[_partition(context)], round_


def _asked(message: Message) -> tuple[str, int]:
    """The config, as the server has it, and the round."""
    settings = only_config(message.content)
    round_ = settings[ROUND]
    if not isinstance(round_, int):
        raise ValueError(f"{ROUND}: expected a whole number, found {round_!r}")
    return str(settings[CONFIG]), round_


def _partition(context: Context) -> int:
    return int(context.node_config["partition-id"])
