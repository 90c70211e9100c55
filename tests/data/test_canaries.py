from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmem.config.data import Canaries, Level
from fedmem.data.canaries import Drawn, by_bytes, draw, draw_whole, grams, overlap, plan, split
from fedmem.data.records import Note, PhiSpan
from fedmem.data.windows import window
from fedmem.errors import DataError


def note(number, *, patient=None, name=None, body=None, kind=("NAME", "PATIENT")):
    """A note of words of its own, unless told otherwise, with one tagged value."""
    name = name or f"Name{number}"
    body = body or " ".join(f"w{number}x{i}" for i in range(20))
    spans = (PhiSpan(0, len(name), *kind),)
    return Note(f"n{number:03d}", patient or f"p{number}", f"{name} {body}", spans)


@pytest.fixture(scope="session")
def prepare(coder):
    return lambda item, index: Drawn(item, window(coder, item, 400, "error"))


def levels(*pairs, twins=0, placement="one_owner"):
    return Canaries(
        levels=[Level(copies=c, notes=n) for c, n in pairs], twins=twins, placement=placement
    )


def planned(config, prepare, shard_bytes, seed=0):
    need = sum(level.notes for level in config.levels) + config.twins
    drawn, _ = draw([note(i) for i in range(need)], need, seed, prepare)
    return plan(config, drawn, shard_bytes, seed)


def test_the_draw_hangs_on_the_seed_and_not_on_the_files_order(prepare):
    notes = [note(i) for i in range(20)]

    def ids(notes, seed):
        return [item.note.id for item in draw(notes, 8, seed, prepare)[0]]

    assert ids(notes, 0) == ids(notes[::-1], 0)
    assert ids(notes, 0) != ids(notes, 1)
    assert len(set(ids(notes, 0))) == 8


def test_no_two_notes_share_patient_value_or_text(prepare):
    body = " ".join(f"word{i}" for i in range(20))
    notes = [
        note(0, patient="same"),
        note(1, patient="same"),
        note(2, name="Ann  Lee"),
        note(3, name="ann lee"),
        note(4, body=body),
        note(5, body=body),
        note(6),
    ]
    drawn, left_out = draw(notes, 4, 0, prepare)
    assert left_out["same_patient"] <= 1
    with pytest.raises(DataError) as caught:
        draw(notes, 5, 0, prepare)
    assert str(caught.value) == (
        "data.canaries: levels and twins need 5 notes; of the 7 there are, 4 can be used (left "
        "out: 1 near_duplicate, 1 same_patient, 1 shared_value); lower levels or twins, or give "
        "more notes"
    )
    assert len({item.note.patient for item in drawn}) == 4


@pytest.mark.parametrize("kind", [("LOCATION", "STATE"), ("DATE", "DATE"), ("AGE", "AGE")])
def test_values_that_point_to_nobody_may_be_shared(prepare, kind):
    notes = [note(i, name="Texas", kind=kind) for i in range(3)]
    assert len(draw(notes, 3, 0, prepare)[0]) == 3


def test_notes_that_do_not_fit_are_left_out(prepare):
    with pytest.raises(DataError, match=r"0 can be used .left out: 2 too_long"):
        draw([note(0), note(1)], 1, 0, lambda item, index: None)


def test_the_index_given_to_prepare_is_that_of_the_drawn(prepare):
    seen = []

    def indexed(item, index):
        seen.append(index)
        return prepare(item, index) if len(seen) != 2 else None

    draw([note(i) for i in range(5)], 3, 0, indexed)
    assert seen == [0, 1, 1, 2]


