"""What every Grid of this project has in common: one node a client, and a `Context` for each."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterable, Iterator

from flwr.app import Context, Error, Message, RecordDict, UserConfig
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from fedmem.engine import _flower
from fedmem.errors import FedmemError

log = logging.getLogger(__name__)


class SimulationGrid(Grid):
    """Nodes and message ids; how messages are delivered is for the engine to say (`_answers`).

    `clients` are the names in order of partition id; each gets a node and a `Context` that lives as
    long as the grid.
    """

    def __init__(self, clients: list[str], run_config: UserConfig | None = None) -> None:
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
                run_config=dict(run_config or {}),
            )

    @abstractmethod
    def _answers(self, messages: Iterator[Message]) -> Iterator[Message]:
        """Yield the replies; a message is taken when there is a client free for it."""

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
            self._number(message)
            self._sent[message.metadata.message_id] = message
            ids.append(message.metadata.message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        """Let the clients of these messages answer. A reply can be pulled once."""
        return self._answers(self._sent.pop(id_) for id_ in message_ids if id_ in self._sent)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Yield the replies as they come. `timeout` is without meaning: nobody is left behind."""
        return self._answers(self._number(message) for message in messages)

    def _number(self, message: Message) -> Message:
        if message.metadata.dst_node_id not in self._contexts:
            raise ValueError(f"no node has the id {message.metadata.dst_node_id}")
        self._count += 1
        _flower.set_message_id(message, f"message-{self._count}")
        return message


def answer(app: ClientApp, message: Message, context: Context, name: str) -> Message:
    """The reply of client `name`. A FedmemError and Ctrl-C go through; any other exception becomes
    an error reply that names the client."""
    try:
        reply = app(message, context)
        if not isinstance(reply, Message):
            raise TypeError(f"the ClientApp returned {type(reply).__name__}, not a Message")
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
