"""The server's attribution, counted by hand, and what each seat sees."""

from __future__ import annotations

import itertools

import pytest
from fakerun import config as fake_config

from fedmem.config import Config
from fedmem.metrics.attribution import SCHEMA, rows, seats
from fedmem.metrics.outcomes import Owned

CLIENTS = ("a", "b", "c")


def canary(name: str, owners: tuple[str, ...], copies: int = 4) -> Owned:
    return Owned(name, f"p-{name}", owners, copies, copies == 0, 11, 100, 3)


NOTES = {
    c.id: c
    for c in (
        *(canary(f"n{i}", (CLIENTS[i % 3],)) for i in range(6)),
        *(canary(f"t{i}", (CLIENTS[i % 3],), copies=0) for i in range(3)),
        canary("shared", ("a", "b")),
    )
}


def table(rounds: dict[int, dict[str, dict[str, float]]]) -> dict[str, list[object]]:
    """server.parquet from gains: round -> client -> canary -> nats a token (others 0)."""
    found: list[tuple[object, ...]] = []
    for round_, by_client in rounds.items():
        for client, name in itertools.product(by_client, NOTES):
            # a client's update is worth 0.5 nats on every note: it must not count
            gain = by_client[client].get(name, 0.0) + (0.5 if client == "c" else 0.0)
            found.append((round_, client, name, 10, 10 * (gain - 3.0)))
    return {key: [row[i] for row in found] for i, key in enumerate(SCHEMA.names)}


def own(good: int) -> dict[str, dict[str, float]]:
    """The first `good` notes are favoured by their owner's update, the others by nobody's."""
    gains = {client: {} for client in CLIENTS}
    for i in range(good):
        gains[CLIENTS[i % 3]][f"n{i}"] = 1.0
    return gains


def test_every_note_that_its_owner_learned_is_named() -> None:
    found = rows(table({1: own(6)}), NOTES)
    by_place = {(row["round"], row["copies"]): row for row in found}
    row = by_place[1, 4]
    assert (row["hits"], row["n"], row["rate"]) == (6, 6, 1.0)  # `shared` has two owners
    assert row["chance"] == pytest.approx(1 / 3) and row["low"] > 0.6 and row["view"] == "server"
    assert by_place[1, 0]["n"] == 3 and by_place[1, 0]["hits"] <= 1  # twins: nobody's
    assert by_place[None, 4]["hits"] == 6


def test_only_participants_can_be_named_and_one_alone_tells_nothing() -> None:
    gains = own(6)
    part = {client: gains[client] for client in ("a", "b")}
    found = {
        (r["round"], r["copies"]): r for r in rows(table({1: part, 2: {"c": gains["c"]}}), NOTES)
    }
    assert found[1, 4]["n"] == 4 and found[1, 4]["chance"] == 0.5
    assert (2, 4) not in found
    assert found[None, 4]["n"] == 6 and found[None, 4]["hits"] == 6  # over the rounds: all three


def test_rounds_add_up() -> None:
    weak = {client: {n: 0.1 * g for n, g in gains.items()} for client, gains in own(6).items()}
    wrong = own(0)
    wrong["b"]["n0"] = 0.15  # n0 is a's, and one round speaks for b
    found = {(r["round"], r["copies"]): r for r in rows(table({1: wrong, 2: weak, 3: weak}), NOTES)}
    assert found[1, 4]["hits"] < 6
    assert found[None, 4]["hits"] == 6


def test_no_rows_of_no_rounds() -> None:
    assert rows({key: [] for key in SCHEMA.names}, NOTES) == []


def test_seats() -> None:
    base = fake_config(attack={"views": ["client", "public", "server"]})
    plain = {row["view"]: row for row in seats(Config.model_validate(base))}
    assert plain["server"]["updates"] and not plain["public"]["updates"]
    secure = Config.model_validate(base | {"aggregation": {"secure": {"enabled": True}}})
    assert not any(row["updates"] for row in seats(secure))
    assert [row["view"] for row in seats(secure)] == ["client", "public", "server"]
