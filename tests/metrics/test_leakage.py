"""Leakage counted from a table whose truth is known, and the pairs that must not count."""

from dataclasses import replace

import pyarrow as pa
import pytest
from fakerun import CLIENTS, CONTINUATION, SCORES, Truth, canaries, scores

from fedmem.errors import DataError
from fedmem.metrics.intervals import newcombe, wilson
from fedmem.metrics.leakage import losses, note_shares, passes, value_shares, worst
from fedmem.metrics.outcomes import collect, eligible, read_canaries
from fedmem.metrics.pairs import admitted, matrix

EVERYONE = {round_: list(CLIENTS) for round_ in range(1, 6)}
TRUTH = Truth(own=(0, 0, 0, 0, 1, 3))


def load(truth=TRUTH, change=lambda row: [row]):
    """(outcomes, canaries) of the truth; `change` maps a score row to those in its place."""
    owned = read_canaries(pa.Table.from_pylist(canaries(truth)))
    rows = [new for row in scores(truth) for new in change(row)]
    return collect(pa.Table.from_pylist(rows, schema=SCORES), owned, 0.75), owned


@pytest.fixture(scope="module")
def loaded():
    return load()


@pytest.fixture(scope="module")
def shares(loaded):
    return note_shares(passes(*loaded, EVERYONE), loaded[1], CONTINUATION)


def one(rows, **same):
    found = [row for row in rows if all(row[key] == value for key, value in same.items())]
    assert len(found) == 1, found
    return found[0]


@pytest.mark.parametrize("round_", range(6))
def test_every_round_by_hand(shares, round_):
    same = {"round": round_, "copies": 10, "attacker": "*", "prefix": None}
    wanted = {"phi": TRUTH.phi, "window": TRUTH.window, "exact": TRUTH.exact}
    wanted["approximate"] = TRUTH.exact
    for attack, truth in wanted.items():
        row = one(shares, attack=attack, **same)
        interval = wilson(truth[round_], 16)
        assert (row["k"], row["n"]) == (truth[round_], 16)
        assert (row["rate"], row["low"], row["high"]) == (
            interval.point,
            interval.low,
            interval.high,
        )
        twins = TRUTH.twins_phi[round_] if attack == "phi" else 0
        assert (row["twins"]["k"], row["twins"]["n"]) == (twins, 32)
        gap = newcombe(truth[round_], 16, twins, 32)
        assert row["difference"] == {"point": gap.point, "low": gap.low, "high": gap.high}
        assert row["clear"] == (gap.low > 0 if round_ else None)
        assert (row["base"] and row["base"]["k"]) == (0 if round_ else None)


def test_notes_written_once_and_twins_stand_apart(shares):
    same = {"round": 5, "attack": "phi", "attacker": "*", "prefix": None}
    assert (one(shares, copies=1, **same)["k"], one(shares, copies=1, **same)["n"]) == (0, 12)
    twins = one(shares, copies=0, **same)
    assert (twins["k"], twins["n"], twins["twins"], twins["clear"]) == (1, 32, None, None)


def test_prefix_lengths_with_characters(shares):
    same = {"round": 5, "copies": 10, "attack": "exact", "attacker": "*"}
    found = [one(shares, prefix=prefix, **same) for prefix in (10, 50, 100)]
    assert [row["k"] for row in found] == [0, 0, 4]
    assert [row["prefix_tokens"] for row in found] == [10, 50, 100]
    assert [row["prefix_chars"] for row in found] == [23, 115, 230]


def test_a_short_note_cannot_hold_a_window():
    def shorten(row):
        short = row["attack"] == "loss" and row["canary"] == "note-10x-00"
        return [row | {"tokens": 30, "longest": 30}] if short else [row]

    outcomes, owned = load(change=shorten)
    rows = note_shares(passes(outcomes, owned, EVERYONE), owned, CONTINUATION)
    row = one(rows, round=5, copies=10, attack="window", prefix=None)
    assert (row["k"], row["n"]) == (4, 15)


