"""Client by client: planted members, sources, matrices and exposures, counted by hand."""

from __future__ import annotations

import pytest
from test_differencing import CLIENTS, SOMETIMES, one, owned, plan, table

from fedmem.metrics import clients
from fedmem.metrics.differencing import EVERY
from fedmem.metrics.leakage import passes
from fedmem.metrics.outcomes import Key, Outcome, Owned
from fedmem.metrics.pairs import matrix

ALWAYS = {r: list(CLIENTS) for r in (1, 2, 3)}


def test_a_hospital_that_was_in_it_is_told_from_its_twins() -> None:
    canaries = plan()
    # c never took part: its notes were never read, and count for it as anybody's
    rounds = {r: ["a", "b"] for r in (1, 2, 3)}
    rows = clients.user_inference(table(canaries, rounds, 0.1), canaries)
    assert {row["round"] for row in rows} == {1, 2, 3}
    for name in CLIENTS:
        row = one(rows, round=3, client=name)
        assert (row["members"], row["twins"], row["unit"]) == (16, 8, "notes")
        assert row["clear"] is (name != "c")
        gap = row["statistic"] - row["twins_statistic"]
        assert (gap > 0.15) is (name != "c")
    over = one(rows, round=3, client=None)
    assert (over["unit"], over["members"], over["twins"]) == ("clients", 3, 3)
    assert over["low"] < 0.5  # of three clients nothing can be said


def test_without_twins_nothing_is_claimed_and_one_client_is_enough() -> None:
    members = {name: c for name, c in plan().items() if not c.twin}
    rows = clients.user_inference(table(members, ALWAYS, 0.1), members)
    assert {row["reason"] for row in rows} == {"no twins: nothing to compare with"}
    assert all(row["auc"] is None for row in rows) and rows[0]["statistic"] is not None
    sole = {name: owned(name, "a", c.copies) for name, c in plan().items()}
    rows = clients.user_inference(table(sole, {1: ["a"]}, 0.1), sole)
    assert [row["client"] for row in rows] == ["a"] and rows[0]["clear"]
    assert clients.user_inference({}, sole) == []


def test_the_source_is_named_where_participation_varies() -> None:
    canaries = plan()
    tokens = table(canaries, SOMETIMES, 0.1)
    rows = clients.source_inference(tokens, canaries, SOMETIMES, CLIENTS)
    ten = one(rows, attacker=EVERY, copies=10)
    assert (ten["rate"], ten["n"], ten["chance"]) == (1.0, 24, pytest.approx(1 / 3))
    mine = one(rows, attacker="a", copies=10)  # two others remain, and their notes
    assert (mine["n"], mine["chance"]) == (16, 0.5)
    everybody = clients.source_inference(table(canaries, ALWAYS, 0.1), canaries, ALWAYS)
    assert one(everybody)["rate"] is None and "fewer than two" in one(everybody)["reason"]
    # a and b always come together: a note of either is half named
    paired = {1: ["a", "b"], 2: ["c"], 3: ["a", "b"], 4: ["c"]}
    rows = clients.source_inference(table(canaries, paired, 0.1), canaries, paired)
    assert one(rows, copies=10)["hits"] == 16 * 0.5 + 8


def test_twins_are_named_at_chance() -> None:
    canaries, rates, inside = plan(), [], 0
    for seed in range(40):
        tokens = table(canaries, SOMETIMES, 0.1, seed=seed)
        row = one(clients.source_inference(tokens, canaries, SOMETIMES), copies=0)
        rates.append(row["rate"])
        inside += row["low"] <= 1 / 3 <= row["high"]
    assert sum(rates) / 40 == pytest.approx(1 / 3, abs=0.06) and inside >= 34


def truth() -> tuple[dict[str, Owned], dict[Key, Outcome]]:
    """Two rounds; b's prompts get one of a's two notes, nothing gets twins; c holds a copy of a's.

    Behind their own true text a's notes come out in round 2, b's in none.
    """
    notes = [owned("a0", "a", 1), owned("a1", "a", 10), owned("b0", "b", 1)]
    notes += [owned("t0", "a", 0), owned("t1", "b", 0)]
    notes += [Owned("both", "p-both", ("a", "c"), 4, False, 21, 90, 3)]
    canaries = {note.id: note for note in notes}
    found = {}
    for round_ in (1, 2):
        for note in notes:
            out = round_ == 2 and "a" in note.owners and not note.twin
            key = Key(round_, "global", EVERY, "true_prefix", note.id)
            found[key] = Outcome(phi={0: out}, longest=30 if out else 2, tokens=20, queries=1)
            for attacker in CLIENTS:
                hit = (attacker, note.id, round_) == ("b", "a1", 2)
                key = Key(round_, "global", attacker, "own_prefix", note.id)
                found[key] = Outcome(phi={0: hit}, queries=3)
    return canaries, found


