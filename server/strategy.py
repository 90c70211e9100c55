"""Who takes part in a round, what they are sent, and how their answers become the next model.

`Federated` averages (FedAvg); `Local` never does. Both count every answer: a client that fails, or
whose update cannot be used, stops the run by name. Nothing depends on node ids or on the order in
which answers arrive: clients are taken in order of partition id, so a seed gives the same bytes.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from time import perf_counter
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedmem.aggregation import WeightedMean, problem_with, rule, weight_of
from fedmem.config import Config
from fedmem.defences import Chain, State
from fedmem.engine.records import (
    CONFIG,
    DEFENCES,
    EXAMPLES,
    OBSERVE,
    ROUND,
    TRAINED,
    Arrays,
    only_arrays,
    only_config,
    only_metrics,
    to_arrays,
    to_record,
)
from fedmem.errors import RunError
from fedmem.model.merge import Product
from fedmem.rounds import Start, attack_due
from server.nodes import meet

# what each client says of its own canaries and questions, where the server holds no data
REPORT = f"{MessageType.EVALUATE}.report"
SAMPLING = 0x5A3B1E  # keeps this stream of random numbers apart from others of the same seed


def sample(
    clients: int,
    per_round: int,
    seed: int,
    round_: int,
    poisson: bool = False,
    secret: bool = False,
) -> list[int]:
    """Return the partition ids of a round's participants, sorted; a function of its arguments.

    Poisson: `per_round` is how many take part on average; it can be nobody. Secret: by the
    system's entropy, for clients know the seed, and amplification needs who takes part unknown.
    """
    if per_round >= clients:
        return list(range(clients))
    rng = np.random.default_rng([SAMPLING, seed, round_])
    if poisson:  # each by a coin of its own, so that client-level DP may count on it
        rng = np.random.default_rng() if secret else rng
        return [int(i) for i in np.flatnonzero(rng.random(clients) < per_round / clients)]
    return sorted(int(i) for i in rng.choice(clients, per_round, replace=False))


def size(shape: Sequence[int]) -> int:
    """Bytes of a float32 array of this shape."""
    return 4 * math.prod(shape)


def plain(reason: str | None) -> str:
    """What went wrong at a client, on one line, without the wrapping that Flower's nodes add."""
    wrapped = re.fullmatch(r"<class '[\w.]*?(\w+)'>:<'(.*)'>", reason or "", re.DOTALL)
    if wrapped is None:
        return " ".join((reason or "").split())[:500]
    kind, text = wrapped[1], " ".join(wrapped[2].split())[:500]
    return text if kind in ("ConfigError", "DataError", "RunError") else f"{kind}: {text}"


