"""Sampling, averaging, topologies, and the errors that stop a run by client and round."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from toys import NAMES, Arrays, LeastSquares, Rounds, kept, toy_config

import clients.app
from fedmem.engine.inline import InlineGrid, run_inline
from fedmem.engine.records import to_arrays, to_record
from fedmem.errors import RunError
from server.nodes import meet
from server.rounds import run_rounds
from server.strategy import Federated, plain, sample


def grid_for(toy: LeastSquares) -> InlineGrid:
    return InlineGrid(clients.app.app, toy.clients)


def train_round(toy: LeastSquares, round_: int = 1) -> tuple[Federated, list[Message]]:
    """Return a strategy that waits for replies, and the replies of all participants."""
    grid, strategy = grid_for(toy), Federated(toy.config, toy.clients)
    strategy.begin_round(round_)
    sent = to_record(toy.initial_arrays())
    messages = strategy.configure_train(round_, sent, ConfigRecord(), grid)
    return strategy, list(grid.send_and_receive(messages))


def as_bytes(arrays: Arrays) -> list[bytes]:
    return [arrays[name].tobytes() for name in NAMES]


# --- sampling --------------------------------------------------------------------------------


def test_a_sample_is_sorted_and_depends_on_seed_and_round_only() -> None:
    picks = [sample(10, 4, seed=1, round_=r) for r in range(1, 30)]
    assert picks == [sample(10, 4, seed=1, round_=r) for r in range(1, 30)]
    assert all(pick == sorted(set(pick)) and len(pick) == 4 for pick in picks)
    assert len({tuple(pick) for pick in picks}) > 10
    assert picks != [sample(10, 4, seed=2, round_=r) for r in range(1, 30)]
    assert {i for pick in picks for i in pick} == set(range(10))
    assert sample(3, 3, 0, 1) == [0, 1, 2] and sample(1, 5, 0, 1) == [0]


def test_only_the_sample_trains_and_sees_the_new_model() -> None:
    rounds = {"count": 3, "clients_per_round": 2}
    toy, log = kept(toy_config(5, rounds=rounds, seed=3)), Rounds()
    run_inline(toy.config, log)
    assert log.participants[0] == ["c0", "c1", "c2", "c3", "c4"]
    for r in (1, 2, 3):
        names = [f"c{i}" for i in sample(5, 2, 3, r)]
        assert log.participants[r] == names == list(log.metrics[r])
        assert [(row["client"], row["round"]) for row in log.scores[r]] == [(n, r) for n in names]


# --- averaging -------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["examples", "uniform"])
def test_fedavg_is_numpys_weighted_mean(weights: str) -> None:
    toy, log = kept(toy_config(aggregation={"weights": weights}, rounds={"count": 1})), Rounds()
    run_inline(toy.config, log)
    updates = [toy.train(name, 1, toy.initial_arrays()) for name in toy.clients]
    sizes = [m["num-examples"] if weights == "examples" else 1 for _, m in updates]
    for name in NAMES:
        stack = [arrays[name].astype(np.float64) for arrays, _ in updates]
        expected = np.average(stack, axis=0, weights=sizes).astype(np.float32)
        np.testing.assert_array_equal(log.models[1]["global"][name], expected)


def test_the_order_of_the_replies_changes_no_bit() -> None:
    toy = kept(toy_config(6))
    strategy, replies = train_round(toy)
    mean, metrics = strategy.aggregate_train(1, replies)
    assert mean is not None and metrics == {"num-examples": sum(range(5, 11))}
    for seed in range(5):
        shuffled = random.Random(seed).sample(replies, len(replies))
        again, _ = strategy.aggregate_train(1, shuffled)
        assert again is not None and list(again) == NAMES
        assert as_bytes(to_arrays(again)) == as_bytes(to_arrays(mean))
        assert list(strategy.train_metrics) == toy.clients


def test_a_seed_gives_the_same_bytes() -> None:
    config = toy_config(5, rounds={"count": 3, "clients_per_round": 3}, seed=9)
    first, second = (run_inline(kept(config).config, Rounds())["global"] for _ in range(2))
    assert as_bytes(first) == as_bytes(second)


# --- rounds and topologies -------------------------------------------------------------------


def test_attacks_follow_every_and_always_the_last_round() -> None:
    toy, log = kept(toy_config(2, rounds={"count": 5}, attack={"every": 2})), Rounds()
    run_inline(toy.config, log)
    assert [len(rows) for rows in log.scores] == [2, 0, 2, 0, 2, 2]
    assert log.seconds[1]["attack"] == 0.0 < log.seconds[2]["attack"]


def test_local_clients_keep_their_own_arrays() -> None:
    rounds = {"count": 3, "topology": "local", "clients_per_round": 2}
    toy, log = kept(toy_config(3, rounds=rounds)), Rounds()
    last = run_inline(toy.config, log)
    own = {name: toy.initial_arrays() for name in toy.clients}
    assert len({id(arrays) for arrays in log.models[0].values()}) == 1  # one base, three names
    for r in (1, 2, 3):
        for i in sample(3, 2, 0, r):
            own[toy.clients[i]] = toy.train(toy.clients[i], r, own[toy.clients[i]])[0]
        assert list(log.models[r]) == toy.clients
        for name in toy.clients:
            assert as_bytes(log.models[r][name]) == as_bytes(own[name])
    assert as_bytes(last["c0"]) != as_bytes(last["c1"])
    row = log.scores[3][0]  # each observes its own model
    x, y = toy.shard(str(row["client"]))
    mine = own[str(row["client"])]
    error = x @ mine[NAMES[0]].reshape(4) + mine[NAMES[1]] - y
    assert row["loss"] == pytest.approx((error**2).mean())


def test_centralized_is_one_client_with_everything() -> None:
    rounds = {"count": 2, "topology": "centralized", "clients_per_round": 2}
    toy, log = kept(toy_config(3, rounds=rounds)), Rounds()
    last = run_inline(toy.config, log)
    arrays = toy.initial_arrays()
    for r in (1, 2):
        arrays, _ = toy.train("all", r, arrays)
    assert log.participants == [["all"]] * 3 and as_bytes(last["global"]) == as_bytes(arrays)


# --- errors ----------------------------------------------------------------------------------


class Losing(InlineGrid):
    """Drops c1's answers once it has introduced itself, as a broken connection would."""

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        lost = self.get_node_ids()[1]
        for reply in super().send_and_receive(messages, timeout=timeout):
            if reply.metadata.src_node_id != lost or reply.metadata.message_type == "query":
                yield reply


