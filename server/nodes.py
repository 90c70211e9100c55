"""Finding the clients: which node holds which partition. Waits until all of them are there.

Ray and deployment hand out random node ids, and start the ServerApp before all nodes have
registered; without the wait a first round trains some of the clients and nobody is told.
"""

from __future__ import annotations

import time

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedmem.engine.records import only_metrics
from fedmem.errors import RunError


def meet(grid: Grid, clients: int, seconds: float = 300.0, pause: float = 0.2) -> list[int]:
    """Return the node id of every partition 0 .. clients-1, once `clients` nodes are connected.

    Raises RunError after `seconds`, or if the nodes do not hold each partition exactly once.
    """
    deadline = time.monotonic() + seconds
    while len(nodes := list(grid.get_node_ids())) < clients:
        if time.monotonic() > deadline:
            raise RunError(
                f"round 0: {len(nodes)} of {clients} clients connected within {seconds:.0f} s; "
                "start the others, or take them out of data.clients"
            )
        time.sleep(pause)

    questions = [Message(RecordDict(), node, MessageType.QUERY, group_id="0") for node in nodes]
    node_of: dict[int, int] = {}
    for reply in grid.send_and_receive(questions):
        node = reply.metadata.src_node_id
        if reply.has_error():
            raise RunError(f"round 0, node {node}: did not start: {reply.error.reason}")
        partition = int(only_metrics(reply.content)["partition-id"])
        if partition in node_of:
            raise RunError(f"round 0: two nodes hold partition-id {partition}; number them afresh")
        node_of[partition] = node
    if sorted(node_of) != list(range(clients)):
        raise RunError(
            f"round 0: partition ids {sorted(node_of)} for {clients} clients; "
            f"there must be each of 0 to {clients - 1} once"
        )
    return [node_of[partition] for partition in range(clients)]
