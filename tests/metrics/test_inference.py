"""PHI inference, exposure, coverage and near matches, counted by hand from score rows."""

from __future__ import annotations

import math
from typing import Any

import pytest

from fedmem.attacks import rows as score_rows
from fedmem.config import Attack
from fedmem.metrics import approximate, candidates, coverage, exposure
from fedmem.metrics.leakage import passes
from fedmem.metrics.outcomes import Owned, collect
from fedmem.metrics.targets import Target, targets

HEAD = {"model": "global", "view": "client", "attacker": "*", "knowledge": "true_prefix"}
CANARIES = {
    name: Owned(name, name, owners, copies, not copies, 30, 90, 2)
    for name, owners, copies in [
        ("x", ("a",), 4),
        ("y", ("b",), 4),
        ("both", ("a", "b"), 4),
        ("t", ("a",), 0),
        ("u", ("b",), 0),
    ]
}


def phi(name: str, index: int, scores: list[float] | None, **more: Any) -> dict[str, Any]:
    kind = {"category": "DATE" if index else "NAME", "type": "DATE" if index else "PATIENT"}
    place = {"round": 1, "canary": name, "attack": "phi", "target": index, "start": 5 + index}
    given = {"tokens": 2, "hit": False, "candidates": scores, "space": 1000, "queries": 1}
    return HEAD | place | kind | given | more


def secrets(*rows: dict[str, Any]) -> list[Target]:
    return [*targets(score_rows.table(rows), CANARIES)]


def one(rows: list[dict[str, Any]], **same: Any) -> dict[str, Any]:
    (found,) = [row for row in rows if all(row[key] == value for key, value in same.items())]
    return found


def test_rates_by_level_and_category_beside_twins_and_chance() -> None:
    first, third, last = [-1.0, -2, -3, -4], [-3.0, -2, -1, -4], [-9.0, -2, -3, -4]
    of = secrets(
        phi("x", 0, first), phi("x", 1, third), phi("y", 0, first), phi("y", 1, first),
        phi("t", 0, last), phi("t", 1, last), phi("u", 0, first), phi("u", 1, last),
    )  # fmt: skip
    rows = candidates.rows(of, CANARIES)
    same = {"score": "likelihood", "top": 1}
    known = one(rows, copies=4, category=None, **same)
    assert (known["k"], known["n"], known["notes"]) == (3, 4, 2)
    assert known["chance"] == 0.25 and known["candidates"] == 3
    assert known["twins"]["k"] == 1 and known["twins"]["n"] == 4
    assert known["clear"] is False  # two notes show nothing
    assert one(rows, copies=4, category="NAME", **same)["k"] == 2
    assert one(rows, copies=4, category="DATE", **same)["k"] == 1
    assert one(rows, copies=4, category=None, score="likelihood", top=5)["chance"] == 1
    assert not [row for row in rows if row["score"] == "reference"]  # round 0 ranked nothing


def test_what_the_base_prefers_is_taken_away_by_the_reference() -> None:
    before, after = [-9.0, -1, -5, -5], [-4.0, -1, -5, -5]
    of = secrets(phi("x", 0, before, round=0), phi("x", 0, after))
    rows = candidates.rows(of, CANARIES)
    assert one(rows, round=1, score="likelihood", category=None, top=1)["k"] == 0
    assert one(rows, round=1, score="reference", category=None, top=1)["k"] == 1
    assert not [row for row in rows if row["round"] == 0 and row["score"] == "reference"]


def test_a_tie_is_no_hit_and_short_or_missing_lists_are_left_out() -> None:
    tie = secrets(phi("x", 0, [-1.0, -1.0, -3.0]))
    assert candidates.rows(tie, CANARIES)[0]["k"] == 0
    assert candidates.rows(secrets(phi("x", 0, [-1.0]), phi("y", 0, None)), CANARIES) == []


def test_exposure_by_rank_and_form() -> None:
    eight = [-float(n) for n in range(1, 9)]
    of = secrets(
        phi("x", 0, [-0.5, *eight]),  # first of 8: 3 bits
        phi("x", 1, [-2.5, *eight]),  # third: 3 - log2 3
        phi("y", 0, [-0.5, *eight], space=9),  # all there are
        phi("t", 0, [-9.0, *eight]),
    )
    rows = exposure.rows(of, CANARIES)
    sampled = one(rows, copies=4, form="sampled")
    assert sampled["bits"] == pytest.approx(3 - math.log2(3) / 2) and sampled["cap"] == 3
    assert sampled["highest"] == 3 and sampled["values"] == 2 and sampled["notes"] == 1
    assert one(rows, copies=4, form="exact")["bits"] == 3
    assert one(rows, copies=0, form="sampled")["bits"] == pytest.approx(3 - math.log2(9))
    assert not [row for row in rows if row["form"] == "skew_normal"]  # 8 are too few
    notes = exposure.notes(of, CANARIES)
    assert (notes[0]["canary"], notes[0]["form"]) == ("y", "exact")
    best = one(notes, canary="x", form="sampled")
    assert best["highest"] == 3 and best["target"] == 0 and best["type"] == "PATIENT"