class Federated(Strategy):
    """FedAvg over a round's participants; for topology `federated` and `centralized`.

    After `aggregate_train` the clients' metrics are in `train_metrics`, by name; after
    `aggregate_evaluate` the participants' score rows are in `scores`, in order of partition id;
    after `aggregate_report` what all clients told is in `told`. `base` gives the weight below a
    dense delta, for defences that need it; their figures are in `server_figures`.
    """

    def __init__(
        self,
        config: Config,
        clients: list[str],
        products: Sequence[Product] = (),
        base: Callable[[str], np.ndarray] = lambda name: np.zeros(()),
    ) -> None:
        per_round = config.rounds.clients_per_round
        self.clients = clients
        self.products = products  # what a round's LoRA adapts, where the products are averaged
        self.per_round = len(clients) if per_round == "all" else per_round
        self.seed = config.seed
        self.aggregation = config.aggregation
        self.config, self.config_json = config, config.model_dump_json()
        self.chain, self.base = Chain(config), base
        self.kept: State = {}  # by the defences, from round to round
        self.server_figures: dict[str, float] = {}
        # client-level DP divides by a number that does not depend on who took part
        self.denominator = float(self.per_round) if config.client_dp else None
        self.nodes: list[int] = []  # node id by partition id, known once the nodes have been met
        self._chosen = list(range(len(clients)))
        self._summed: list[int] | None = None  # whose updates are in the model, if not all chosen
        self.lost: list[dict[str, str]] = []  # clients a round went on without
        self._sent = ArrayRecord()
        self._shapes: dict[str, tuple[int, ...]] = {}
        self.train_metrics: dict[str, dict[str, float]] = {}
        self.trained: dict[str, list[int]] = {}  # rounds whose models hold a client's updates
        self.scores: list[bytes] = []
        self.told: list[dict[str, bytes]] = []
        # the curious server: (client, round, model sent, what arrived) -> rows of server.parquet
        self.watch: Callable[[str, int, Arrays, Arrays], list[dict[str, Any]]] | None = None
        self.watched: list[dict[str, Any]] = []
        self.watching = 0.0  # seconds of it

    def begin(self, initial: Arrays, start: Start | None) -> ArrayRecord:
        """Return the model to begin with: the initial one, or that of a run taken up again."""
        self.kept = start.defences if start else {}
        self.trained = start.trained if start else {}
        return to_record(start.models["global"] if start else initial)

    def begin_round(self, round_: int) -> None:
        """Choose the participants of the round (0: everybody gets the untouched base)."""
        per_round = self.per_round if round_ else len(self.clients)
        poisson = self.config.rounds.client_sampling == "poisson"
        secret = self.config.engine.kind == "deployment"
        self._chosen = sample(len(self.clients), per_round, self.seed, round_, poisson, secret)
        for name in self.train_metrics:
            self.trained.setdefault(name, []).append(round_ - 1)
        self.train_metrics, self.scores, self.told, self.watched = {}, [], [], []
        self.watching = 0.0
        self.server_figures = {}
        self._summed, self.lost = None, []

    @property
    def participants(self) -> list[str]:
        """The names of the clients that take part in the current round."""
        return [self.clients[i] for i in (self._chosen if self._summed is None else self._summed)]

    def models(self, arrays: ArrayRecord) -> dict[str, Arrays]:
        """Return the round's models by name."""
        return {"global": to_arrays(arrays)}

    def summary(self) -> None:
        """Nothing to log: the run directory says it all."""

    # --- training ----------------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send each participant of the round the model."""
        self._sent = arrays
        self._shapes = {name: tuple(array.shape) for name, array in arrays.items()}
        if self.products:
            self._shapes = {n: shape for p in self.products for n, shape in p.shapes.items()}
        self._shapes |= {name: () for name in self.chain.side}
        return self._messages(MessageType.TRAIN, server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average the updates as they come in. Raises RunError, naming client and round."""
        joined = rule(self.aggregation, self.products, self.denominator)
        beside = WeightedMean(self.denominator)
        for partition, update in self._updates(server_round, replies):
            name = self.clients[partition]
            weight = weight_of(self.aggregation, name, self.train_metrics[name][EXAMPLES])
            if self.chain.side:
                beside.add({side: update.pop(side) for side in self.chain.side}, weight)
            joined.add(update, weight)
            if self.watch and attack_due(self.config, server_round):
                began, seen = perf_counter(), to_arrays(self._sent)
                self.watched += self.watch(name, server_round, seen, update)
                self.watching += perf_counter() - began
        if not self._chosen and self.denominator is None:  # Poisson drew nobody
            return None, self._total()
        sends_updates = self.config.sends_updates
        before = to_arrays(self._sent) if self.products or sends_updates else {}
        after = joined.result(before)
        if not sends_updates:
            return to_record(after), self._total()
        # where products are averaged the sum over the base is made already
        mean = {n: a - before[n] for n, a in after.items()} if self.products else after
        side = beside.result() if self.chain.side else {}
        return self.release(server_round, mean | side, len(self._chosen)), self._total()

    def release(self, round_: int, joined: Arrays, clients: int) -> ArrayRecord:
        """Return the next model: the one sent plus the joined update of `clients` clients, after
        every defence's server hook."""
        before = to_arrays(self._sent)
        mean, self.kept, self.server_figures = self.chain.at_server(
            round_, clients, before, joined, self.kept, self.base
        )
        return to_record({name: before[name] + mean[name] for name in before})

    def _updates(self, round_: int, replies: Iterable[Message]) -> Iterator[tuple[int, Arrays]]:
        """Yield (partition, update), each one checked, and note the client's metrics."""
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
            sent = self._model_of(partition, self._sent)
            metrics["bytes_down"] = float(sum(size(array.shape) for array in sent.values()))
            metrics["bytes_up"] = float(sum(array.nbytes for array in update.values()))
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
        for partition, content in self._answers(server_round, replies):
            try:
                scores = only_config(content).get("scores", b"")
            except ValueError as error:
                name = self.clients[partition]
                raise RunError(f"round {server_round}, client {name}: bad reply: {error}") from None
            if isinstance(scores, bytes) and scores:
                self.scores.append(scores)
        return MetricRecord({EXAMPLES: len(self._chosen)})

    def configure_report(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask every client, participant or not, for the state of its own canaries and questions."""
        return self._messages(REPORT, server_round, arrays, config, grid)

    def aggregate_report(self, server_round: int, replies: Iterable[Message]) -> None:
        """Collect what the clients told in `told`. Raises RunError as for training."""
        everybody = list(range(len(self.clients)))
        for partition, content in self._answers(server_round, replies, everybody):
            try:
                record = only_config(content)
            except ValueError as error:
                name = self.clients[partition]
                raise RunError(f"round {server_round}, client {name}: bad reply: {error}") from None
            told = {key: value for key, value in record.items() if isinstance(value, bytes)}
            if observed := told.pop("observed", b""):
                self.scores.append(observed)
            self.told.append(told)

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
        settings = {**config, ROUND: round_, CONFIG: self.config_json}
        if self.kept and kind == MessageType.TRAIN:
            settings[DEFENCES] = json.dumps(self.kept)
        due = attack_due(self.config, round_)
        private = self.config.training.dp is not None and kind == MessageType.TRAIN

        def own(who: int) -> ConfigRecord:
            trained = {TRAINED: self.trained.get(self.clients[who], [])} if private else {}
            return ConfigRecord({**settings, OBSERVE: due and who in self._chosen, **trained})

        everybody = range(len(self.clients))
        return (
            Message(
                RecordDict({"arrays": self._model_of(i, arrays), "config": own(i)}),
                self.nodes[i],
                kind,
                group_id=str(round_),
            )
            for i in (everybody if kind == REPORT else self._chosen)
        )

    def _answers(
        self, round_: int, replies: Iterable[Message], asked: list[int] | None = None
    ) -> Iterator[tuple[int, RecordDict]]:
        """Yield (partition, content) of every participant's answer, in order of partition id.

        An answer that comes early waits for its turn; the inline engine answers in order, so there
        nothing waits. Raises RunError for an error reply, a stranger's or a missing one.
        """
        due = list(self._chosen if asked is None else asked)
        early: dict[int, RecordDict] = {}
        for reply in replies:
            node = reply.metadata.src_node_id
            partition = self.nodes.index(node) if node in self.nodes else -1
            if partition not in due or partition in early:
                who = self.clients[partition] if partition >= 0 else f"node {node}"
                raise RunError(f"round {round_}, {who}: an answer that nobody asked for")
            if reply.has_error():
                why = plain(reply.error.reason) or f"Flower's error {reply.error.code}"
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

    def __init__(
        self,
        config: Config,
        clients: list[str],
        products: Sequence[Product] = (),
        base: Callable[[str], np.ndarray] = lambda name: np.zeros(()),
    ) -> None:
        super().__init__(config, clients, products, base)
        self._own: dict[int, ArrayRecord] = {}

    def begin(self, initial: Arrays, start: Start | None) -> ArrayRecord:
        """Return the base that clients begin with; a run taken up again brings their models."""
        self.trained = start.trained if start else {}
        if start:
            self._own = {i: to_record(start.models[name]) for i, name in enumerate(self.clients)}
        return to_record(initial)

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
