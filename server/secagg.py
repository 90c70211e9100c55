"""FedAvg under secure aggregation: the server's part, stage by stage over a Grid.

What the server sees of training are public keys, sealed shares, masked vectors, one secret a client
that opens the sum and no summand, and seconds. A simulation's other messages (attacks and held-out
questions at the clients) are the testbed's instruments, and no part of that view.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedmem import workspace as workspaces
from fedmem.config.secure import clients_a_round, plan_of
from fedmem.engine.records import (
    CONFIG,
    LARGEST_WEIGHT,
    METRIC_NAMES,
    ROUND,
    only_arrays,
    only_config,
    only_metrics,
    to_arrays,
)
from fedmem.errors import ConfigError, RunError
from fedmem.model.state import Arrays
from fedmem.secagg.encoding import Encoding, length
from fedmem.secagg.metrics import totals
from fedmem.secagg.server import Server
from server.nodes import meet
from server.strategy import Federated, plain, size

KEYS, SHARES, UNMASK = (f"{MessageType.TRAIN}.{stage}" for stage in ("keys", "shares", "unmask"))
MOST_NAMES = 256  # figures that a client may tell
Exchange = Callable[[list[Message], str], Iterator[Message]]


class Secure(Federated):
    """As `Federated`, but the server learns sums alone; `secure_round` is a round's training.

    A client that fails or is silent is left out (`lost`), as long as the plan has enough without
    it. Whatever breaks the protocol, or a client's own RunError, stops the run by name.
    """

    def secure_round(
        self, round_: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid, send: Exchange
    ) -> ArrayRecord:
        """Train a round's participants from `arrays`; return the next model.

        `send` delivers messages, and counts the time under the key it is given. Raises RunError,
        naming client and round, or counts where too few clients are left.
        """
        if not self.nodes:
            self.nodes = meet(grid, len(self.clients))
        plan = plan_of(self.config, clients_a_round(self.config))
        server = Server(round_, self.clients, self._chosen, plan)

        for who, content in self._ask(server, KEYS, send, {who: {} for who in server.there}):
            server.take_keys(who, self._config(round_, who, content))
        due = {who: server.keys_for(who) for who in server.there}
        for who, content in self._ask(server, SHARES, send, due):
            server.take_shares(who, self._config(round_, who, content))

        encoding = Encoding(plan.clients, self.aggregation.secure.range, self._largest_weight())
        shapes = {name: tuple(array.shape) for name, array in arrays.items()}
        names = self._take_updates(server, encoding, shapes, arrays, config, grid, send)

        due = {who: server.survivors_for(who) for who in server.there}
        for who, content in self._ask(server, UNMASK, send, due):
            server.take_revealed(who, self._config(round_, who, content))
        total = server.sum()
        summed = self._summed = sorted(server.summed)
        self._chosen = [who for who in summed if who in server.there]
        self.lost = [vars(loss) for loss in server.losses]
        return self._open(round_, summed, total, encoding, shapes, names)

    def _take_updates(
        self,
        server: Server,
        encoding: Encoding,
        shapes: Mapping[str, tuple[int, ...]],
        arrays: ArrayRecord,
        config: ConfigRecord,
        grid: Grid,
        send: Exchange,
    ) -> list[str]:
        """Add up the masked vectors; return the names of the scalars in them."""
        self._chosen = list(server.there)
        due = {who: server.shares_for(who) for who in server.there}
        messages = []
        for message in self.configure_train(server.round, arrays, config, grid):
            who = self.nodes.index(message.metadata.dst_node_id)
            settings = only_config(message.content)
            settings.update({LARGEST_WEIGHT: encoding.weight, **due[who]})
            messages.append(message)
        names: list[str] | None = None
        for who, content in self._answered(server, "masked", send(messages, "train")):
            told = self._names(server.round, who, content)
            if names not in (None, told):
                raise self._bad(server.round, who, "tells other figures than the clients before it")
            names = told
            try:
                (vector,) = to_arrays(only_arrays(content)).values()
                seconds = only_metrics(content).get("seconds", 0.0)
            except ValueError as error:
                raise self._bad(server.round, who, str(error)) from None
            server.take_masked(who, vector, length(shapes, [*self.chain.side, *names]))
            down = sum(size(s) for s in shapes.values())
            self._count(who, vector.nbytes, down + sum(map(_bytes, due[who].values())))
            self.train_metrics[self.clients[who]]["seconds"] = seconds
        return names or []

    def _open(
        self,
        round_: int,
        summed: list[int],
        total: np.ndarray,
        encoding: Encoding,
        shapes: Mapping[str, tuple[int, ...]],
        names: list[str],
    ) -> ArrayRecord:
        """The next model from the sum of the survivors' vectors, and their figures of training."""
        side = sorted(self.chain.side)
        try:
            sums, whole, scalars = encoding.decode(total, len(summed), shapes, [*side, *names])
        except ValueError as error:
            raise RunError(f"round {round_}: secure aggregation: {error}") from None
        whole = self.denominator or whole
        mean: Arrays = {name: (a / whole).astype(np.float32) for name, a in sums.items()}
        mean |= {name: np.array(scalars.pop(name) / whole, np.float32) for name in side}
        told = self.train_metrics
        self.train_metrics = {self.clients[who]: told[self.clients[who]] for who in summed}
        if names:
            self.train_metrics["all"] = totals(scalars)
        return self.release(round_, mean, len(summed))

    def _largest_weight(self) -> float:
        """The public bound of a client's weight. Raises ConfigError where nobody knows one."""
        weights, most = self.aggregation.weights, self.aggregation.secure.max_examples
        if isinstance(weights, Mapping):
            return max(weights.values())
        if weights == "uniform":
            return 1.0
        most = most or workspaces.get(self.config_json).most_examples
        if most is None:
            raise ConfigError(
                "aggregation.secure.max_examples: give the most training examples that any client "
                "may have; the server does not know their shards"
            )
        return float(most)

    # --- messages ------------------------------------------------------------------------------

    def _ask(
        self, server: Server, kind: str, send: Exchange, due: Mapping[int, Mapping[str, Any]]
    ) -> Iterator[tuple[int, RecordDict]]:
        """Send each client its part of the protocol; yield the answers, and lose who gives none."""
        settings: dict[str, Any] = {ROUND: server.round, CONFIG: self.config_json}
        messages = [
            Message(
                RecordDict({"config": ConfigRecord({**settings, **part})}),
                self.nodes[who],
                kind,
                group_id=str(server.round),
            )
            for who, part in due.items()
        ]
        for who, content in self._answered(
            server, kind.partition(".")[2], send(messages, "aggregate")
        ):
            down = sum(map(_bytes, due[who].values()))
            up = sum(_bytes(v) for record in content.values() for v in record.values())
            self._count(who, up, down)
            yield who, content

    def _answered(
        self, server: Server, stage: str, replies: Iterable[Message]
    ) -> Iterator[tuple[int, RecordDict]]:
        """Yield (client, content) as answers come; note those without one as lost."""
        due = list(server.there)
        for reply in replies:
            node = reply.metadata.src_node_id
            who = self.nodes.index(node) if node in self.nodes else -1
            if who not in due:
                name = f"client {self.clients[who]}" if who >= 0 else f"node {node}"
                raise RunError(f"round {server.round}, {name}: an answer that nobody asked for")
            due.remove(who)
            if not reply.has_error():
                yield who, reply.content
                continue
            reason = reply.error.reason or f"Flower's error {reply.error.code}"
            # an error that names its cause would come again: the user has something to set right
            if re.match(r"<class '[\w.]*\.(ConfigError|DataError|RunError)'>:", reason):
                name = self.clients[who]
                raise RunError(f"round {server.round}, client {name}: failed: {plain(reason)}")
            server.lose(who, stage, plain(reason))
        for who in due:
            server.lose(who, stage, "no answer came")

    def _count(self, who: int, up: int, down: int) -> None:
        """Add bytes to a client's figures."""
        told = self.train_metrics.setdefault(self.clients[who], {})
        told["bytes_up"] = told.get("bytes_up", 0.0) + up
        told["bytes_down"] = told.get("bytes_down", 0.0) + down

    def _config(self, round_: int, who: int, content: RecordDict) -> ConfigRecord:
        try:
            return only_config(content)
        except ValueError as error:
            raise self._bad(round_, who, str(error)) from None

    def _names(self, round_: int, who: int, content: RecordDict) -> list[str]:
        try:
            names = json.loads(str(self._config(round_, who, content)[METRIC_NAMES]))
            fine = isinstance(names, list) and len(names) <= MOST_NAMES
            if not fine or not all(isinstance(name, str) for name in names):
                raise ValueError("names of figures that are none")
        except (KeyError, ValueError) as error:
            raise self._bad(round_, who, str(error)) from None
        return list(names)

    def _bad(self, round_: int, who: int, what: str) -> RunError:
        return RunError(f"round {round_}, client {self.clients[who]}: bad reply: {what}")


def _bytes(value: Any) -> int:
    """Bytes of a message's value: of text and numbers as they are, 8 for an integer."""
    if isinstance(value, list):
        return sum(_bytes(item) for item in value)
    return len(value) if isinstance(value, bytes | str) else 8
