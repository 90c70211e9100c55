from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from fedmem.config import Config
from fedmem.config.data import Split
from fedmem.data.cache import Cache
from fedmem.data.corpus import open_all, question_key
from fedmem.data.partition import deal, divide, held_out, spread
from fedmem.data.shards import shuffled
from fedmem.errors import DataError

HOSPITALS = [f"hospital-{i % 9 if i % 3 else 0}" for i in range(90)]


def cards(count, start=0):
    return [
        {"input": f"What is {i}?", "output": f"It is {i}."} for i in range(start, start + count)
    ]


def config(root, files, split=None, source=None, **data):
    clients = [
        {
            "name": f"c{i}",
            "source": {
                "kind": "jsonl",
                "path": path,
                "adapter": "medical_meadow",
                **(source or {}),
            },
            "split": split,
        }
        for i, path in enumerate(files)
    ]
    return Config.model_validate({"data": {"root": str(root), "clients": clients, **data}})


def held(made, only=None):
    """Client -> its holding."""
    root = made.data.root
    corpora = open_all(made, Cache(root and root / "cache", lambda text: None), only)
    return divide(made, corpora)


def records(holding, side):
    every = list(holding.corpus.records())
    return [every[place] for place in side]


def ids(holding, side):
    return [holding.corpus.record_id(record.id) for record in records(holding, side)]


