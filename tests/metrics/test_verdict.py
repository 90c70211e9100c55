"""The verdict client by client, counted by hand; intervals, controls, owners, price."""

from __future__ import annotations

import pytest

from fedmem.metrics import plainly, verdict
from fedmem.metrics.intervals import fisher, newcombe, wilson
from fedmem.metrics.leakage import passes
from fedmem.metrics.outcomes import Key, Outcome, Owned

CLIENTS = ("a", "b", "c")
ROUNDS = {1: list(CLIENTS), 2: list(CLIENTS)}


def owned(name, owners, copies, patient=None):
    return Owned(name, patient or f"p-{name}", owners, copies, copies == 0, 101, 400, 2)


def plan(once=40, ten=16, twins=32):
    """b holds 40 notes written once and 16 written ten times; a and c two each; twins of all."""
    notes = [owned(f"b1-{n:02d}", ("b",), 1) for n in range(once)]
    notes += [owned(f"b10-{n:02d}", ("b",), 10) for n in range(ten)]
    notes += [owned(f"{c}10-{n}", (c,), 10) for c in "ac" for n in range(2)]
    notes += [owned(f"t-{n:02d}", (CLIENTS[n % 3],), 0) for n in range(twins)]
    return {note.id: note for note in notes}


def outcomes(canaries, hits, own=(), rounds=(0, 1, 2)):
    """hits: (round, canary) that come out behind the true text; own: (round, attacker, canary)."""
    found = {}
    for round_ in rounds:
        for name, canary in canaries.items():
            out = (round_, name) in hits
            one = Outcome(exact={10: out}, phi={0: out, 1: False}, tokens=100, queries=1)
            one.longest = 60 if out else 3
            found[Key(round_, "global", "*", "true_prefix", name)] = one
            for client in CLIENTS:
                if client not in canary.owners:
                    hit = (round_, client, name) in own
                    key = Key(round_, "global", client, "own_prefix", name)
                    found[key] = Outcome(phi={0: hit, 1: False}, queries=10)
    return found


def rows_of(canaries, hits=(), own=(), **more):
    return verdict.rows(
        passes(outcomes(canaries, hits, own), canaries, ROUNDS), canaries, 50, **more
    )


def rate(rows, **same):
    same = {"figure": "rate", "over": "last", "attack": "phi", "knowledge": "true_prefix"} | same
    (row,) = [row for row in rows if all(row.get(key) == value for key, value in same.items())]
    return row


FIVE = {(2, f"b10-{n:02d}") for n in range(5)}


def test_the_issue_s_own_sentence():
    rows = rows_of(plan(), FIVE)
    once, ten = rate(rows, owners=["b"], copies=1), rate(rows, owners=["b"], copies=10)
    assert (once["k"], once["n"], ten["k"], ten["n"]) == (0, 40, 5, 16)
    assert (ten["twins"]["k"], ten["twins"]["n"], ten["base"]["k"]) == (0, 32, 0)
    assert ten["clear"] and not once["clear"] and ten["level"] == 0.95
    assert (ten["low"], ten["high"]) == (wilson(5, 16).low, wilson(5, 16).high)
    said = plainly.sentences(rows, 50)
    (text,) = [
        row["text"]
        for row in said
        if (row["owners"], row["knowledge"], row["attack"]) == (["b"], "true_prefix", "exact")
    ]
    assert text == (
        "Of b's 40 notes written once 0 gave back the next 50 tokens exactly, 95 % interval 0–9 %; "
        "of its 16 written 10 times, 5, 14–56 %; twins 0 of 32, 0–11 %. "
        "The first came out in round 2. Clear of the twins' level: those written 10 times."
    )


def test_any_round_holds_the_last_and_says_when_first():
    rows = rows_of(plan(), {(1, "b10-00"), (2, "b10-01"), (1, "b10-02"), (2, "b10-02")})
    assert rate(rows, owners=["b"], copies=10)["k"] == 2
    assert rate(rows, owners=["b"], copies=10, over="any")["k"] == 3
    first = {
        r["canary"]: r["round"] for r in rows if r["figure"] == "first" and r["attack"] == "phi"
    }
    assert first == {"b10-00": 1, "b10-01": 2, "b10-02": 1}


def test_the_best_of_several_clients_pays_for_the_choice():
    own = {(2, "c", f"b10-{n:02d}") for n in range(4)} | {(1, "a", "b10-00")}
    rows = rows_of(plan(), own=own)
    best = rate(rows, owners=["b"], copies=10, knowledge="own_prefix")
    assert (best["attacker"], best["k"], best["n"], best["tried"]) == ("c", 4, 16, 2)
    assert best["level"] == pytest.approx(0.975)
    wider = wilson(4, 16, 0.975)
    assert (best["low"], best["high"]) == (wider.low, wider.high)
    assert best["low"] < wilson(4, 16).low
    assert best["twins"]["n"] == 22  # not c's own twins
    texts = [r["text"] for r in plainly.sentences(rows, 50) if r["knowledge"] == "own"]
    assert any(
        "best of 2 ways" in text and "(to c, with only the beginnings" in text for text in texts
    )
    assert any("No other client got PHI out of a's notes itself" in text for text in texts)