def test_a_skew_normal_needs_a_known_space() -> None:
    many = [-0.1, *(-5 - n / 10 for n in range(30))]
    known = exposure.values(secrets(phi("x", 0, many)))
    assert [form for *_, form, _, _ in known] == ["sampled", "skew_normal"]
    assert known[1][3] > known[0][3] and known[1][4] == math.log2(1000)
    unknown = exposure.values(secrets(phi("x", 0, many, space=None)))
    assert [form for *_, form, _, _ in unknown] == ["sampled"]


def asked(who: str, name: str, hits: list[bool], queries: int, round_: int) -> list[dict[str, Any]]:
    named = {"attacker": who, "knowledge": "template", "round": round_, "queries": queries}
    return [phi(name, index, None, **named, hit=hit, start=None) for index, hit in enumerate(hits)]


def test_coverage_and_efficiency_of_a_clients_own_queries() -> None:
    rows = [
        *asked("a", "y", [True, False], 50, 1), *asked("a", "u", [False, False], 50, 1),
        *asked("b", "x", [True, True], 100, 1), *asked("b", "t", [False, False], 100, 1),
        *asked("a", "y", [True, True], 50, 2), *asked("a", "u", [False, True], 50, 2),
        *asked("c", "both", [True, True], 10, 2), *asked("c", "x", [False, False], 10, 2),
    ]  # fmt: skip
    scores = collect(score_rows.table(rows), CANARIES, 0.75)
    found = coverage.rows(passes(scores, CANARIES, {1: ["a", "b"], 2: ["a", "c"]}), CANARIES)
    first = one(found, round=1, attacker="any", copies=4)
    assert (first["k"], first["n"], first["queries"]) == (3, 4, 150)
    assert first["per_thousand"] == pytest.approx(1000 * 3 / 150)
    assert first["low"] <= 0.75 <= first["high"]
    assert first["per_thousand_low"] == pytest.approx(first["low"] * 4 * 1000 / 150)
    mine = one(found, round=1, attacker="a", copies=4)
    assert (mine["k"], mine["n"], mine["queries"]) == (1, 2, 50)
    # what two clients hold is nobody's alone; all rounds together count a value once
    assert one(found, round=2, attacker="c", copies=4)["n"] == 2
    whole = one(found, round=None, attacker="any", copies=4)
    assert (whole["k"], whole["n"], whole["queries"]) == (4, 4, 210)
    assert one(found, round=None, attacker="any", copies=0)["k"] == 1


def test_no_query_no_efficiency() -> None:
    rows = asked("c", "x", [False, False], 0, 1)
    scores = collect(score_rows.table(rows), CANARIES, 0.75)
    (found, *_) = coverage.rows(passes(scores, CANARIES, {1: ["c"]}), CANARIES)
    assert found["queries"] == 0 and found["per_thousand"] is None


def test_near_matches_by_measure() -> None:
    def window(name: str, prefix: int, bleu: float | None, edit: float, rouge: float) -> Any:
        near = {"bleu": bleu, "edit": edit, "rouge_l": rouge}
        if bleu is None:
            near = dict.fromkeys(near)
        place = {"round": 1, "canary": name, "attack": "extraction", "target": prefix}
        return HEAD | place | near | {"start": 12, "tokens": 10, "hit": False, "queries": 1}

    table = score_rows.table(
        [
            window("x", 10, None, 0, 0), window("x", 50, 0.8, 0.1, 0.9),
            window("y", 10, 0.6, 0.2, 0.8), window("t", 10, None, 0, 0),
        ]
    )  # fmt: skip
    rows = approximate.rows(table, CANARIES, Attack())
    for measure, hits in {"bleu": 1, "edit": 1, "rouge_l": 2}.items():
        row = one(rows, copies=4, prefix=None, measure=measure)
        assert (row["k"], row["n"]) == (hits, 2) and row["twins"]["k"] == 0
    assert one(rows, copies=4, prefix=10, measure="rouge_l")["k"] == 1
    assert one(rows, copies=4, prefix=50, measure="bleu")["n"] == 1
    assert approximate.rows(table.drop_columns(["rouge_l"]), CANARIES, Attack()) == []
