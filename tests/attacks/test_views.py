"""What a seat does not see it cannot use: a field that is stripped makes the attack fail."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny import Memorised, config

from fedmem.attacks import own_prefix, public
from fedmem.attacks.attribution import attribute, table
from fedmem.attacks.sampling import Budget
from fedmem.attacks.views import (
    Candidates,
    ClientView,
    OwnPrefix,
    PublicView,
    SecureServerView,
    ServerView,
)
from fedmem.config import Config
from fedmem.config.attack import Drawing
from fedmem.metrics.attribution import SCHEMA, rows
from fedmem.metrics.outcomes import Owned
from fedmem.model.state import Arrays
from fedmem.workspace import Workspace

GRANTED = OwnPrefix(budget=2, tokens=4, seed=0)


def server_config(base: Path, **sections: Any) -> Config:
    rounds = {"count": 1, "local_epochs": 8}
    attack = {"views": ["client", "server"]}
    return config(base, rounds=rounds, model={"method": "full"}, attack=attack, **sections)


@pytest.fixture(scope="module")
def workspace(base_folder: Path) -> Workspace:
    return Workspace(server_config(base_folder))


@pytest.fixture(scope="module")
def server(workspace: Workspace) -> ServerView:
    """A round in which each client learned its own notes."""
    before = workspace.initial_arrays()
    updates = {}
    for client in ("a", "b"):
        after, _ = workspace.train(client, 1, before)
        updates[client] = {name: after[name] - before[name] for name in before}
    return ServerView(1, before, updates, workspace.load)


@pytest.fixture(scope="module")
def candidates(workspace: Workspace) -> Candidates:
    return Candidates(workspace.data.canaries)


def without(view: Any, field: str) -> Any:
    """The view, less one field."""
    return SimpleNamespace(
        **{f.name: getattr(view, f.name) for f in fields(view) if f.name != field}
    )


def owned(notes: Candidates) -> dict[str, Owned]:
    return {
        c.id: Owned(c.id, c.patient, tuple(c.owners), c.copies, c.twin, len(c.ids), 0, len(c.phi))
        for c in notes.notes
    }


def test_the_server_names_the_owners_of_notes_that_were_learned(
    server: ServerView, candidates: Candidates
) -> None:
    found = attribute(server, candidates)
    assert table(found).schema == SCHEMA
    assert len(found) == 2 * len(candidates.notes)
    columns = {name: [row[name] for row in found] for name in SCHEMA.names}
    graded = {row["copies"]: row for row in rows(columns, owned(candidates)) if row["round"] == 1}
    assert graded[4]["hits"] == graded[4]["n"] == 2
    assert graded[0]["chance"] == 0.5


@pytest.mark.parametrize("field", [f.name for f in fields(ServerView)])
def test_the_servers_attack_needs_every_field(
    server: ServerView, candidates: Candidates, field: str
) -> None:
    with pytest.raises(AttributeError, match=field):
        attribute(without(server, field), candidates)


def test_sums_attribute_nothing(server: ServerView, candidates: Candidates) -> None:
    """Secure aggregation: no field `updates`, and nothing to fall back on."""
    total = {n: sum(update[n] for update in server.updates.values()) for n in server.received}
    secure = SecureServerView(1, server.received, total, server.model_of)
    with pytest.raises(AttributeError, match="updates"):
        attribute(secure, candidates)  # type: ignore[arg-type]


@pytest.mark.parametrize("field", [f.name for f in fields(PublicView)])
def test_the_public_draws_from_the_model_alone(memorised: Memorised, field: str) -> None:
    view = PublicView(memorised.model, memorised.tokenizer)
    knowledge = Budget(3, Drawing(tokens=120), 0)
    said = public.guess(view, knowledge)
    assert said == public.guess(view, knowledge) and [len(text) for text in said] == [120] * 3
    found = public.grade(said, view, [memorised.canary, memorised.twin], 1, "global")
    longest = {r["canary"]: r["longest"] for r in found if r["attack"] == "loss"}
    assert longest[memorised.canary.id] > 50 > 20 > longest[memorised.twin.id]
    assert {(r["view"], r["attacker"], r["knowledge"]) for r in found} == {
        ("public", public.PUBLIC, "none")
    }
    with pytest.raises(AttributeError, match=field):
        public.guess(without(view, field), knowledge)


def test_the_public_has_no_notes_to_prompt_with(memorised: Memorised) -> None:
    view = PublicView(memorised.model, memorised.tokenizer)
    with pytest.raises(AttributeError):
        own_prefix.guess(view, GRANTED)  # type: ignore[arg-type]


@pytest.mark.parametrize("field", [f.name for f in fields(ClientView)])
def test_a_clients_attack_needs_every_field(memorised: Memorised, field: str) -> None:
    model, tokenizer = memorised.model, memorised.tokenizer
    view = ClientView("a", 1, model, tokenizer, (memorised.canary,))
    assert own_prefix.guess(view, GRANTED)
    with pytest.raises(AttributeError, match=field):
        own_prefix.guess(without(view, field), GRANTED)


def test_views_are_frozen_and_hold_no_more_than_they_say(server: ServerView) -> None:
    with pytest.raises(FrozenInstanceError):
        server.updates = {}  # type: ignore[misc]
    names = {view: {f.name for f in fields(view)} for view in (PublicView, SecureServerView)}
    assert names[PublicView] == {"model", "tokenizer"}
    assert names[SecureServerView] == {"round", "received", "total", "model_of"}


def test_what_arrives_is_the_update_whatever_clients_send(
    base_folder: Path, server: ServerView
) -> None:
    """Trained arrays, or with a defence updates: the server's view is the same."""
    before, update = server.received, server.updates["a"]
    trained: Arrays = {name: before[name] + update[name] for name in before}
    plain = Workspace(server_config(base_folder))
    clipped = Workspace(server_config(base_folder, defences=[{"kind": "clip", "norm": 1e6}]))
    sent = plain.watch("a", 1, before, trained), clipped.watch("a", 1, before, update)
    for one, other in zip(*sent, strict=True):
        assert one["client"] == other["client"] == "a" and one["canary"] == other["canary"]
        assert one["logprob"] == pytest.approx(other["logprob"], rel=1e-5)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"rounds": {"topology": "local"}}, "sees no updates under rounds.topology local"),
        ({"rounds": {"topology": "centralized"}}, "sees no updates under rounds.topology"),
        ({"aggregation": {"rule": "product"}}, "is not offered for aggregation.rule product"),
        ({"engine": {"kind": "deployment"}}, "needs a simulation"),
    ],
)
def test_where_there_is_no_servers_view(
    base_folder: Path, sections: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"attack.views: server {message}"):
        config(base_folder, attack={"views": ["server"]}, **sections)
