"""Who takes part in a round, what they are sent, and how their answers become the next model.

`Federated` averages (FedAvg); `Local` never does. Both count every answer: a client that fails, or
whose update cannot be used, stops the run by name. Nothing depends on node ids or on the order in
which answers arrive: clients are taken in order of partition id, so a seed gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedmem.aggregation import WeightedMean, problem_with
from fedmem.config import Config
from fedmem.engine.records import (
    EXAMPLES,
    ROUND,
    Arrays,
    only_arrays,
    only_config,
    only_metrics,
    to_arrays,
    to_record,
)
from fedmem.errors import RunError
from server.nodes import meet

SAMPLING = 0x5A3B1E  # keeps this stream of random numbers apart from others of the same seed


def sample(clients: int, per_round: int, seed: int, round_: int) -> list[int]:
    """Return the partition ids of a round's participants, sorted; a function of its arguments."""
    if per_round >= clients:
        return list(range(clients))
    rng = np.random.default_rng([SAMPLING, seed, round_])
    return sorted(int(i) for i in rng.choice(clients, per_round, replace=False))


class Federated(Strategy):
    """FedAvg over a round's participants; for topology `federated` and `centralized`.

    After `aggregate_train` the clients' metrics are in `train_metrics`, by name; after
    `aggregate_evaluate` the participants' score rows are in `scores`, in order of partition id.
    """

    def __init__(self, config: Config, clients: list[str]) -> None:
        per_round = config.rounds.clients_per_round
        self.clients = clients
        self.per_round = len(clients) if per_round == "all" else per_round
        self.seed = config.seed
        self.weights = config.aggregation.weights
        self.nodes: list[int] = []  # node id by partition id, known once the nodes have been met
        self._chosen = list(range(len(clients)))  # everybody gets the untouched base of round 0
        self._shapes: dict[str, tuple[int, ...]] = {}
        self.train_metrics: dict[str, dict[str, float]] = {}
        self.scores: list[bytes] = []

    @property
    def participants(self) -> list[str]:
        """The names of the clients that take part in the current round."""
        return [self.clients[i] for i in self._chosen]

    def models(self, arrays: ArrayRecord) -> dict[str, Arrays]:
        """Return the round's models by name."""
        return {"global": to_arrays(arrays)}

    def summary(self) -> None:
        """Nothing to log: the run directory says it all."""

    # --- training ----------------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Choose the participants of the round and send each the model."""
        self._chosen = sample(len(self.clients), self.per_round, self.seed, server_round)
        self._shapes = {name: tuple(array.shape) for name, array in arrays.items()}
        return self._messages(MessageType.TRAIN, server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average the updates as they come in. Raises RunError, naming client and round."""
        mean = WeightedMean()
        for partition, update in self._updates(server_round, replies):
            examples = self.train_metrics[self.clients[partition]][EXAMPLES]
            mean.add(update, examples if self.weights == "examples" else 1.0)
        return to_record(mean.result()), self._total()

    def _updates(self, round_: int, replies: Iterable[Message]) -> Iterator[tuple[int, Arrays]]:
        """Yield (partition, update), each one checked, and note the client's metrics."""
        self.train_metrics = {}
        for partition, content in self._answers(round_, replies):
            name = self.clients[partition]
            try:
                update, metrics = to_arrays(only_arrays(content)), only_metrics(content)
            except ValueError as error:
                raise RunError(f"round {round_}, client {name}: bad reply: {error}") from None
            problem = problem_with(update, self._shapes)
            if problem is None and not 0 < metrics.get(EXAMPLES, 0) < float("inf"):
                problem = f"{EXAMPLES} is {metrics.get(EXAMPLES)}, not a positive number"
            if problem is not None:
                raise RunError(f"round {round_}, client {name}: update refused: {problem}")
            self.train_metrics[name] = metrics
            yield partition, update

    def _total(self) -> MetricRecord:
        return MetricRecord({EXAMPLES: int(sum(m[EXAMPLES] for m in self.train_metrics.values()))})

    # --- observation -------------------------------------------------------------------------

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send the new model to the round's participants (round 0: to all)."""
        return self._messages(MessageType.EVALUATE, server_round, arrays, config, grid)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Collect the participants' score rows in `scores`. Raises RunError as for training."""
        self.scores = []
        for partition, content in self._answers(server_round, replies):
            try:
                scores = only_config(content).get("scores", b"")
            except ValueError as error:
                name = self.clients[partition]
                raise RunError(f"round {server_round}, client {name}: bad reply: {error}") from None
            if isinstance(scores, bytes) and scores:
                self.scores.append(scores)
        return MetricRecord({EXAMPLES: len(self._chosen)})

    # --- messages ----------------------------------------------------------------------------

    def _model_of(self, partition: int, arrays: ArrayRecord) -> ArrayRecord:
        """Return what this client is sent."""
        return arrays

    def _messages(
        self, kind: str, round_: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return one message to each participant, in order of partition id, made when asked for."""
        if not self.nodes:
            self.nodes = meet(grid, len(self.clients))
        settings = ConfigRecord({**config, ROUND: round_})
        return (
            Message(
                RecordDict({"arrays": self._model_of(i, arrays), "config": settings}),
                self.nodes[i],
                kind,
                group_id=str(round_),
            )
            for i in self._chosen
        )

    def _answers(self, round_: int, replies: Iterable[Message]) -> Iterator[tuple[int, RecordDict]]:
        """Yield (partition, content) of every participant's answer, in order of partition id.

        An answer that comes early waits for its turn; the inline engine answers in order, so there
        nothing waits. Raises RunError for an error reply, a stranger's or a missing one.
        """
        due = list(self._chosen)
        early: dict[int, RecordDict] = {}
        for reply in replies:
            node = reply.metadata.src_node_id
            partition = self.nodes.index(node) if node in self.nodes else -1
            if partition not in due or partition in early:
                who = self.clients[partition] if partition >= 0 else f"node {node}"
                raise RunError(f"round {round_}, {who}: an answer that nobody asked for")
            if reply.has_error():
                why = reply.error.reason or f"Flower's error {reply.error.code}"
                name = self.clients[partition]
                raise RunError(f"round {round_}, client {name}: failed: {why}")
            early[partition] = reply.content
            while due and due[0] in early:
                turn = due.pop(0)
                yield turn, early.pop(turn)
        if due:
            names = ", ".join(self.clients[i] for i in due if i not in early)
            raise RunError(f"round {round_}, client {names}: no answer came; is it still running?")


class Local(Federated):
    """Topology `local`: a client trains on from its own last model, and no other model exists.

    The control that shows what sharing adds. The server only stores the models between rounds.
    """

    def __init__(self, config: Config, clients: list[str]) -> None:
        super().__init__(config, clients)
        self._own: dict[int, ArrayRecord] = {}

    def models(self, arrays: ArrayRecord) -> dict[str, Arrays]:
        """Return every client's model; `arrays` is the base of those that have not trained yet."""
        base = to_arrays(arrays)
        return {
            name: to_arrays(self._own[i]) if i in self._own else base
            for i, name in enumerate(self.clients)
        }

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Keep every participant's update as its own next model; there is no average."""
        for partition, update in self._updates(server_round, replies):
            self._own[partition] = to_record(update)
        return None, self._total()

    def _model_of(self, partition: int, arrays: ArrayRecord) -> ArrayRecord:
        return self._own.get(partition, arrays)