# --- held out -----------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=60), st.floats(0.01, 0.99))
def test_a_unit_is_never_on_both_sides(units, share):
    units = np.array(units * 2, dtype=np.uint64)
    out = held_out(units, share)
    assert not set(units[out].tolist()) & set(units[~out].tolist())
    different = len(np.unique(units))
    assert len(np.unique(units[out])) == min(-int(-share * different // 1), different - 1)


def test_the_same_question_is_held_out_with_all_its_spellings(tmp_path, write_jsonl):
    rows = [
        {"input": f"What  IS {i // 2}?" if i % 2 else f"what is {i // 2}?", "output": f"{i}"}
        for i in range(60)
    ]
    write_jsonl("a.jsonl", rows)
    own = held(config(tmp_path, ["a.jsonl"], validation=0.2))["c0"]
    train, out = ({question_key(r) for r in records(own, s)} for s in (own.train, own.heldout))
    assert len(own.train) + len(own.heldout) == 60
    assert (len(train), len(out)) == (24, 6)
    assert not train & out


def test_what_is_held_out_does_not_hang_on_the_order(tmp_path, write_jsonl):
    rows = [{"id": f"{i}"} | row for i, row in enumerate(cards(50))]
    write_jsonl("a.jsonl", rows)
    write_jsonl("b.jsonl", rows[::-1])

    def out(file, seed):
        made = config(tmp_path, [file], validation=0.2).model_copy(update={"seed": seed})
        own = held(made)["c0"]
        return {record.id for record in records(own, own.heldout)}

    assert out("a.jsonl", 1) == out("b.jsonl", 1) != out("a.jsonl", 2)


def test_whole_patients_are_held_out(tmp_path, write_jsonl):
    rows = [row | {"patient": f"p{i % 13}"} for i, row in enumerate(cards(90))]
    write_jsonl("a.jsonl", rows)
    made = config(tmp_path, ["a.jsonl"] * 2, source={"patient": "patient"}, validation=0.2)
    train, out = set(), set()
    for own in held(made).values():
        train |= {record.patient for record in records(own, own.train)}
        out |= {record.patient for record in records(own, own.heldout)}
    assert (len(train), len(out)) == (10, 3)
    assert not train & out


# --- dealing ------------------------------------------------------------------------------------


def test_clients_of_one_file_share_it_out(tmp_path, write_jsonl):
    write_jsonl("a.jsonl", cards(50))
    write_jsonl("b.jsonl", cards(10, start=100))
    holdings = held(config(tmp_path, ["a.jsonl", "b.jsonl", "a.jsonl"]))
    assert list(holdings) == ["c0", "c1", "c2"]
    assert [len(one.train) for one in holdings.values()] == [23, 9, 22]
    assert [len(one.heldout) for one in holdings.values()] == [3, 1, 2]
    shared = Counter(
        id for name in ("c0", "c2") for id in ids(holdings[name], holdings[name].train)
    )
    assert max(shared.values()) == 1


def test_an_iid_split_is_what_clients_of_one_file_have_always_had(tmp_path, write_jsonl):
    write_jsonl("a.jsonl", cards(50))
    plain = held(config(tmp_path, ["a.jsonl"] * 4))
    split = held(config(tmp_path, ["a.jsonl"], split={"kind": "iid", "clients": 4}))
    assert list(split) == ["c0-1", "c0-2", "c0-3", "c0-4"]
    for one, other in zip(plain.values(), split.values(), strict=True):
        assert one.train.tolist() == other.train.tolist()
        assert one.heldout.tolist() == other.heldout.tolist()


SPLITS = st.one_of(
    st.fixed_dictionaries({"kind": st.just("iid"), "clients": st.integers(1, 6)}),
    st.fixed_dictionaries(
        {"kind": st.just("size"), "shares": st.lists(st.floats(0.2, 5), min_size=1, max_size=6)}
    ),
    st.fixed_dictionaries(
        {"kind": st.just("natural"), "clients": st.integers(1, 6), "column": st.just("x")}
    ),
    st.fixed_dictionaries(
        {
            "kind": st.just("dirichlet"),
            "clients": st.integers(1, 6),
            "column": st.just("x"),
            "alpha": st.sampled_from([0.05, 1.0, 100.0]),
        }
    ),
)


@given(
    SPLITS, st.lists(st.integers(0, 12), min_size=1, max_size=120), st.integers(0, 99), st.data()
)
def test_every_record_lands_at_exactly_one_client(tree, groups, seed, data):
    split = TypeAdapter(Split).validate_python(tree)
    groups = np.array(groups, dtype=np.uint64)
    cut = data.draw(st.integers(0, len(groups)))
    order = shuffled(len(groups), f"{seed}")
    train, heldout = order[cut:], np.sort(order[:cut])
    try:
        owners, out = deal(split, groups, train, heldout, f"{seed}")
    except DataError as error:
        few = {"iid": len(train), "natural": len(np.unique(groups[train]))}
        assert few.get(split.kind, 0) < split.clients, error
        return
    # one client a record makes them disjoint and complete
    assert (owners.shape, out.shape) == (train.shape, heldout.shape)
    assert set(owners.tolist()) | set(out.tolist()) <= set(range(split.clients))
    if split.kind != "iid" or len(train) >= split.clients:
        assert set(owners.tolist()) == set(range(split.clients))
    again = deal(split, groups, train, heldout, f"{seed}")
    assert [side.tolist() for side in again] == [owners.tolist(), out.tolist()]
    if split.kind == "size":
        sizes = np.bincount(owners, minlength=split.clients)
        wanted = np.array(split.shares) / sum(split.shares) * len(train)
        assert np.all(np.abs(sizes - wanted) <= 1)
    if split.kind == "natural":
        at = {}
        for value, owner in zip([*groups[train], *groups[heldout]], [*owners, *out], strict=True):
            assert at.setdefault(value, owner) == owner


def dealt(alpha, seed="7"):
    """Records of each of 10 values (rows, 200 a value) at each of 5 clients."""
    groups = np.repeat(np.arange(10, dtype=np.uint64), 200)
    split = TypeAdapter(Split).validate_python(
        {"kind": "dirichlet", "clients": 5, "column": "x", "alpha": alpha}
    )
    train = shuffled(2000, seed)
    owners, _ = deal(split, groups, train, np.empty(0, np.int64), seed)
    table = np.zeros((10, 5), int)
    np.add.at(table, (groups[train].astype(int), owners), 1)
    return table


def test_dirichlet_is_even_for_large_alpha_and_skewed_for_small():
    even, middle, skewed = dealt(1e4), dealt(1.0), dealt(0.05)
    assert np.abs(even - 40).max() <= 4
    largest = [table.max(axis=1).mean() / 200 for table in (even, middle, skewed)]
    assert largest[0] < 0.22 < 0.3 < largest[1] < 0.7 < 0.8 < largest[2]
    # E[share^2] of Dirichlet(a, ..., a) over k clients is (a + 1) / (k (k a + 1))
    second = np.mean([(dealt(1.0, f"{n}") / 200) ** 2 for n in range(40)])
    assert second == pytest.approx(2 / 30, rel=0.1)


def test_dirichlet_favours_no_client_where_every_value_is_rare():
    groups = np.arange(3000, dtype=np.uint64)
    split = TypeAdapter(Split).validate_python(
        {"kind": "dirichlet", "clients": 3, "column": "x", "alpha": 5.0}
    )
    owners, _ = deal(split, groups, shuffled(3000, "s"), np.empty(0, np.int64), "s")
    assert np.abs(np.bincount(owners) - 1000).max() < 100


def test_hospitals_stand_whole_and_balanced(tmp_path, write_jsonl):
    rows = [row | {"h": h} for row, h in zip(cards(90), HOSPITALS, strict=True)]
    write_jsonl("a.jsonl", rows)
    split = {"kind": "natural", "clients": 3, "column": "h"}
    holdings = held(config(tmp_path, ["a.jsonl"], split=split))
    places = {}
    for name, own in holdings.items():
        for place in [*own.train, *own.heldout]:
            places.setdefault(HOSPITALS[place], set()).add(name)
    assert all(len(names) == 1 for names in places.values())
    sizes = sorted(len(own.train) for own in holdings.values())
    assert sum(sizes) == 81
    # the largest hospital has a third of the records; the others are spread over the other two
    assert sizes[1] - sizes[0] <= 10

    with pytest.raises(
        DataError, match=r"a.jsonl: .* natural .c0-1, c0-2, c0-3, and 7 more.: .* 7 "
    ):
        held(config(tmp_path, ["a.jsonl"], split=split | {"clients": 10}))


def test_a_patient_whose_every_record_is_held_out_has_a_client_too(tmp_path, write_jsonl):
    rows = [row | {"p": f"p{i % 10}"} for i, row in enumerate(cards(60))]
    write_jsonl("a.jsonl", rows)
    split = {"kind": "natural", "clients": 4, "column": "p"}
    made = config(tmp_path, ["a.jsonl"], split=split, source={"patient": "p"}, validation=0.3)
    holdings = held(made)
    assert sum(len(own.train) for own in holdings.values()) == 42
    assert sorted(len(own.heldout) for own in holdings.values()) == [0, 6, 6, 6]


def test_a_column_that_is_not_there(tmp_path, write_jsonl):
    write_jsonl("a.jsonl", cards(9))
    split = {"kind": "natural", "clients": 2, "column": "ward"}
    with pytest.raises(DataError, match=r"a.jsonl:1: the column 'ward' is missing"):
        held(config(tmp_path, ["a.jsonl"], split=split))


def test_no_draw_gives_every_client_a_record(tmp_path, write_jsonl):
    write_jsonl("a.jsonl", [row | {"label": "x"} for row in cards(40)])
    split = {"kind": "dirichlet", "clients": 20, "column": "label", "alpha": 0.01}
    with pytest.raises(DataError, match=r"a.jsonl: data.clients split dirichlet .*raise alpha"):
        held(config(tmp_path, ["a.jsonl"], split=split))
    split = {"kind": "size", "shares": [1, 1e-6]}
    with pytest.raises(DataError, match=r"split size .c0-1, c0-2.: a client gets no record"):
        held(config(tmp_path, ["a.jsonl"], split=split))


def test_more_clients_than_records(tmp_path, write_jsonl):
    write_jsonl("a.jsonl", cards(3))
    with pytest.raises(
        DataError, match=r"a.jsonl: 2 records to train on for 3 clients .c0, c1, c2"
    ):
        held(config(tmp_path, ["a.jsonl"] * 3))
    with pytest.raises(DataError, match=r"2 records to train on for 5 clients .*and 2 more"):
        held(config(tmp_path, ["a.jsonl"], split={"kind": "iid", "clients": 5}))


def test_the_smaller_cap_holds(tmp_path, write_jsonl):
    write_jsonl("a.jsonl", cards(50))
    made = config(tmp_path, ["a.jsonl"], max_records=7)
    assert len(held(made)["c0"].train) == 7
    client = made.data.clients[0].model_copy(update={"max_records": 4})
    data = made.data.model_copy(update={"clients": [client]})
    assert len(held(made.model_copy(update={"data": data}))["c0"].train) == 4


# --- what is left to ask ------------------------------------------------------------------------


def test_a_held_out_question_that_another_client_trains_on_is_dropped(tmp_path, write_jsonl):
    rows = [{"id": f"{i}"} | row for i, row in enumerate(cards(20))]
    write_jsonl("a.jsonl", rows)
    own = held(config(tmp_path, ["a.jsonl"], validation=0.4))["c0"]
    assert len(own.heldout) == 8
    # the other client has nothing but these, and trains on most of them
    write_jsonl("b.jsonl", [rows[place] for place in own.heldout])
    holdings = held(config(tmp_path, ["a.jsonl", "b.jsonl"], validation=0.4))
    trained = {question_key(r) for one in holdings.values() for r in records(one, one.train)}
    left = [question_key(r) for one in holdings.values() for r in records(one, one.heldout)]
    assert not trained & set(left)
    assert len(left) == len(set(left)) == 4
    assert [len(one.train) for one in holdings.values()] == [12, 4]
    assert [one.counts["heldout_seen"] for one in holdings.values()] == [4, 0]


def test_bad_rows_are_counted_at_the_first_client_of_a_file(tmp_path, write_jsonl):
    write_jsonl("a.jsonl", [*cards(10), "broken"])
    made = config(tmp_path, ["a.jsonl", "a.jsonl"], on_bad_row="skip")
    for _ in range(2):  # from the cache too
        assert [one.counts["bad_rows"] for one in held(made).values()] == [1, 0]


@given(st.lists(st.sampled_from("abc"), max_size=40), st.integers(1, 30), st.integers(0, 9))
def test_spread_is_as_even_as_the_tasks_allow(tasks, limit, seed):
    chosen = spread(tasks, limit, seed)
    assert len(chosen) == len(set(chosen)) == min(limit, len(tasks))
    there, taken = Counter(tasks), Counter(tasks[i] for i in chosen)
    for task in there:
        # a task falls behind another only where it has no more
        assert taken[task] == there[task] or taken[task] >= max(taken.values()) - 1


def test_what_two_synthetic_clients_hold_out_counts_once():
    source = {"kind": "synthetic", "adapter": "mcq", "records": 12}
    clients = [{"name": name, "source": source} for name in ("a", "b")]
    holdings = held(Config.model_validate({"data": {"clients": clients}}))
    asked = Counter(question_key(r) for one in holdings.values() for r in records(one, one.heldout))
    assert asked
    assert max(asked.values()) == 1
    trained = {question_key(r) for one in holdings.values() for r in records(one, one.train)}
    assert not asked.keys() & trained


def test_ids_name_the_file(tmp_path, write_jsonl):
    write_jsonl("a.jsonl", cards(4))
    own = held(config(tmp_path, ["a.jsonl"]))["c0"]
    assert {*ids(own, own.train), *ids(own, own.heldout)} == {
        f"a.jsonl:line-{i}" for i in range(1, 5)
    }
