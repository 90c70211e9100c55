"""Every private import from Flower, in one place, for the version that is pinned.

Flower documents `flwr.app`, `flwr.clientapp` and `flwr.serverapp`; the names below are internal and
may move with any release. After an upgrade, this file and `tests/engine/test_inline.py` say what
broke.
"""

from __future__ import annotations

import logging
import os

from flwr.app import Message
from flwr.common.constant import (
    NUM_PARTITIONS_KEY,
    PARTITION_ID_KEY,
    SUPERLINK_NODE_ID,
    ErrorCode,
)
from flwr.supercore.logger import FLOWER_LOGGER
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

FLOWER_VERSION = "1.41.0"

__all__ = [
    "FLOWER_VERSION",
    "NUM_PARTITIONS_KEY",
    "PARTITION_ID_KEY",
    "SUPERLINK_NODE_ID",
    "ErrorCode",
    "Run",
    "open_run",
    "set_message_id",
]

# Flower applies FLWR_LOG_LEVEL to its console only, and only if it was set before the first import;
# the logger itself hands everything to the root logger's handlers.
_LEVELS = logging.getLevelNamesMapping()
FLOWER_LOGGER.setLevel(_LEVELS.get(os.environ["FLWR_LOG_LEVEL"].upper(), logging.WARNING))


def open_run(run_id: int) -> Run:
    """Give this process the identity of a ServerApp, which `Message` asks for; return the run.

    The identity is global to the process: one run at a time.
    """
    TaskIdentity.run_id = run_id
    TaskIdentity.task_id = 1
    TaskIdentity.node_id = SUPERLINK_NODE_ID
    return Run.create_empty(run_id)


def set_message_id(message: Message, message_id: str) -> None:
    """Write the id that a SuperLink would give; `Metadata` has no setter for it."""
    message.metadata.__dict__["_message_id"] = message_id
