"""Clients and server face to face: sums, losses at every stage, and everything that is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmem.errors import RunError
from fedmem.secagg import crypto
from fedmem.secagg.client import Client
from fedmem.secagg.graph import Plan, plan
from fedmem.secagg.server import Server

STAGES = ("keys", "shares", "masked", "unmask")
WORDS = 50
Tamper = Callable[[str, int, dict[str, Any]], dict[str, Any]]


def vectors(clients: int) -> list[np.ndarray]:
    rng = np.random.default_rng(clients)
    return [rng.integers(0, 2**32, WORDS, np.uint32) for _ in range(clients)]


class Round:
    """A round over `made`; `lost`: stage -> clients that fall silent there.

    `to_client` and `to_server` are shown every message (stage, client, message) and may change it.
    Between messages a client is written down and read back, as in a node's state.
    """

    def __init__(self, made: Plan, lost: dict[str, set[int]] | None = None) -> None:
        n = made.clients
        self.plan, self.lost = made, lost or {}
        self.names = [f"c{i}" for i in range(n)]
        self.server = Server(7, self.names, range(n), made)
        self.clients = [Client(i, 7, self.names, made) for i in range(n)]
        self.to_client: Tamper = lambda stage, who, message: message
        self.to_server: Tamper = lambda stage, who, message: message
        self.masked: dict[int, np.ndarray] = {}

    def answering(self, stage: str) -> list[int]:
        for who in list(self.server.there):
            if who in self.lost.get(stage, set()):
                self.server.lose(who, stage, "silent")
        return list(self.server.there)

    def client(self, who: int) -> Client:
        again = Client.load(who, self.names, self.plan, self.clients[who].dump())
        self.clients[who] = again
        return again

    def keys(self) -> None:
        for who in self.answering("keys"):
            self.server.take_keys(who, self.to_server("keys", who, self.client(who).keys()))

    def shares(self) -> None:
        due = {who: self.server.keys_for(who) for who in self.server.there}
        for who in self.answering("shares"):
            dealt = self.client(who).shares(self.to_client("shares", who, due[who]))
            self.server.take_shares(who, self.to_server("shares", who, dealt))

    def updates(self) -> None:
        due = {who: self.server.shares_for(who) for who in self.server.there}
        for who in self.answering("masked"):
            client = self.client(who)
            client.receive(self.to_client("masked", who, due[who]))
            self.masked[who] = client.masked(vectors(self.plan.clients)[who]).copy()
            self.server.take_masked(who, self.masked[who], WORDS)

    def unmask(self) -> None:
        due = {who: self.server.survivors_for(who) for who in self.server.there}
        for who in self.answering("unmask"):
            revealed = self.client(who).reveal(self.to_client("unmask", who, due[who]))
            self.server.take_revealed(who, self.to_server("unmask", who, revealed))

    def run(self) -> np.ndarray:
        self.keys()
        self.shares()
        self.updates()
        self.unmask()
        return self.server.sum()

    def right(self) -> np.ndarray:
        """The sum over the clients that were there when vectors were due, computed in the clear."""
        gone = set().union(*(self.lost.get(stage, set()) for stage in STAGES[:3]))
        whole = np.zeros(WORDS, np.uint32)
        for who, vector in enumerate(vectors(self.plan.clients)):
            if who not in gone:
                whole += vector
        return whole


@pytest.mark.parametrize("clients", [3, 4, 7])
def test_the_sum_comes_out_exactly(clients: int) -> None:
    round_ = Round(plan(clients))
    np.testing.assert_array_equal(round_.run(), round_.right())
    assert round_.server.summed == list(range(clients)) and not round_.server.losses


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("who", range(5))
def test_any_one_client_may_get_lost_at_any_stage(stage: str, who: int) -> None:
    round_ = Round(plan(5), {stage: {who}})
    np.testing.assert_array_equal(round_.run(), round_.right())
    (loss,) = round_.server.losses
    assert (loss.client, loss.at, loss.why) == (f"c{who}", stage, "silent")
    assert (who in round_.server.summed) == (stage == "unmask")


@given(st.lists(st.sampled_from([*STAGES, None, None]), min_size=4, max_size=9))
def test_any_losses_end_in_the_right_sum_or_in_an_error_with_counts(
    fates: list[str | None],
) -> None:
    lost = {stage: {i for i, fate in enumerate(fates) if fate == stage} for stage in STAGES}
    left = fates.count(None)
    round_ = Round(plan(len(fates)), lost)
    if left >= round_.plan.survivors:
        np.testing.assert_array_equal(round_.run(), round_.right())
    else:
        with pytest.raises(RunError, match=rf"of {len(fates)} clients are left at the stage") as e:
            round_.run()
        assert f"{round_.plan.survivors} are needed" in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize("stage", STAGES)
def test_a_sparse_graph_survives_losses_too(stage: str) -> None:
    made = plan(40, corrupted=0.03, lost=0.05)
    assert made.neighbours < 39
    round_ = Round(made, {stage: {3, 38}})
    np.testing.assert_array_equal(round_.run(), round_.right())


def test_a_masked_vector_tells_nothing_by_itself() -> None:
    """The same update is masked afresh each time, and every byte is as likely as any other."""
    made = plan(4)
    seen = [Round(made), Round(made)]
    for round_ in seen:
        round_.run()
    assert all((a != b).mean() > 0.9 for a, b in zip(*(r.masked.values() for r in seen)))  # noqa: B905
    client = Client(0, 7, ["c0", "c1", "c2", "c3"], made)
    other = Client(1, 7, ["c0", "c1", "c2", "c3"], made)
    client.stage = other.stage = "masked"  # its own mask alone hides it
    client.held = other.held = {}
    zeros = np.zeros(250_000, np.uint32)
    client.plan = Plan(4, 3, 0, 3)
    counts = np.bincount(client.masked(zeros).view(np.uint8), minlength=256)
    expected = counts.sum() / 256
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert 150 < chi_square < 380  # 255 degrees of freedom; beyond 99.999 % either way


def test_less_than_the_threshold_of_shares_opens_nothing() -> None:
    round_ = Round(plan(5))
    round_.keys()
    round_.shares()
    round_.updates()
    due = {who: round_.server.survivors_for(who) for who in round_.server.there}
    for who in range(round_.plan.threshold - 1):
        round_.server.take_revealed(who, round_.client(who).reveal(due[who]))
    with pytest.raises(RunError, match=r"3 clients are left that hold shares of client c0, and 4"):
        round_.server.sum()


# --- a client refuses -------------------------------------------------------------------------


def tampered(stage: str, change: Callable[[dict[str, Any]], None], who: int = 1) -> Round:
    """A round in which what `who` is sent at a stage is changed."""
    round_ = Round(plan(5))

    def tamper(at: str, to: int, message: dict[str, Any]) -> dict[str, Any]:
        if (at, to) == (stage, who):
            change(message)
        return message

    round_.to_client = tamper
    return round_


def put(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda message: message.update({key: value})


@pytest.mark.parametrize(
    ("stage", "change", "said"),
    [
        ("shares", put("ids", "0 2"), "no list of clients"),
        ("shares", put("ids", [0, 2, 3, 9]), "names nobody"),
        ("shares", put("ids", [2, 0, 3, 4]), "out of order"),
        ("shares", put("ids", [0, 1, 2, 3]), "with itself"),
        ("shares", put("ids", [0]), "1 neighbours, and the plan has 3 at least"),
        ("shares", put("mask", [b"x" * 32] * 3), "other than one item of 'mask'"),
        ("shares", put("mask", [b"x" * 31] * 4), "'mask' of client c0 that is not of 32 bytes"),
        ("shares", put("channel", [bytes(32)] * 4), "a channel key of client c0 that is none"),
        ("masked", put("sealed", [b"x" * 48] * 4), "shares of client c0 that are not its own"),
        ("masked", put("sealed", [b"x" * 9999] * 4), "'sealed' of client c0 that is not of 48"),
        ("masked", put("digests", [b"x" * 64] * 4), "shares of client c0 that are not its own"),
        ("masked", put("ids", [0]), "1 neighbours are left, and a secret needs 4"),
        ("masked", lambda m: m["sealed"].reverse(), "shares of client c0 that are not its own"),
        ("unmask", put("alive", [1, 1, 0, 0, 0]), "2 survivors to open a sum of"),
        ("unmask", put("alive", [1, 0, 1, 1, 1]), "to be lost itself"),
        ("unmask", put("alive", [1, 2, 1, 1, 1]), "a list of survivors that is none"),
        ("unmask", put("ids", [0, 1, 2, 3]), "a list of survivors that is none"),
        ("unmask", put("ids", [0, 2, 3, 4, 4]), "out of order"),
    ],
)
def test_a_client_refuses_what_the_protocol_does_not_allow(
    stage: str, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    with pytest.raises(RunError, match=r"^round 7, client c1: secure aggregation: refused") as e:
        tampered(stage, change).run()
    assert said in str(e.value) and "\n" not in str(e.value)


def test_a_client_hands_out_one_kind_of_share_and_once() -> None:
    round_ = Round(plan(5))
    round_.keys()
    round_.shares()
    round_.updates()
    asked = round_.server.survivors_for(1)
    client = round_.client(1)
    client.reveal(asked)
    lie = {**asked, "alive": [0, 1, 1, 1, 1]}
    for message in (asked, lie):
        with pytest.raises(RunError, match="refused: 'unmask', and it is at the stage 'done'"):
            round_.client(1).reveal(message)
    assert client.mask_secret == client.self_secret == b"" and not client.held


def test_a_client_masks_once_a_round_and_in_turn() -> None:
    round_ = Round(plan(4))
    with pytest.raises(RunError, match="'shares', and it is at the stage 'keys'"):
        round_.client(0).shares({})
    with pytest.raises(RunError, match="it holds too few shares of others"):
        round_.client(0).masked(vectors(4)[0])
    round_.run()
    for again in (lambda c: c.keys(), lambda c: c.masked(vectors(4)[0])):
        with pytest.raises(RunError, match="refused"):
            again(round_.client(0))


def test_shares_of_another_round_do_not_open() -> None:
    old, new = Round(plan(5)), Round(plan(5))
    new.clients = [Client(i, 8, new.names, new.plan) for i in range(5)]
    for one in (old, new):
        one.keys()
        one.shares()
    sealed = old.server.shares_for(1)
    client = new.client(1)
    client.channel_secret = old.clients[1].channel_secret  # even with the same keys
    client.channels = dict(old.clients[1].channels)
    with pytest.raises(RunError, match="shares of client c0 that are not its own for this round"):
        client.receive(sealed)


# --- the server refuses -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "change", "said"),
    [
        ("keys", put("mask", b"x" * 33), "sent a mask that is not of 32 bytes"),
        ("keys", put("channel", 5), "sent a channel that is not of 32 bytes"),
        ("keys", lambda m: m.pop("commitment"), "sent a commitment that is not of 32 bytes"),
        ("shares", put("sealed", []), "sent other than 4 sealed shares"),
        ("shares", put("sealed", [b"x" * 1000] * 4), "sealed share that is not of 48 bytes"),
        ("shares", put("digests", [b"x" * 64]), "sent other than 5 digests"),
        ("shares", put("digests", [7] * 5), "sent a digest that is not of 64 bytes"),
        ("unmask", put("shares", [b"x" * 16] * 4), "sent other than 5 shares"),
        ("unmask", put("shares", [b"x" * 17] * 5), "sent a share that is not of 16 bytes"),
        ("unmask", put("shares", [b"x" * 16] * 5), "sent a share that client c0 never dealt"),
    ],
)
def test_the_server_names_the_client_that_breaks_the_protocol(
    stage: str, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    round_ = Round(plan(5))

    def tamper(at: str, who: int, message: dict[str, Any]) -> dict[str, Any]:
        if (at, who) == (stage, 2):
            change(message)
        return message

    round_.to_server = tamper
    with pytest.raises(RunError, match=r"^round 7, client c2: secure aggregation: ") as e:
        round_.run()
    assert said in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize(
    "vector",
    [np.zeros(WORDS + 1, np.uint32), np.zeros(WORDS, np.float32), np.zeros((WORDS, 1), np.uint32)],
)
def test_a_vector_of_another_kind_is_refused(vector: np.ndarray) -> None:
    server = Server(7, ["c0", "c1", "c2"], range(3), plan(3))
    with pytest.raises(RunError, match=r"round 7, client c1: .*update refused: "):
        server.take_masked(1, vector, WORDS)


def test_nobody_announces_the_key_of_another() -> None:
    round_ = Round(plan(3))
    keys = round_.client(0).keys()
    round_.server.take_keys(0, keys)
    with pytest.raises(RunError, match=r"client c1: .*announced the key of another client"):
        round_.server.take_keys(1, keys)


def test_shares_that_make_up_another_secret_are_blamed_on_their_dealer() -> None:
    round_ = Round(plan(4))
    round_.keys()
    client = round_.clients[2]
    client.self_secret = bytes(16)  # other than what it committed to
    round_.shares()
    round_.updates()
    round_.unmask()
    with pytest.raises(RunError, match=r"client c2: .*do not make up its secret"):
        round_.server.sum()


def test_shares_other_than_their_digests_are_blamed_on_their_dealer() -> None:
    round_ = Round(plan(4))
    round_.keys()
    round_.shares()
    dealer, both = round_.clients[0], b"x" * 64
    key = dealer._channel(1, 0, 1)
    sealed = crypto.seal(key, b"y" * 32, dealer._associated(0, 1, both))
    message = round_.server.shares_for(1)
    message["sealed"][0], message["digests"][0] = sealed, both
    with pytest.raises(
        RunError, match=r"client c1: .*shares of client c0 other than those it comm"
    ):
        round_.client(1).receive(message)
