"""The auditor: who is tried with which knowledge, and how rows are addressed."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import Memorised, config

from fedmem.attacks.audit import attack_as, audit
from fedmem.attacks.rows import table
from fedmem.attacks.views import ClientView


@pytest.fixture
def base(base_folder: Path) -> Path:
    return base_folder


def test_all_canaries_and_twins_are_scored_alike(base: Path, memorised: Memorised) -> None:
    plan = config(base, attack={"prefix_lengths": [5, 30], "continuation": 10})
    canaries = [memorised.canary, memorised.twin, memorised.other]
    rows = audit(memorised.model, canaries, plan, 4, "global").scores
    for one in canaries:
        mine = [row for row in rows if row["canary"] == one.id]
        kinds = [row["attack"] for row in mine]
        assert kinds.count("loss") == 1
        assert kinds.count("phi") == sum(span.first for span in one.phi)
        assert [row["target"] for row in mine if row["attack"] == "extraction"] == [5, 30]
    heads = {(row["round"], row["model"], row["view"], row["attacker"]) for row in rows}
    assert heads == {(4, "global", "client", "*")}
    assert {row["knowledge"] for row in rows} == {"true_prefix"}
    assert table(rows).num_rows == len(rows)  # every key is a column, every value of its kind


def test_a_note_too_short_for_a_window_still_has_its_loss(base: Path, memorised: Memorised) -> None:
    plan = config(base, attack={"prefix_lengths": [500], "continuation": 50})
    rows = audit(memorised.model, [memorised.canary], plan, 0, "global").scores
    assert {row["attack"] for row in rows} == {"loss", "phi"}


def test_knowledge_that_is_not_granted_is_not_used(base: Path, memorised: Memorised) -> None:
    view = ClientView("b", 2, memorised.model, memorised.tokenizer, (memorised.other,))
    canaries = [memorised.canary, memorised.twin, memorised.other]
    bound = config(base, attack={"knowledge": ["true_prefix"]})
    real = config(base, attack={"knowledge": ["own_prefix"]})
    assert audit(memorised.model, canaries, real, 1, "global") == ([], [])
    assert attack_as(view, canaries, bound, "global") == []
    assert audit(memorised.model, [], bound, 1, "global") == ([], [])
    rows = attack_as(view, canaries, real, "global")
    assert {row["canary"] for row in rows} == {memorised.canary.id, memorised.twin.id}
    heads = {(row["round"], row["model"], row["view"], row["attacker"]) for row in rows}
    assert heads == {(2, "global", "client", "b")}
    assert {row["queries"] for row in rows} == {real.attack.own_prefixes}
    assert table(rows).num_rows == len(rows)
