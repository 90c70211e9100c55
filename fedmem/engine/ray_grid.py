"""Messages to clients that live in actors. Only adapters travel: a model is put into the object
store once, however many clients are sent it, and fetched once by each node."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import ray
from flwr.app import ArrayRecord, Message, RecordDict

from fedmem.engine.grid import SimulationGrid
from fedmem.engine.ray_pool import Job, Pool


class RayGrid(SimulationGrid):
    """Delivers messages to a pool of actors; replies come in any order.

    As many messages are under way as there are actors. A node's Context is kept here and travels
    with its message, so that any actor may play any client: send a node one message at a time.
    `losses`: the actors that were lost, with round, node, client and reason.
    """

    def __init__(self, pool: Pool, clients: list[str]) -> None:
        super().__init__(clients)
        self._pool = pool
        self._stored: tuple[ArrayRecord, Any] | None = None

    @property
    def losses(self) -> list[dict[str, Any]]:
        """One row for each actor lost so far."""
        return self._pool.losses

    def _answers(self, messages: Iterator[Message]) -> Iterator[Message]:
        for job, (reply, state) in self._pool.work(self._job(message) for message in messages):
            self._contexts[job.arguments[2].node_id].state = state
            yield reply

    def _job(self, message: Message) -> Job:
        """The message without its arrays, and references to these."""
        metadata = message.metadata
        name = self._names[metadata.dst_node_id]
        content = message.content
        light = copy.copy(message)
        light.content = RecordDict(
            {key: record for key, record in content.items() if not isinstance(record, ArrayRecord)}
        )
        arrays = [self._put(r) for r in content.values() if isinstance(r, ArrayRecord)]
        context = self._contexts[metadata.dst_node_id]
        round_ = int(metadata.group_id) if metadata.group_id.isdecimal() else 0
        return Job(
            round_,
            name,
            metadata.message_type,
            (name, light, context, list(content), *arrays),
        )

    def _put(self, record: ArrayRecord) -> Any:
        if self._stored is None or self._stored[0] is not record:
            self._stored = (record, ray.put(record))
        return self._stored[1]
