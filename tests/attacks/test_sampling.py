"""Texts drawn under a budget, from nothing or from a note's form; what of them counts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import Memorised

from fedmem.attacks import sampling, templates
from fedmem.attacks.rows import table
from fedmem.attacks.runs import grade_runs, longest_run
from fedmem.attacks.sampling import Budget, sample
from fedmem.attacks.views import ClientView
from fedmem.config.attack import Drawing
from fedmem.config.attack import Sampling as Point
from fedmem.data.records import Canary

BUDGET = Budget(6, Drawing(tokens=60), 0)


def view_of(memorised: Memorised, client: str, *own: Canary, round_: int = 1) -> ClientView:
    return ClientView(client, round_, memorised.model, memorised.tokenizer, own)


def test_draws_follow_the_models_distribution(memorised: Memorised) -> None:
    ids = memorised.other.ids[:20]
    with torch.inference_mode():
        logits = memorised.model(input_ids=torch.from_numpy(ids).long()[None]).logits[0, -1]
    point, draws = Point(temperature=1.5, top_k=4), 2000
    drawn = sample(memorised.model, [ids] * draws, 1, point, torch.Generator().manual_seed(1))
    best = logits.topk(4)
    p = (best.values / 1.5).softmax(-1)
    counts = np.bincount([one for (one,) in drawn], minlength=len(logits))
    assert counts.sum() == counts[best.indices].sum() == draws
    for expected, seen in zip((p * draws).tolist(), counts[best.indices], strict=True):
        assert abs(seen - expected) < 4 * np.sqrt(expected) + 4
    nucleus = Point(top_p=0.01)  # less than any token's mass: the most likely one alone
    (only,) = sample(memorised.model, [ids], 3, nucleus, torch.Generator())
    assert only[0] == int(logits.argmax())


def test_the_budget_is_kept_and_the_draws_are_the_seeds(memorised: Memorised) -> None:
    view = view_of(memorised, "b", memorised.other)
    for attack in (sampling, templates):
        said = attack.guess(view, BUDGET)
        assert [len(ids) for ids in said] == [60] * 6
        assert said == attack.guess(view, BUDGET)
        assert said != attack.guess(replace(view, round=2), BUDGET)
        assert said != attack.guess(replace(view, client="c"), BUDGET)
        assert said != attack.guess(view, replace(BUDGET, seed=1))
    assert sampling.guess(view, BUDGET) != templates.guess(view, BUDGET)


@pytest.mark.parametrize("attack", [sampling, templates])
def test_what_a_model_knows_by_heart_comes_out_and_a_twin_does_not(
    memorised: Memorised, attack: Any
) -> None:
    view = view_of(memorised, "b", memorised.other)
    canaries = [memorised.canary, memorised.twin, memorised.other]
    rows = attack.grade(attack.guess(view, replace(BUDGET, queries=16)), view, canaries)
    by = {
        name: [row for row in rows if row["canary"] == name]
        for name in (memorised.canary.id, memorised.twin.id)
    }
    known, twin = by.values()
    assert sum(row["hit"] for row in known if row["attack"] == "phi") >= 3
    assert not any(row["hit"] for row in twin)
    (run,), (other) = ([r["longest"] for r in of if r["attack"] == "loss"] for of in by.values())
    assert run >= 20 > max(other)
    assert not any(row["canary"] == memorised.other.id for row in rows)  # its own
    name = {"fedmem.attacks.sampling": "none", "fedmem.attacks.templates": "template"}
    assert {row["knowledge"] for row in rows} == {name[attack.__name__]}
    assert {row["queries"] for row in rows} == {16} and {row["attacker"] for row in rows} == {"b"}
    assert table([{"round": 1, "model": "global", "view": "client"} | r for r in rows]).num_rows


def test_the_untouched_model_gives_nothing(memorised: Memorised, base_folder: Any) -> None:
    from tiny import config

    from fedmem.model.base import load

    fresh, _ = load(config(base_folder, model={"method": "full"}).model, 0)
    view = replace(view_of(memorised, "b", memorised.other), model=fresh.eval())
    for attack in (sampling, templates):
        rows = attack.grade(attack.guess(view, BUDGET), view, [memorised.canary, memorised.twin])
        assert not any(row["hit"] for row in rows)
        assert max(row["longest"] for row in rows if row["attack"] == "loss") < 8


def test_a_form_holds_no_value(memorised: Memorised) -> None:
    note = memorised.other
    forms = templates.forms(note)
    assert len(forms) == len(note.phi) and len(set(forms)) > 3
    for form, span in zip(forms, note.phi, strict=True):
        assert not any(other.value in form for other in note.phi)
        assert form == form.rstrip() and "\n" not in form
        words = form.split()
        # it is the note's own sentence before the value
        before = note.text[: note.text.index(span.value)].split()
        assert not words or words[-1] in before


def test_a_client_without_notes_knows_no_form(memorised: Memorised) -> None:
    view = view_of(memorised, "c")
    assert templates.guess(view, BUDGET) == []
    rows = templates.grade([], view, [memorised.canary])
    assert rows and {row["queries"] for row in rows} == {0} and not any(r["hit"] for r in rows)
    assert len(sampling.guess(view, BUDGET)) == 6  # from nothing, anybody can draw


def test_a_tokenizer_without_a_beginning_draws_nothing(memorised: Memorised) -> None:
    class Bare:
        bos_token_id = eos_token_id = None

    assert sampling.guess(replace(view_of(memorised, "b"), tokenizer=Bare()), BUDGET) == []


@given(
    st.lists(st.integers(0, 2), max_size=12),
    st.lists(st.lists(st.integers(0, 2), max_size=8), max_size=4),
)
def test_the_longest_run_is_that_of_one_text(ids: list[int], texts: list[list[int]]) -> None:
    said = np.array([token for text in texts for token in (*text, -1)], dtype=np.int64)
    parts = {tuple(ids[a:b]) for a in range(len(ids)) for b in range(a + 1, len(ids) + 1)}
    held = {tuple(t[a:b]) for t in texts for a in range(len(t)) for b in range(a + 1, len(t) + 1)}
    assert longest_run(ids, said) == max(map(len, parts & held), default=0)


def test_runs_of_nothing(memorised: Memorised) -> None:
    (row,) = grade_runs([], view_of(memorised, "b"), [memorised.canary], "none")
    assert row["longest"] == 0 and row["queries"] == 0 and not row["hit"]