def test_own_prefix_by_client_and_together(shares):
    same = {"round": 5, "copies": 10, "attack": "phi", "knowledge": "own_prefix"}
    # Notes 0, 1, 2 leak; 0 is north's, 1 south's, 2 west's: each client finds the other two.
    found = {client: one(shares, attacker=client, **same) for client in CLIENTS}
    assert {c: (r["k"], r["n"]) for c, r in found.items()} == {
        "north": (2, 10),
        "south": (2, 11),
        "west": (2, 11),
    }
    assert one(shares, attacker="any", **same)["k"] == 3
    # A twin is not tried by its would-be owner: north's 11 of 32 do not count.
    assert found["north"]["twins"]["n"] == 21


def test_values_and_categories(loaded):
    found = passes(*loaded, EVERYONE)
    row = one(value_shares(found, loaded[1]), round=5, copies=10, attacker="*")
    # Notes 0 to 6 give back 1 + n % 3 values: 1 + 2 + 3 + 1 + 2 + 3 + 1.
    assert (row["k"], row["n"], row["notes"]) == (13, 96, 16)
    assert row["low"] < row["rate"] < row["high"] and row["method"] == "wilson, notes as clusters"
    rows = value_shares(found, loaded[1], "category")
    same = {"round": 5, "copies": 10, "attacker": "*"}
    hits = {r["category"]: r["k"] for r in rows if all(r[k] == v for k, v in same.items())}
    assert hits == {"NAME": 7, "AGE": 4, "DATE": 2, "CONTACT": 0, "ID": 0, "LOCATION": 0}
    age = one(rows, category="AGE", **same)
    assert (age["twins"]["k"], age["twins"]["n"], age["base"]["k"]) == (1, 32, 0)
    none = one(rows, category="ID", **same)
    assert none["method"] == "wilson over notes" and none["high"] == wilson(0, 16).high


def test_loss(loaded):
    rows = losses(passes(*loaded, EVERYONE), loaded[1])
    assert one(rows, round=4, copies=10)["nll"] == pytest.approx(0.7)
    assert one(rows, round=0, copies=0)["nll"] == pytest.approx(1.3)


def test_worst_are_ranked(loaded):
    rows = worst(passes(*loaded, EVERYONE), loaded[1], CONTINUATION, top=5)
    assert [row["canary"] for row in rows[:2]] == ["note-10x-02", "note-10x-05"]
    first, twin = rows[0], rows[-1]
    assert (first["phi_hits"], first["longest"], first["matched"]) == ([0, 1, 2], 61, 50)
    assert (first["owners"], first["round"], first["leaked"]) == (["west"], 5, True)
    assert (first["prefix_tokens"], first["prefix_chars"]) == (100, 230)
    assert len(rows) == 6 and twin["canary"] == "twin-00" and twin["phi_types"] == ["AGE"]


def pairs_of(outcomes, owned, participants=EVERYONE, attackers=CLIENTS):
    return matrix(outcomes, owned, participants, CLIENTS, attackers, CONTINUATION)


def test_attacker_by_victim(loaded):
    rows, excluded = pairs_of(*loaded)
    same = {"round": 5, "copies": 10, "attack": "phi", "knowledge": "true_prefix"}
    # Of notes 0..6, north holds 0, 3, 6; south 1, 4; west 2, 5.
    wanted = {"north": (3, 6), "south": (2, 5), "west": (2, 5)}
    for attacker in CLIENTS:
        for victim in CLIENTS:
            if attacker != victim:
                row = one(rows, attacker=attacker, victim=victim, **same)
                assert (row["k"], row["n"]) == wanted[victim]
    assert not any(row["attacker"] == row["victim"] for row in rows)
    own = {**same, "knowledge": "own_prefix", "attacker": "north"}
    assert (one(rows, victim="south", **own)["k"], one(rows, victim="west", **own)["k"]) == (1, 1)
    assert excluded == []
    # The victim's would-be twins are the level of chance: twin 0, north's, gives back its AGE.
    chance = {**same, "copies": 0}
    for attacker, victim, k, n in (("south", "north", 1, 11), ("north", "west", 0, 10)):
        row = one(rows, attacker=attacker, victim=victim, **chance)
        assert (row["k"], row["n"]) == (k, n)


