"""The inline engine: delivery, errors, laziness, mods, and the private parts of Flower it needs."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import weakref
from collections.abc import Callable

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, MessageType, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import fixedclipping_mod, message_size_mod
from flwr.clientapp.typing import Mod
from toys import NAMES, LeastSquares, Rounds, kept, toy_config

import clients.app
from fedmem.engine import FLOWER_ENVIRONMENT
from fedmem.engine._flower import FLOWER_VERSION, ErrorCode
from fedmem.engine.inline import InlineGrid, run_inline
from fedmem.engine.records import only_arrays, only_metrics, to_arrays, to_record
from fedmem.errors import RunError
from server.rounds import run_rounds
from server.strategy import Federated

Handler = Callable[[Message, Context], Message]


def grid_of(handler: Handler, clients: int = 3) -> InlineGrid:
    app = ClientApp()
    app.train()(handler)
    return InlineGrid(app, [f"c{i}" for i in range(clients)], {"config": "{}"})


def messages(grid: InlineGrid, content: RecordDict | None = None) -> list[Message]:
    content = RecordDict() if content is None else content
    return [Message(content, node, MessageType.TRAIN) for node in grid.get_node_ids()]


def echo(message: Message, context: Context) -> Message:
    return Message(message.content, reply_to=message)


def test_the_pinned_flower_is_installed_and_kept_quiet() -> None:
    assert importlib.metadata.version("flwr") == FLOWER_VERSION
    assert set(FLOWER_ENVIRONMENT) <= set(os.environ)
    if os.environ["FLWR_LOG_LEVEL"] == "WARNING":
        assert not logging.getLogger("flwr").isEnabledFor(logging.INFO)


def test_each_node_has_a_partition_and_a_state_that_lasts() -> None:
    def count(message: Message, context: Context) -> Message:
        seen = only_metrics(context.state)["n"] + 1 if context.state else 1
        context.state["seen"] = MetricRecord({"n": seen})
        partition = int(context.node_config["partition-id"])
        assert context.node_config["num-partitions"] == 3
        answer = MetricRecord({"partition": partition, "n": seen})
        return Message(RecordDict({"m": answer}), reply_to=message)

    grid = grid_of(count)
    for expected in (1, 2):
        replies = list(grid.send_and_receive(messages(grid)))
        told = [reply.content.metric_records["m"] for reply in replies]
        assert [(t["partition"], t["n"]) for t in told] == [(i, expected) for i in range(3)]


def test_a_message_is_delivered_when_its_reply_is_asked_for() -> None:
    ran: list[int] = []

    def note(message: Message, context: Context) -> Message:
        ran.append(int(context.node_config["partition-id"]))
        return echo(message, context)

    grid = grid_of(note)
    replies = iter(grid.send_and_receive(messages(grid)))
    assert ran == []
    next(replies)
    assert ran == [0]
    ids = grid.push_messages(messages(grid))
    assert ran == [0]
    (reply,) = grid.pull_messages(ids[2:])
    assert ran == [0, 2] and reply.metadata.reply_to_message_id == ids[2]
    assert list(grid.pull_messages(ids[2:])) == []  # a reply can be pulled once


def test_messages_are_copied_on_delivery_and_back() -> None:
    returned: list[Message] = []

    def spoil(message: Message, context: Context) -> Message:
        record = message.content.metric_records["m"]
        assert record["n"] == 1  # untouched by the clients before
        record["n"] = 99
        returned.append(Message(message.content, reply_to=message))
        return returned[-1]

    grid = grid_of(spoil)
    sent = RecordDict({"m": MetricRecord({"n": 1})})
    first, *_ = list(grid.send_and_receive(messages(grid, sent)))
    assert sent.metric_records["m"]["n"] == 1
    returned[0].content.metric_records["m"]["n"] = 7
    assert first.content.metric_records["m"]["n"] == 99


def test_an_exception_becomes_an_error_reply_that_names_the_client() -> None:
    def fail(message: Message, context: Context) -> Message:
        raise ValueError("no room\nsecond line")

    grid = grid_of(fail)
    replies = list(grid.send_and_receive(messages(grid)))
    assert [r.error.reason for r in replies] == [
        f"client c{i} raised ValueError: no room" for i in range(3)
    ]
    assert replies[0].error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION


def test_a_handler_that_returns_nothing_is_an_error_reply() -> None:
    grid = grid_of(lambda message, context: None)  # type: ignore[arg-type,return-value]
    (reply, *_) = grid.send_and_receive(messages(grid))
    assert "returned NoneType" in str(reply.error.reason)


@pytest.mark.parametrize(
    "error", [RunError("client c0, round 1: loss is NaN"), KeyboardInterrupt()]
)
def test_fedmem_errors_and_ctrl_c_go_through(error: BaseException) -> None:
    def fail(message: Message, context: Context) -> Message:
        raise error

    grid = grid_of(fail)
    with pytest.raises(type(error)) as caught:
        list(grid.send_and_receive(messages(grid)))
    assert caught.value is error


def test_an_unknown_node_is_refused() -> None:
    grid = grid_of(echo)
    with pytest.raises(ValueError, match="no node has the id 77"):
        grid.push_messages([grid.create_message(RecordDict(), MessageType.TRAIN, 77, "1")])


def test_a_run_reports_every_round_and_returns_the_last_model() -> None:
    toy, rounds = kept(toy_config()), Rounds()
    last = run_inline(toy.config, rounds)
    assert len(rounds.models) == 3
    np.testing.assert_array_equal(rounds.models[0]["global"][NAMES[0]], np.zeros((2, 2)))
    assert last["global"] is rounds.models[2]["global"]
    assert list(last["global"]) == NAMES and last["global"][NAMES[1]].shape == (1,)
    assert rounds.metrics[0] == {} and list(rounds.metrics[1]) == ["c0", "c1", "c2"]
    losses = [sum(row["loss"] for row in rows) for rows in rounds.scores]  # type: ignore[misc]
    assert losses[0] > losses[1] > losses[2]
    assert set(rounds.seconds[1]) == {"train", "aggregate", "attack"}


def app_with(mods: list[Mod]) -> ClientApp:
    """The project's own handlers, training under mods."""
    app = ClientApp()
    app.query()(clients.app.introduce)
    app.train(mods=mods)(clients.app.train)
    app.evaluate()(clients.app.evaluate)
    return app