def test_overlap_counts_eight_words():
    words = [f"w{i}" for i in range(30)]
    a, b = grams(" ".join(words)), grams(" ".join(words[15:] + ["z"] * 15))
    assert len(a) == 23
    assert overlap(a, a) == 1
    # 8 of the runs of eight words lie within the 15 words shared
    assert len(a & b) == 8
    assert overlap(a, b) == 8 / len(b)
    assert overlap(grams("one two"), grams("One, two!")) == 1
    assert overlap(grams("one"), grams("two")) == 0


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
    st.integers(0, 7),
    st.integers(1, 4),
    st.integers(0, 99),
)
def test_one_owner_is_balanced_and_writes_every_copy_once(prepare, notes, twins, clients, seed):
    config = levels(*((i + 1, n) for i, n in enumerate(notes)), twins=twins)
    canaries = planned(config, prepare, {f"c{i}": i for i in range(clients)}, seed)
    assert len({canary.id for canary in canaries}) == len(canaries)
    groups = Counter(canary.copies for canary in canaries)
    assert groups == Counter(
        {i + 1: n for i, n in enumerate(notes)} | ({0: twins} if twins else {})
    )
    for copies in groups:
        owned = Counter(
            owner for canary in canaries if canary.copies == copies for owner in canary.owners
        )
        counts = [owned[f"c{i}"] for i in range(clients)]
        assert max(counts) - min(counts) <= 1
    for canary in canaries:
        assert list(canary.owners.values()) == [canary.copies]
        assert canary.twin == (canary.copies == 0)


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=12),
    st.lists(st.integers(0, 10**6), min_size=1, max_size=5),
    st.integers(0, 99),
)
def test_by_bytes_writes_every_copy_once_in_proportion(copies, weights, seed):
    shard_bytes = {f"c{i}": weight for i, weight in enumerate(weights)}
    owners = by_bytes(copies, shard_bytes, list(shard_bytes), seed)
    assert [sum(owner.values()) for owner in owners] == copies
    assert all(count > 0 for owner in owners for count in owner.values())
    if sum(weights):
        for client, weight in shard_bytes.items():
            held = sum(owner.get(client, 0) for owner in owners)
            assert abs(held - sum(copies) * weight / sum(weights)) < 1


def test_by_bytes_puts_copies_of_a_note_at_several_clients(prepare):
    config = levels((10, 6), twins=3, placement="by_bytes")
    canaries = planned(config, prepare, {"a": 100, "b": 100, "c": 200})
    written = [canary for canary in canaries if not canary.twin]
    assert all(len(canary.owners) > 1 for canary in written)
    assert sum(canary.owners.get("c", 0) for canary in written) == 30
    twins = [canary for canary in canaries if canary.twin]
    assert sorted(owner for twin in twins for owner in twin.owners) == ["a", "b", "c"]


@given(st.integers(0, 1000), st.lists(st.integers(0, 50), min_size=1, max_size=6))
def test_split_is_whole(total, weights):
    parts = split(total, weights)
    assert sum(parts) == total
    assert all(part >= 0 for part in parts)


def test_roles_are_drawn_anew_by_seed(prepare):
    config = levels((1, 3), (10, 3), twins=3)
    roles = [
        [canary.id for canary in planned(config, prepare, {"a": 1, "b": 1}, seed)]
        for seed in (0, 0, 1)
    ]
    assert roles[0] == roles[1] != roles[2]


def test_where_notes_may_share_patients_twins_are_whole_patients(prepare):
    notes = [note(i, patient=f"p{i // 4}", name="Same Name") for i in range(40)]
    config = levels((1, 20), (10, 8), twins=6).model_copy(update={"disjoint": False})
    drawn, left_out = draw_whole(notes, config, 0, prepare)
    made = plan(config, drawn, {"a": 10, "b": 20}, 0)
    held = {canary.patient for canary in made if not canary.twin}
    assert [sum(c.copies == n for c in made) for n in (0, 1, 10)] == [6, 20, 8]
    assert held.isdisjoint(canary.patient for canary in made if canary.twin)
    assert left_out["same_patient"] == 2  # of the second patient's four
    again, _ = draw_whole(notes[::-1], config, 0, prepare)
    assert [item.note.id for item in again] == [item.note.id for item in drawn]
    with pytest.raises(DataError, match=r"levels need 33 notes and twins 6; .* there are 32"):
        draw_whole(notes, levels((1, 33), twins=6), 0, prepare)
