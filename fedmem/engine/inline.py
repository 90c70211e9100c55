"""The default engine: every client runs in this process, one after the other, in a fixed order.

`InlineGrid` is a Flower `Grid`, so ClientApps, ServerApps, strategies and mods run here unchanged.
A message is delivered when its reply is asked for: the server sees one reply at a time, and memory
does not grow with the number of clients.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

from flwr.app import Message, UserConfig
from flwr.clientapp import ClientApp

from clients.app import app as clients_app
from fedmem import workspace as workspaces
from fedmem.config import Config
from fedmem.engine.grid import SimulationGrid, answer
from fedmem.model.state import Arrays
from fedmem.rounds import OnRound, Start
from server.rounds import run_rounds


class InlineGrid(SimulationGrid):
    """Carries messages between a ServerApp and one ClientApp that plays every client.

    Replies come in the order of the messages, each made when it is asked for. A `FedmemError` in a
    client goes through to the server's caller as it is, and so does Ctrl-C; any other exception
    becomes an error reply that names the client.
    """

    def __init__(
        self, app: ClientApp, clients: list[str], run_config: UserConfig | None = None
    ) -> None:
        super().__init__(clients, run_config)
        self._app = app

    def _answers(self, messages: Iterator[Message]) -> Iterator[Message]:
        for message in messages:
            yield self._deliver(message)

    def _deliver(self, message: Message) -> Message:
        """Let the addressed client answer.

        Copied both ways, as a network would: mods change records in place, and all clients of a
        round are sent the same one. (The bytes inside an Array are immutable, and shared.)
        """
        node = message.metadata.dst_node_id
        sent = copy.deepcopy(message)
        return copy.deepcopy(answer(self._app, sent, self._contexts[node], self._names[node]))


def run_inline(
    config: Config,
    on_round: OnRound,
    start: Start | None = None,
    client_app: ClientApp | None = None,
) -> dict[str, Arrays]:
    """Run all rounds in this process, or those after `start`; return the last models by name.

    `on_round` is called after every round, and for round 0 before any training. `client_app`
    replaces the project's own, for instance by one with mods. Raises RunError, naming client and
    round, if a client fails or its update is unusable.
    """
    workspace = workspaces.get(config.model_dump_json())
    grid = InlineGrid(client_app or clients_app, workspace.clients)
    return run_rounds(grid, config, on_round, start)
