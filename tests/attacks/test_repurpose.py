"""Repurposing: the client's own pairs, the model put back, and what tuning brings out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tiny import canary, config, overfit

from fedmem.attacks import repurpose
from fedmem.attacks.audit import attack_as
from fedmem.attacks.repurpose import Names, guess, lesson, pairs, put_back, tune
from fedmem.attacks.rows import table
from fedmem.attacks.views import ClientView
from fedmem.config.attack import Repurpose
from fedmem.data.encoding import Coder
from fedmem.data.records import Canary
from fedmem.data.synthetic import notes
from fedmem.model.base import load
from fedmem.model.state import get_arrays

SETTINGS = Repurpose(pairs=12, steps=4, lr=5e-4, queries=40)


@pytest.fixture(scope="module")
def planted(base_folder: Any) -> tuple[Any, Any, list[Canary]]:
    """A model that knows the victim's pairs in the new form, as one that generalises would come to.

    Client b owns notes 0 and 1, a owns 2 and 3; 4 and 5 are twins of a's.
    """
    model, tokenizer = load(config(base_folder, model={"method": "full"}).model, 0)
    owners: list[dict[str, int] | None] = [{"b": 1}, {"b": 1}, {"a": 4}, {"a": 4}, None, None]
    drawn = [
        canary(tokenizer, note, 400, of)
        for note, of in zip(notes.generate(6, 0), owners, strict=True)
    ]
    coder = Coder(tokenizer)
    known = [
        lesson(coder, key, span.type, span.value).ids
        for one in drawn[2:4]
        for key, span in pairs(one)[:3]
    ]
    overfit(model, base_folder, known, 60)
    return model.eval(), tokenizer, drawn


def view_of(planted: tuple[Any, Any, list[Canary]], client: str, round_: int = 2) -> ClientView:
    model, tokenizer, drawn = planted
    own = tuple(one for one in drawn if one.owners.get(client, 0))
    return ClientView(client, round_, model, tokenizer, own)


def test_pairs_are_of_the_patients_name(planted: tuple[Any, Any, list[Canary]]) -> None:
    note = planted[2][0]
    name = next(span.value for span in note.phi if span.type == "PATIENT")
    made = pairs(note)
    assert {key for key, _ in made} == {name}
    assert name not in {span.value for _, span in made}
    assert len(made) == sum(span.first for span in note.phi) - 1
    anonymous = replace(note, phi=tuple(s for s in note.phi if s.type != "PATIENT"))
    assert pairs(anonymous) == []


def test_a_lesson_teaches_its_answer_alone(planted: tuple[Any, Any, list[Canary]]) -> None:
    tokenizer = planted[1]
    made = lesson(Coder(tokenizer), "Ada Birch", "PHONE", "555-0101")
    prompt = tokenizer.decode(made.ids[1 : made.supervised])
    assert prompt == "Patient record. Name: Ada Birch. phone:"
    assert tokenizer.decode(made.ids[made.supervised :]) == " 555-0101\n"


def test_others_values_come_out_and_twins_do_not(planted: tuple[Any, Any, list[Canary]]) -> None:
    model, _, drawn = planted
    before = get_arrays(model)
    rows = repurpose.attack(view_of(planted, "b"), drawn, SETTINGS, 0)
    after = get_arrays(model)
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)
    assert not model.training
    asked = {row["canary"] for row in rows}
    assert asked <= {one.id for one in drawn[2:]}  # nobody asks for what it holds
    tuned = [row for row in rows if row["knowledge"] == "names"]
    untuned = [row for row in rows if row["knowledge"] == "names_untuned"]
    assert len(tuned) == len(untuned) <= SETTINGS.queries
    assert [(r["canary"], r["target"]) for r in tuned] == [
        (r["canary"], r["target"]) for r in untuned
    ]
    twins = {one.id for one in drawn[4:]}
    assert sum(row["hit"] for row in tuned if row["canary"] not in twins) >= 2
    assert sum(row["hit"] for row in untuned if row["canary"] not in twins) >= 3
    assert not any(row["hit"] for row in rows if row["canary"] in twins)
    assert {row["queries"] for row in rows} == {len(tuned)}
    assert table([{"round": 2, "model": "global", "view": "client"} | r for r in rows]).num_rows


def test_the_untouched_model_gives_nothing(
    planted: tuple[Any, Any, list[Canary]], base_folder: Any
) -> None:
    fresh, _ = load(config(base_folder, model={"method": "full"}).model, 0)
    view = replace(view_of(planted, "b"), model=fresh.eval())
    rows = repurpose.attack(view, planted[2], SETTINGS, 0)
    assert rows and not any(row["hit"] for row in rows)


def test_tuning_learns_the_clients_own_pairs(
    planted: tuple[Any, Any, list[Canary]], base_folder: Any
) -> None:
    model, tokenizer = load(config(base_folder, model={"method": "full"}).model, 0)
    coder = Coder(tokenizer)
    own = [(key, span.type, span.value) for key, span in pairs(planted[2][0])][:4]
    lessons = [lesson(coder, *one) for one in own]
    kept = get_arrays(model.eval())
    with put_back(model):
        tune(model, lessons, replace_steps(120), 0, 0)
        assert not model.training
        moved = get_arrays(model)
        ids = lessons[0].ids
        with torch.inference_mode():
            best = model(input_ids=torch.from_numpy(ids).long()[None]).logits[0].argmax(-1)
        right = best[lessons[0].supervised - 1 : -1].numpy() == ids[lessons[0].supervised :]
        assert np.mean(right) > 0.9
    assert any((kept[name] != moved[name]).any() for name in kept)
    again = get_arrays(model)
    assert all(kept[name].tobytes() == again[name].tobytes() for name in kept)


def replace_steps(steps: int) -> Repurpose:
    return SETTINGS.model_copy(update={"steps": steps, "lr": 1e-2})


def test_the_model_is_put_back_when_tuning_fails(planted: tuple[Any, Any, list[Canary]]) -> None:
    model = planted[0]
    before = get_arrays(model)
    with pytest.raises(RuntimeError, match="stop"), put_back(model):
        next(p for p in model.parameters() if p.requires_grad).data.zero_()
        raise RuntimeError("stop")
    after = get_arrays(model)
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)


def test_a_client_without_pairs_asks_nothing(planted: tuple[Any, Any, list[Canary]]) -> None:
    view = view_of(planted, "c")
    asked = Names((("Ada Birch", "PHONE"),), SETTINGS, 0)
    assert guess(view, asked) == ([], [])
    assert repurpose.attack(view, planted[2], SETTINGS, 0) == []


def test_it_is_tried_on_the_last_round_alone_unless_told(
    planted: tuple[Any, Any, list[Canary]], base_folder: Any
) -> None:
    drawn = planted[2]
    short = {"pairs": 2, "steps": 1, "queries": 2}

    def tried(round_: int, **attack: Any) -> set[str]:
        plan = config(base_folder, attack={"knowledge": [], **attack})
        rows = attack_as(view_of(planted, "b", round_), drawn, plan, "global")
        return {row["knowledge"] for row in rows}

    both = {"names", "names_untuned"}
    assert tried(2) == set()
    assert tried(1, repurpose=short) == set() and tried(2, repurpose=short) == both
    assert tried(1, repurpose={**short, "rounds": "all"}) == both