def test_owners_of_one_patient_are_all_named_and_nothing_is_attributed():
    canaries = plan()
    canaries["both"] = owned("both", ("a", "c"), 10)
    canaries["x1"] = owned("x1", ("a",), 10, patient="shared")
    canaries["x2"] = owned("x2", ("b",), 1, patient="shared")
    hits = {(2, "both"), (2, "x1"), (2, "x2")}
    rows = rows_of(canaries, hits)
    assert rate(rows, owners=["a"], copies=10)["n"] == 2  # neither `both` nor x1
    joint = rate(rows, owners=["a", "c"], copies=10)
    assert (joint["k"], joint["n"], joint["clear"]) == (1, 1, None)
    assert rate(rows, owners=["a", "b"], copies=10)["k"] == 1
    assert rate(rows, owners=["a", "b"], copies=1)["k"] == 1
    said = [r for r in plainly.sentences(rows, 50) if r["owners"] == ["a", "b"]]
    assert said[0]["clear"] is None
    assert "Which of a and b they came from cannot be told." in said[0]["text"]


def test_without_twins_rates_and_no_claim():
    rows = rows_of(plan(twins=0), FIVE)
    row = rate(rows, owners=["b"], copies=10)
    assert (row["k"], row["twins"], row["difference"], row["clear"]) == (5, None, None, None)
    texts = [one["text"] for one in plainly.sentences(rows, 50) if one["knowledge"] != "own"]
    assert texts and all(text.endswith("rates, and no claim.") for text in texts)


def test_a_few_notes_beside_many_twins_are_no_proof():
    assert newcombe(1, 5, 0, 32).low > 0  # that interval alone would claim a leak
    assert fisher(1, 5, 0, 32) == pytest.approx(5 / 37)
    row = rate(rows_of(plan(ten=5), {(2, "b10-00")}), owners=["b"], copies=10)
    assert (row["k"], row["n"], row["clear"]) == (1, 5, False)


def test_local_models_are_judged_by_the_client_s_own_twins():
    canaries = plan()
    for name in ("t-00", "t-01"):  # of a and b
        hits = {*FIVE, (2, name)}
        row = rate(rows_of(canaries, hits, shared=False), owners=["b"], copies=10)
        assert (row["twins"]["k"], row["twins"]["n"]) == (int(name == "t-01"), 11)


def test_price():
    own = {(1, "a", "b10-00"), (2, "a", "b10-00"), (2, "a", "b10-01"), (2, "a", "t-01")}
    rows = [r for r in rows_of(plan(), own=own) if r["figure"] == "price" and r["attacker"] == "a"]
    (all_,) = [row for row in rows if row["copies"] is None and row["attack"] == "phi"]
    assert (all_["queries"], all_["k"], all_["n"]) == (20, 2, 58)  # b's and c's notes
    assert all_["rate"] == pytest.approx(1000 * 2 / 20)
    assert all_["high"] == pytest.approx(1000 * 58 * wilson(2, 58).high / 20)
    assert all_["twins"]["rate"] == pytest.approx(1000 * 58 * (1 / 21) / 20)
    rows = rows_of(plan(), own=own)
    first = {r["canary"]: r for r in rows if r["figure"] == "first" and not r["twin"]}
    assert (first["b10-00"]["queries"], first["b10-01"]["queries"]) == (10, 20)
    assert first["b10-01"]["attackers"] == ["a"]


def test_the_most_exposed_patients():
    own = {(1, "a", "b10-03")}
    rows = [r for r in rows_of(plan(), FIVE, own) if r["figure"] == "patient"]
    assert rows[0]["patient"] == "p-b10-03" and rows[0]["own"] == 1
    assert (rows[0]["first"], rows[0]["attackers"]) == (1, ["a"])
    assert [row["twin"] for row in rows] == [False] * 5 + [True]
    assert not rows[-1]["leaked"]


def test_fisher_is_the_count_of_all_deals():
    from itertools import combinations

    for k1, n1, k2, n2 in ((2, 3, 1, 5), (0, 3, 2, 4), (3, 3, 0, 4), (1, 4, 1, 4)):
        hits = k1 + k2
        deals = list(combinations(range(n1 + n2), hits))
        share = sum(sum(i < n1 for i in deal) >= k1 for deal in deals) / len(deals)
        assert fisher(k1, n1, k2, n2) == pytest.approx(share)