def test_matrices_inter_intra_and_union() -> None:
    canaries, outcomes = truth()
    rounds = {1: list(CLIENTS), 2: list(CLIENTS)}
    found = passes(outcomes, canaries, rounds)
    pairs, _ = matrix(outcomes, canaries, rounds, CLIENTS, CLIENTS, 10)
    rows = clients.memorization(found, pairs, canaries, 10)
    assert {row["round"] for row in rows} == {2}
    inter = one(rows, kind="inter", attacker="b", victim="a", attack="phi", copies=None)
    assert (inter["k"], inter["n"]) == (1, 2)  # the note that c holds too is nobody's alone
    other = one(rows, kind="inter", attacker="c", victim="a", attack="phi", copies=None)
    assert (other["k"], other["n"]) == (0, 2)
    control = one(rows, kind="inter", attacker="b", victim="a", attack="phi", copies=0)
    assert (control["k"], control["n"]) == (0, 1)
    union = one(rows, kind="union", victim="a", attack="phi", copies=None)
    assert (union["k"], union["n"], union["attacker"]) == (1, 2, "any")
    intra = one(rows, kind="intra", victim="a", attack="phi", copies=None)
    assert (intra["k"], intra["n"], intra["attacker"]) == (2, 2, "a")
    assert one(rows, kind="intra", victim="b", attack="phi", copies=None)["k"] == 0
    assert one(rows, kind="intra", victim="a", attack="phi", copies=0)["k"] == 0
    total = one(rows, kind="total", victim="a", attack="phi", copies=None)
    assert (total["k"], total["n"], total["attacker"]) == (2, 2, "any")


def test_the_unit_is_the_victims_note_and_not_the_attackers_prompt() -> None:
    """Of b's 3 prompts one brings out a1, and one more by itself what a's own beginnings do not."""
    canaries, outcomes = truth()
    key = Key(2, "global", "b", "own_prefix", "a0")
    outcomes[key] = Outcome(phi={0: True}, queries=3)  # by the same prompt as a1, or another
    outcomes[Key(2, "global", EVERY, "true_prefix", "a0")] = Outcome(phi={0: False}, queries=1)
    rounds = {1: list(CLIENTS), 2: list(CLIENTS)}
    found = passes(outcomes, canaries, rounds)
    pairs, _ = matrix(outcomes, canaries, rounds, CLIENTS, CLIENTS, 10)
    rows = clients.memorization(found, pairs, canaries, 10)
    kinds = {
        kind: one(rows, kind=kind, victim="a", attack="phi", copies=None)
        for kind in ("intra", "union", "total")
    }
    kinds["inter"] = one(rows, kind="inter", attacker="b", victim="a", attack="phi", copies=None)
    assert {kind: (row["k"], row["n"]) for kind, row in kinds.items()} == {
        "inter": (2, 2),  # not 1 or 2 of 3 prompts
        "intra": (1, 2),
        "union": (2, 2),
        "total": (2, 2),
    }


def test_leakage_by_rounds_taken_part_in() -> None:
    canaries, outcomes = truth()
    rounds = {1: ["a", "b"], 2: ["a", "c"]}
    rows = clients.exposures(passes(outcomes, canaries, rounds), canaries, rounds, 10)
    last = [row for row in rows if row["round"] == 2 and row["attack"] == "phi"]
    assert {(r["copies"], r["rounds_in"], r["exposures"], r["k"], r["n"]) for r in last} == {
        (1, 2, 2, 1, 1),  # a0
        (10, 2, 20, 1, 1),  # a1
        (1, 1, 1, 0, 1),  # b0
        (0, 2, 0, 0, 1),
        (0, 1, 0, 0, 1),
    }
    first = [row for row in rows if row["round"] == 1 and row["attack"] == "window"]
    assert {row["rounds_in"] for row in first} == {1} and not any(row["k"] for row in first)
