"""The realistic attack: what a curious client is given, spends, and is credited with."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, replace

import pytest
from tiny import Memorised

from fedmem.attacks.own_prefix import grade, guess
from fedmem.attacks.views import ClientView, OwnPrefix
from fedmem.data.records import Canary

KNOWLEDGE = OwnPrefix(budget=5, tokens=12, seed=0)


def view_of(memorised: Memorised, client: str, *own: Canary, round_: int = 1) -> ClientView:
    return ClientView(client, round_, memorised.model, memorised.tokenizer, own)


def test_the_view_holds_the_model_and_its_own_notes_and_nothing_else(memorised: Memorised) -> None:
    names = [field.name for field in fields(ClientView)]
    assert names == ["client", "round", "model", "tokenizer", "own_notes"]
    assert [field.name for field in fields(OwnPrefix)] == ["budget", "tokens", "seed"]
    view = view_of(memorised, "b")
    with pytest.raises(FrozenInstanceError):
        view.own_notes = (memorised.canary,)  # type: ignore[misc]


def test_a_client_without_notes_has_no_prompts(memorised: Memorised) -> None:
    view = view_of(memorised, "c")
    assert guess(view, KNOWLEDGE) == []
    rows = grade([], view, [memorised.canary, memorised.twin])
    assert rows and not any(row["hit"] for row in rows)
    assert {row["queries"] for row in rows} == {0}


def test_the_budget_is_kept_and_prompts_differ_by_round(memorised: Memorised) -> None:
    places = {span.start for span in memorised.other.phi}
    view = view_of(memorised, "b", memorised.other)
    assert len(places) > KNOWLEDGE.budget
    assert len(guess(view, KNOWLEDGE)) == 5
    assert guess(view, KNOWLEDGE) == guess(view, KNOWLEDGE)
    assert guess(view, KNOWLEDGE) != guess(replace(view, round=2), KNOWLEDGE)
    # a copy of a note gives no second prompt
    twice = view_of(memorised, "b", memorised.other, memorised.other)
    assert len(guess(twice, replace(KNOWLEDGE, budget=99))) == len(places)


def test_a_client_that_shares_a_beginning_gets_the_rest(memorised: Memorised) -> None:
    # b's own note begins as a's does, up to the first value: the model goes on with a's
    known = memorised.canary
    first = known.phi[0]
    mine = replace(
        memorised.other,
        ids=known.ids[: first.end],
        phi=(replace(first, value="someone else"),),
    )
    view = view_of(memorised, "b", mine)
    (said,) = guess(view, replace(KNOWLEDGE, tokens=60))
    assert first.value in said
    rows = grade([said], view, [known, memorised.twin])
    found = {row["target"] for row in rows if row["canary"] == known.id and row["hit"]}
    assert 0 in found
    assert not any(row["hit"] for row in rows if row["canary"] == memorised.twin.id)
    row = next(row for row in rows if row["canary"] == known.id and row["target"] == 0)
    assert row["attacker"] == "b" and row["knowledge"] == "own_prefix" and row["queries"] == 1
    assert row["matched"] == row["tokens"] == first.end - first.start
    assert (row["category"], row["type"]) == (first.category, first.type)


def test_nobody_is_graded_on_what_it_holds_or_on_a_patient_it_knows(memorised: Memorised) -> None:
    known, twin, other = memorised.canary, memorised.twin, memorised.other
    same_patient = replace(twin, id="another note", patient=other.patient, owners={"a": 1})
    canaries = [known, twin, other, same_patient]

    def graded(client: str, *own: Canary) -> set[str]:
        return {row["canary"] for row in grade(["x"], view_of(memorised, client, *own), canaries)}

    assert graded("b", other) == {known.id, twin.id}
    assert graded("a", known, same_patient) == set()  # of `other`'s patient it holds a note
    assert graded("c") == {known.id, twin.id, other.id, same_patient.id}
    shared = replace(known, owners={"a": 2, "b": 1})
    assert not grade(["x"], view_of(memorised, "b", shared), [shared])
    # a twin is treated as the canary it could have been: its would-be owner does not try it
    assert graded("a", known) == {other.id}


def test_only_first_mentions_are_graded(memorised: Memorised) -> None:
    spans = [replace(span, first=index == 1) for index, span in enumerate(memorised.canary.phi)]
    one = replace(memorised.canary, phi=tuple(spans))
    rows = grade(["x"], view_of(memorised, "c"), [one])
    assert [row["target"] for row in rows] == [1]


@pytest.mark.parametrize(
    ("value", "said", "hit"),
    [
        ("3 May 2001", "born 3 May 2001.", True),
        ("3 May 2001", "born 13 May 2001.", False),
        ("12345", "MRN 9123456", False),
        ("12345", "Home: Millford 12345.", True),
        ("(200) 555-0101", "Call (200) 555-0101, please", True),
        ("Ada Abbott", "ada abbott", False),
        ("Ada Abbott", "Patient:Ada Abbott", True),
        ("a.b", "axb", False),
    ],
)
def test_a_value_must_stand_alone(memorised: Memorised, value: str, said: str, hit: bool) -> None:
    span = replace(memorised.canary.phi[0], value=value)
    one = replace(memorised.canary, phi=(span,))
    (row,) = grade(["nothing here", said], view_of(memorised, "b"), [one])
    assert row["hit"] is hit


def test_values_are_not_put_together_from_two_guesses(memorised: Memorised) -> None:
    one = replace(memorised.canary, phi=(replace(memorised.canary.phi[0], value="Ada Abbott"),))
    (row,) = grade(["born Ada", "Abbott, MRN"], view_of(memorised, "b"), [one])
    assert not row["hit"]