class CountingGrid(InlineGrid):
    """Counts, at each delivery, how many of the replies made so far are still in memory.

    Without a garbage collection: an update must be freed by its last reference.
    """

    def __init__(self, toy: LeastSquares) -> None:
        super().__init__(clients.app.app, toy.clients)
        self.alive: list[weakref.ref[RecordDict]] = []
        self.most = 0

    def _deliver(self, message: Message) -> Message:
        self.most = max(self.most, sum(ref() is not None for ref in self.alive))
        reply = super()._deliver(message)
        if message.metadata.message_type == MessageType.TRAIN:
            self.alive.append(weakref.ref(reply.content))
        return reply


def test_memory_does_not_grow_with_the_number_of_clients() -> None:
    toy = kept(toy_config(12))
    grid = CountingGrid(toy)
    run_rounds(grid, toy.config, Rounds())
    assert len(grid.alive) == 24
    assert grid.most == 1  # the one being added while the next client trains


def test_flowers_own_mods_run_and_change_what_they_should(
    caplog: pytest.LogCaptureFixture,
) -> None:
    toy, plain, counted = kept(toy_config()), Rounds(), Rounds()
    run_inline(toy.config, plain)
    with caplog.at_level(logging.INFO, logger="flwr"):
        run_inline(toy.config, counted, client_app=app_with([message_size_mod]))
    assert any("Outgoing message size" in record.message for record in caplog.records)
    for a, b in zip(plain.models, counted.models, strict=True):
        assert all(a["global"][name].tobytes() == b["global"][name].tobytes() for name in NAMES)


def test_fixed_clipping_keeps_every_update_within_the_norm() -> None:
    toy = kept(toy_config())
    grid = InlineGrid(app_with([fixedclipping_mod]), toy.clients)
    strategy = Federated(toy.config, toy.clients)
    sent = to_record(toy.initial_arrays())
    norm = ConfigRecord({"clipping_norm": 0.01})
    replies = list(grid.send_and_receive(strategy.configure_train(1, sent, norm, grid)))
    for reply in replies:
        update = to_arrays(only_arrays(reply.content))
        size = np.sqrt(sum(float((a.astype(np.float64) ** 2).sum()) for a in update.values()))
        assert size == pytest.approx(0.01, rel=1e-5)
    mean, _ = strategy.aggregate_train(1, replies)
    assert mean is not None and list(mean) == NAMES
