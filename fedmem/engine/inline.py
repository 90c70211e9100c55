"""The default engine: every client runs in this process, one after the other, in a fixed order.

`InlineGrid` is a Flower `Grid`, so ClientApps, ServerApps, strategies and mods run here unchanged.
A message is delivered when its reply is asked for: the server sees one reply at a time, and memory
does not grow with the number of clients.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Iterator

from flwr.app import Context, Error, Message, RecordDict, UserConfig
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from clients.app import app as clients_app
from fedmem import workspace as workspaces
from fedmem.config import Config
from fedmem.engine import _flower
from fedmem.engine.records import Arrays
from fedmem.errors import FedmemError
from server.app import OnRound, server_app

log = logging.getLogger(__name__)


class InlineGrid(Grid):
    """Carries messages between a ServerApp and one ClientApp that plays every client.

    `clients` are the names in order of partition id; each gets a node and a `Context` that lives as
    long as the grid. A `FedmemError` in a client goes through to the server's caller as it is, and
    so does Ctrl-C; any other exception becomes an error reply that names the client.
    """

    def __init__(self, app: ClientApp, clients: list[str], run_config: UserConfig) -> None:
        self._app = app
        self._run = _flower.open_run(run_id=1)
        self._sent: dict[str, Message] = {}
        self._count = 0
        self._names: dict[int, str] = {}
        self._contexts: dict[int, Context] = {}
        for partition, name in enumerate(clients):
            node = _flower.SUPERLINK_NODE_ID + 1 + partition
            self._names[node] = name
            self._contexts[node] = Context(
                run_id=self._run.run_id,
                node_id=node,
                node_config={
                    _flower.PARTITION_ID_KEY: partition,
                    _flower.NUM_PARTITIONS_KEY: len(clients),
                },
                state=RecordDict(),
                run_config=dict(run_config),
            )

    def set_run(self, run: _flower.Run) -> None:
        """Take another run's details."""
        self._run = run

    @property
    def run(self) -> _flower.Run:
        """The run this grid serves."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Make a message from the server; run and source are filled in by Flower."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """Node ids in order of partition id."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Take messages in and return their ids; nothing runs yet."""
        ids = []
        for message in messages:
            if message.metadata.dst_node_id not in self._contexts:
                raise ValueError(f"no node has the id {message.metadata.dst_node_id}")
            self._count += 1
            message_id = f"message-{self._count}"
            _flower.set_message_id(message, message_id)
            self._sent[message_id] = message
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        """Run each message's client as its reply is asked for. A reply can be pulled once."""
        for message_id in message_ids:
            if message_id in self._sent:
                yield self._deliver(self._sent.pop(message_id))

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Yield the replies in the order of the messages, each made when it is asked for.

        `timeout` has no meaning here: a client that runs in this thread cannot be left behind.
        """
        for message in messages:
            yield from self.pull_messages(self.push_messages([message]))

    def _deliver(self, message: Message) -> Message:
        """Let the addressed client answer.

        Copied both ways, as a network would: mods change records in place, and all clients of a
        round are sent the same one. (The bytes inside an Array are immutable, and shared.)
        """
        node = message.metadata.dst_node_id
        name = self._names[node]
        try:
            reply = self._app(copy.deepcopy(message), self._contexts[node])
            if not isinstance(reply, Message):
                raise TypeError(f"the ClientApp returned {type(reply).__name__}, not a Message")
            reply = copy.deepcopy(reply)
        except FedmemError:
            raise
        except Exception as error:
            log.debug("client %s raised", name, exc_info=True)
            what = str(error).partition("\n")[0][:200]
            reply = Message(
                Error(
                    _flower.ErrorCode.CLIENT_APP_RAISED_EXCEPTION,
                    f"client {name} raised {type(error).__name__}: {what}",
                ),
                reply_to=message,
            )
        _flower.set_message_id(reply, f"reply-{message.metadata.message_id}")
        return reply


def run_inline(
    config: Config, on_round: OnRound, client_app: ClientApp | None = None
) -> dict[str, Arrays]:
    """Run all rounds in this process and return the last models by name.

    `on_round` is called after every round, and for round 0 before any training: see
    `server.app.OnRound`. `client_app` replaces the project's own, for instance by one with mods.
    Raises RunError, naming client and round, if a client fails or its update is unusable.
    """
    config_json = config.model_dump_json()
    workspace = workspaces.get(config_json)
    run_config: UserConfig = {"config": config_json}
    grid = InlineGrid(client_app or clients_app, workspace.clients, run_config)
    last: dict[str, Arrays] = {}

    def keep_last(
        round_: int,
        arrays: dict[str, Arrays],
        participants: list[str],
        train_metrics: dict[str, dict[str, float]],
        score_bytes: list[bytes],
        seconds: dict[str, float],
    ) -> None:
        last.clear()
        last.update(arrays)
        on_round(round_, arrays, participants, train_metrics, score_bytes, seconds)

    context = Context(
        run_id=grid.run.run_id,
        node_id=_flower.SUPERLINK_NODE_ID,
        node_config={},
        state=RecordDict(),
        run_config=run_config,
    )
    server_app(keep_last)(grid, context)
    return last
