"""The ClientApp: what travels in each reply, and that the curious half changes nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from toys import NAMES, Arrays, LeastSquares, kept, toy_config

from clients.app import app
from fedmem.engine.inline import InlineGrid
from fedmem.engine.records import (
    CONFIG,
    ROUND,
    metrics_record,
    only_arrays,
    only_config,
    only_metrics,
    to_arrays,
    to_record,
)
from fedmem.errors import RunError


def ask(toy: LeastSquares, kind: str, arrays: Arrays, round_: int = 1, client: int = 1) -> Message:
    """Send one message to one client and return its reply."""
    grid = InlineGrid(app, toy.clients)
    settings = ConfigRecord({ROUND: round_, CONFIG: toy.config.model_dump_json()})
    content = RecordDict({"arrays": to_record(arrays), "config": settings})
    (reply,) = grid.send_and_receive([Message(content, grid.get_node_ids()[client], kind)])
    return reply


def test_a_train_reply_holds_one_array_record_and_one_metric_record() -> None:
    toy = kept(toy_config())
    content = ask(toy, MessageType.TRAIN, toy.initial_arrays()).content
    assert len(content) == 2
    arrays, metrics = toy.train("c1", 1, toy.initial_arrays())
    got = to_arrays(only_arrays(content))
    assert list(got) == NAMES
    assert all(got[name].tobytes() == arrays[name].tobytes() for name in NAMES)
    assert only_metrics(content) == metrics
    assert metrics["num-examples"] == 6


def test_an_evaluate_reply_holds_the_score_bytes() -> None:
    toy = kept(toy_config())
    content = ask(toy, MessageType.EVALUATE, toy.initial_arrays(), round_=4, client=2).content
    scores = only_config(content)["scores"]
    assert isinstance(scores, bytes)
    assert json.loads(scores)["client"] == "c2" and json.loads(scores)["round"] == 4
    assert only_metrics(content) == {"num-examples": 1}
    assert not content.array_records  # nothing but scores leaves the curious half


def test_an_observer_without_rows_sends_no_empty_value() -> None:
    toy = kept(toy_config())
    toy.observe = lambda client, round_, arrays: b""  # type: ignore[method-assign]
    content = ask(toy, MessageType.EVALUATE, toy.initial_arrays()).content
    assert "scores" not in only_config(content)
    assert only_config(content).count_bytes() == 0  # Flower's count raises on an empty value


def test_each_node_says_which_partition_it_holds() -> None:
    toy = kept(toy_config())
    grid = InlineGrid(app, toy.clients)
    questions = [Message(RecordDict(), node, MessageType.QUERY) for node in grid.get_node_ids()]
    told = [only_metrics(r.content)["partition-id"] for r in grid.send_and_receive(questions)]
    assert told == [0, 1, 2]


def test_a_nan_loss_goes_through_as_it_is() -> None:
    def diverge(client: str, round_: int, arrays: Arrays) -> None:
        raise RunError(f"client {client}, round {round_}: loss is NaN")

    toy = kept(toy_config())
    toy.before = diverge
    with pytest.raises(RunError, match=r"^client c1, round 3: loss is NaN$"):
        ask(toy, MessageType.TRAIN, toy.initial_arrays(), round_=3)


def test_records_keep_names_order_and_shapes() -> None:
    fortran = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    arrays: Arrays = {"z.weight": fortran, "a": np.zeros((), np.float16), "é/0": np.ones((0, 3))}
    back = to_arrays(to_record(arrays))
    assert list(back) == list(arrays)
    for name, array in back.items():
        np.testing.assert_array_equal(array, arrays[name])
        assert array.dtype == np.float32 and array.flags.c_contiguous and array.flags.writeable


def test_metrics_become_pythons_own_numbers() -> None:
    record = metrics_record({"loss": np.float64(0.5), "num-examples": 3.0})
    assert record == {"num-examples": 3, "loss": 0.5}
    assert [type(value) for value in record.values()] == [int, float]


@pytest.mark.parametrize("read", [only_arrays, only_metrics, only_config])
def test_a_message_holds_one_record_of_a_kind(read: object) -> None:
    with pytest.raises(ValueError, match=r"expected one .*Record, found 0"):
        read(RecordDict())  # type: ignore[operator]
