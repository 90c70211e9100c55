"""What runs in an actor's process: one workspace, and any client's turn in it.

Ray imports this module by its name on the node: nothing of the driver's process travels in it.
"""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from hashlib import sha256
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedmem.engine import _flower
from fedmem.engine.grid import answer
from fedmem.errors import FedmemError, RunError
from fedmem.versions import fedmem_version


def installed() -> dict[str, str]:
    """What must be the same on every node for results to be the same."""
    return {
        "python": platform.python_version(),
        "ray": version("ray"),
        "flwr": version("flwr"),
        "torch": version("torch"),
        "fedmem": f"{fedmem_version()} ({code_hash()})",
    }


def code_hash() -> str:
    """Eight hex digits over the Python files of `fedmem` and `clients`."""
    digest = sha256()
    for package in ("fedmem", "clients"):
        folder = Path(str(import_module(package).__file__)).parent
        for file in sorted(folder.rglob("*.py")):
            digest.update(file.relative_to(folder).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:8]


class ClientActor:
    """One process that plays clients. Its errors are returned, not raised: Ray would wrap them."""

    def about(self) -> tuple[str, dict[str, str]]:
        """The id of the Ray node that this runs on, and what is installed there."""
        import ray

        return ray.get_runtime_context().get_node_id(), installed()

    def open(self, config_json: str, app: str, folder: str) -> FedmemError | None:
        """Load base and data; `app` is MODULE:NAME, and relative paths start at `folder`."""
        with suppress(OSError):  # absent on this node: then a relative path names what is missing
            os.chdir(folder)
        try:
            module, _, name = app.partition(":")
            self._app: ClientApp = getattr(import_module(module), name)
            from fedmem import workspace  # with torch: not before `about` has been answered

            workspace.get(config_json)
        except FedmemError as error:
            return error
        except Exception as error:
            what = " ".join(str(error).split())[:200]
            return RunError(f"an actor could not start: {type(error).__name__}: {what}")
        _flower.open_run(run_id=1)
        return None

    def answer(
        self, name: str, message: Message, context: Context, order: list[str], *arrays: ArrayRecord
    ) -> tuple[Message, RecordDict] | FedmemError:
        """Client `name`'s reply, and its state after it. `order`: all keys of the content, of which
        the message lacks those of the `arrays`."""
        held = iter(arrays)
        rest = message.content
        message.content = RecordDict({k: rest[k] if k in rest else next(held) for k in order})
        try:
            return answer(self._app, message, context, name), context.state
        except FedmemError as error:
            return error