def test_a_lost_client_stops_the_run_by_name() -> None:
    toy = kept(toy_config(rounds={"count": 2}, attack={"every": 2}))
    grid = Losing(clients.app.app, toy.clients)
    with pytest.raises(RunError, match="round 0, client c1: no answer came"):
        run_rounds(grid, toy.config, Rounds())
    strategy, replies = train_round(toy)
    with pytest.raises(RunError, match="round 1, client c1: no answer came"):
        strategy.aggregate_train(1, [replies[0], replies[2]])


def test_a_failing_client_stops_the_run_by_name_and_round() -> None:
    def fail(client: str, round_: int, arrays: Arrays) -> None:
        if (client, round_) == ("c1", 2):
            raise MemoryError("out of room")

    toy, log = kept(toy_config()), Rounds()
    toy.before = fail
    with pytest.raises(RunError, match=r"round 2, client c1: failed: .*MemoryError: out of room"):
        run_inline(toy.config, log)
    assert len(log.models) == 2  # rounds 0 and 1 were reported before


def test_an_update_with_nan_stops_the_run_by_name_and_round() -> None:
    toy = kept(toy_config())
    toy.poison["c2"] = float("nan")
    with pytest.raises(RunError, match="round 1, client c2: update refused: array b holds NaN"):
        run_inline(toy.config, Rounds())


def test_an_error_of_our_own_in_a_client_goes_through_unchanged() -> None:
    error = RunError("client c1, round 1: loss is NaN; lower training.lr")

    def fail(client: str, round_: int, arrays: Arrays) -> None:
        if client == "c1":
            raise error

    toy = kept(toy_config())
    toy.before = fail
    with pytest.raises(RunError) as caught:
        run_inline(toy.config, Rounds())
    assert caught.value is error


