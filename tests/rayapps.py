"""A ClientApp for the tests of Ray: the project's own, which leaves a note of every turn of
training and can be held up. The folder is the config's `output`, which all nodes see."""

from __future__ import annotations

import os
import time
from pathlib import Path

import ray
from flwr.app import Context, Message, MetricRecord
from flwr.clientapp import ClientApp

import clients.app
from fedmem.config import Config
from fedmem.engine.records import CONFIG, ROUND, only_config, only_metrics

HELD_AT_MOST = 120.0  # seconds: on a machine too slow a test fails, and does not wait for ever

app = ClientApp()
app.query()(clients.app.introduce)
app.evaluate()(clients.app.evaluate)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Note round, partition, node, process and how many turns this client has had."""
    settings = only_config(message.content)
    folder = Config.model_validate_json(str(settings[CONFIG])).output
    turns = only_metrics(context.state)["turns"] + 1 if context.state else 1
    context.state["turns"] = MetricRecord({"turns": turns})
    round_, partition = settings[ROUND], context.node_config["partition-id"]
    node = ray.get_runtime_context().get_node_id()
    note = folder / f"turn-{round_}-{partition}-{os.getpid()}"
    written = Path(f"{note}.part")
    written.write_text(f"{node} {turns}")
    written.rename(note)
    until = time.monotonic() + HELD_AT_MOST
    while (folder / f"hold-{round_}").exists() and time.monotonic() < until:
        time.sleep(0.05)
    if (folder / "fail").exists():
        raise ValueError("no room")
    return clients.app.train(message, context)