def test_an_absent_client_attacks_nothing(loaded):
    absent = EVERYONE | {5: ["north", "south"]}
    rows, _ = pairs_of(*loaded, participants=absent)
    assert not [row for row in rows if row["round"] == 5 and row["attacker"] == "west"]
    assert [row for row in rows if row["round"] == 5 and row["victim"] == "west"]
    shares = note_shares(passes(*loaded, absent), loaded[1], CONTINUATION)
    assert not [row for row in shares if row["round"] == 5 and row["attacker"] == "west"]
    assert pairs_of(*loaded, attackers=[])[0] == []


def test_pairs_that_do_not_count(loaded):
    _, owned = loaded
    shared = owned["note-10x-01"]
    changed = dict(owned)
    changed[shared.id] = replace(shared, owners=("south", "north"))
    # A note of west's of the same patient as one of south's: west knows the patient.
    changed["note-10x-04"] = replace(owned["note-10x-04"], patient=owned["note-10x-02"].patient)
    assert eligible("north", changed[shared.id], changed) == "holds a copy"
    assert eligible("west", changed["note-10x-04"], changed) == "same patient"
    assert eligible("north", changed["note-10x-04"], changed) is None
    reasons = {
        attacker: {row["reason"]: row["notes"] for row in admitted(attacker, "south", changed)[1]}
        for attacker in ("north", "west")
    }
    assert reasons == {
        "north": {"holds a copy": 1},
        "west": {"another client holds a copy": 1, "same patient": 1},
    }
    twin = owned["twin-00"]
    assert eligible("north", twin, owned) == "would have held a copy"
    assert eligible("south", twin, owned) is None
    notes, _ = admitted("west", "south", changed)
    assert len(notes[10]) == 3 and len(notes[1]) == 4


def test_local_models_are_judged_in_their_owners(loaded):
    def localised(row):
        if row["round"] == 0:
            return [row]
        if row["attacker"] != "*":
            return [row | {"model": row["attacker"]}]
        # Other clients' models give back nothing of the note.
        owners = {c["canary"]: c["owners"] for c in canaries(TRUTH)}
        return [
            row | {"model": c, "hit": row["hit"] and c in owners[row["canary"]]} for c in CLIENTS
        ]

    outcomes, owned = load(change=localised)
    rows = note_shares(passes(outcomes, owned, EVERYONE), owned, CONTINUATION)
    row = one(rows, round=5, copies=10, attack="phi", attacker="*", prefix=None)
    assert (row["k"], row["n"], row["base"]["n"]) == (7, 16, 16)
    cells, _ = pairs_of(outcomes, owned)
    found = [r for r in cells if r["knowledge"] == "true_prefix" and r["attack"] == "phi"]
    assert found and all(r["k"] == 0 for r in found)


def test_columns_as_a_dict_give_the_same():
    table = pa.Table.from_pylist(scores(TRUTH, 1), schema=SCORES)
    owned = read_canaries(pa.Table.from_pylist(canaries(TRUTH)))
    arrays = {name: table.column(name).to_numpy() for name in ("round", "model", "canary")}
    columns = table.to_pydict() | arrays
    assert collect(columns, owned, 0.75) == collect(table, owned, 0.75)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"canary": "nobody"}, "'nobody' is not in the table of canaries"),
        ({"attack": "psychic"}, "no attack is called 'psychic'"),
    ],
)
def test_bad_rows_are_named(change, said):
    owned = read_canaries(pa.Table.from_pylist(canaries(TRUTH)))
    row = scores(TRUTH, 0)[0] | change
    with pytest.raises(DataError, match=said):
        collect(pa.Table.from_pylist([row], schema=SCORES), owned, 0.75)
    with pytest.raises(DataError, match="no column"):
        read_canaries({"canary": []})