def replaced(reply: Message, records: RecordDict) -> Message:
    reply.content = records
    return reply


def test_replies_that_cannot_be_used_are_refused() -> None:
    toy = kept(toy_config())
    fine = RecordDict({"m": MetricRecord({"num-examples": 1})})
    arrays = to_record(toy.initial_arrays())
    small = to_record({NAMES[0]: np.zeros((1, 2)), NAMES[1]: np.zeros(1)})
    none = MetricRecord({"num-examples": 0})
    for records, said in [
        (fine, "client c0: bad reply: expected one ArrayRecord, found 0"),
        (RecordDict({"a": arrays}), "client c0: bad reply: expected one MetricRecord, found 0"),
        (RecordDict({"a": small, **fine}), r"client c0: .* has the shape \(1, 2\)"),
        (RecordDict({"a": ArrayRecord(), **fine}), "client c0: .* other arrays than the model's"),
        (RecordDict({"a": arrays, "m": none}), "client c0: .* num-examples is 0"),
    ]:
        strategy, replies = train_round(toy)
        with pytest.raises(RunError, match=said):
            strategy.aggregate_train(1, [replaced(replies[0], records), *replies[1:]])


def test_every_reply_counts_once_and_no_stranger_does() -> None:
    toy = kept(toy_config(3, rounds={"count": 1, "clients_per_round": 2}))
    strategy, replies = train_round(toy)
    with pytest.raises(RunError, match="an answer that nobody asked for"):
        strategy.aggregate_train(1, [replies[0], replies[0], replies[1]])
    strategy.nodes = [node + 50 for node in strategy.nodes]
    with pytest.raises(RunError, match=r"node \d+: an answer that nobody asked for"):
        strategy.aggregate_train(1, replies)


# --- meeting the nodes -----------------------------------------------------------------------


class Slow(InlineGrid):
    """Registers its nodes one by one and in reverse, as Ray may."""

    asked = 0

    def get_node_ids(self) -> list[int]:
        self.asked += 1
        return super().get_node_ids()[::-1][: self.asked]


def test_the_server_waits_for_all_nodes_and_orders_them_by_partition() -> None:
    toy = kept(toy_config())
    grid = Slow(clients.app.app, toy.clients)
    assert meet(grid, 3, pause=0.0) == grid_for(toy).get_node_ids()
    assert grid.asked == 3
    with pytest.raises(RunError, match="3 of 4 clients connected within 0 s"):
        meet(grid_for(toy), 4, seconds=0.0, pause=0.0)


def test_nodes_must_hold_each_partition_once() -> None:
    def introduce(message: Message, context: Context) -> Message:
        return Message(RecordDict({"node": MetricRecord({"partition-id": 7})}), reply_to=message)

    app = ClientApp()
    app.query()(introduce)
    with pytest.raises(RunError, match="two nodes hold partition-id 7"):
        meet(InlineGrid(app, ["a", "b"], {}), 2)
    with pytest.raises(RunError, match=r"partition ids \[7\] for 1 clients"):
        meet(InlineGrid(app, ["a"], {}), 1)


def test_a_node_that_cannot_start_is_named_with_its_reason() -> None:
    def introduce(message: Message, context: Context) -> Message:
        return Message(Error(1, "no model folder"), reply_to=message)

    app = ClientApp()
    app.query()(introduce)
    with pytest.raises(RunError, match="did not start: no model folder"):
        meet(InlineGrid(app, ["a"], {}), 1)


def test_a_nodes_error_is_told_without_its_wrapping() -> None:
    assert plain("<class 'fedmem.errors.DataError'>:<'a.jsonl:3: bad row'>") == "a.jsonl:3: bad row"
    assert plain("<class 'KeyError'>:<'x\ny'>") == "KeyError: x y"
    assert plain("client b raised\n ValueError") == "client b raised ValueError"
    assert plain(None) == ""
