from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmem.config import Config
from fedmem.data import prompts
from fedmem.data.partition import client_records, hold_out, question_key, spread
from fedmem.errors import DataError


def cards(count, start=0):
    return [
        {"input": f"What is {i}?", "output": f"It is {i}."} for i in range(start, start + count)
    ]


def config(root, files, **data):
    clients = [
        {"name": f"c{i}", "source": {"kind": "jsonl", "path": path, "adapter": "medical_meadow"}}
        for i, path in enumerate(files)
    ]
    return Config.model_validate({"data": {"root": str(root), "clients": clients, **data}})


@given(st.lists(st.integers(0, 30), min_size=1, max_size=60), st.floats(0.01, 0.99), st.integers(0))
def test_a_question_is_never_on_both_sides(numbers, share, seed):
    seed %= 2**31
    records = [
        prompts.open_question(f"{i}", f"What  IS {n}?" if i % 2 else f"what is {n}?", str(i))
        for i, n in enumerate(numbers)
    ]
    train, heldout = hold_out(records, share, seed)
    assert sorted(r.id for r in train + heldout) == sorted(r.id for r in records)
    sides = [{question_key(r) for r in side} for side in (train, heldout)]
    assert not sides[0] & sides[1]
    assert train
    different = len(set(numbers))
    assert len(sides[1]) == min(-int(-share * different // 1), different - 1)


def test_what_is_held_out_does_not_hang_on_the_order(write_jsonl):
    records = [prompts.open_question(f"{i}", f"What is {i}?", "x") for i in range(50)]

    def ids(records, seed):
        return {r.id for r in hold_out(records, 0.2, seed)[1]}

    assert ids(records, 1) == ids(records[::-1], 1) != ids(records, 2)


def test_clients_of_one_file_share_it_out(tmp_path, write_jsonl):
    write_jsonl("a.jsonl", cards(50))
    write_jsonl("b.jsonl", cards(10, start=100))
    records = client_records(config(tmp_path, ["a.jsonl", "b.jsonl", "a.jsonl"]))
    assert list(records) == ["c0", "c1", "c2"]
    assert [len(one.train) for one in records.values()] == [23, 9, 22]
    assert [len(one.heldout) for one in records.values()] == [3, 1, 2]
    ids = Counter(r.id for name in ("c0", "c2") for r in records[name].train)
    assert max(ids.values()) == 1


def test_more_clients_than_records(tmp_path, write_jsonl):
    write_jsonl("a.jsonl", cards(3))
    with pytest.raises(
        DataError, match=r"a.jsonl: 2 records to train on for 3 clients .c0, c1, c2"
    ):
        client_records(config(tmp_path, ["a.jsonl"] * 3))


def test_the_smaller_cap_holds(tmp_path, write_jsonl):
    write_jsonl("a.jsonl", cards(50))
    made = config(tmp_path, ["a.jsonl"], max_records=7)
    assert len(client_records(made)["c0"].train) == 7
    client = made.data.clients[0].model_copy(update={"max_records": 4})
    data = made.data.model_copy(update={"clients": [client]})
    assert len(client_records(made.model_copy(update={"data": data}))["c0"].train) == 4


def test_a_held_out_question_that_another_client_trains_on_is_dropped(tmp_path, write_jsonl):
    rows = [{"id": f"{i}"} | row for i, row in enumerate(cards(20))]
    write_jsonl("a.jsonl", rows)
    held = client_records(config(tmp_path, ["a.jsonl"], validation=0.4))["c0"].heldout
    assert len(held) == 8
    # the other client has nothing but these, and trains on most of them
    write_jsonl("b.jsonl", [rows[int(r.id.removeprefix("a.jsonl:"))] for r in held])
    records = client_records(config(tmp_path, ["a.jsonl", "b.jsonl"], validation=0.4))
    trained = {question_key(r) for one in records.values() for r in one.train}
    left = [question_key(r) for one in records.values() for r in one.heldout]
    assert not trained & set(left)
    assert len(left) == len(set(left)) == 4
    assert [len(one.train) for one in records.values()] == [12, 4]
    assert [one.counts["heldout_seen"] for one in records.values()] == [4, 0]


def test_bad_rows_are_counted_at_the_first_client_of_a_file(tmp_path, write_jsonl):
    write_jsonl("a.jsonl", [*cards(10), "broken"])
    records = client_records(config(tmp_path, ["a.jsonl", "a.jsonl"], on_bad_row="skip"))
    assert [one.counts["bad_rows"] for one in records.values()] == [1, 0]


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
    records = client_records(Config.model_validate({"data": {"clients": clients}}))
    held = Counter(question_key(r) for one in records.values() for r in one.heldout)
    assert held
    assert max(held.values()) == 1
    assert not held.keys() & {question_key(r) for one in records.values() for r in one.train}


def test_ids_name_the_file(tmp_path, write_jsonl):
    write_jsonl("a.jsonl", cards(4))
    records = client_records(config(tmp_path, ["a.jsonl"]))["c0"]
    assert {r.id for r in records.train + records.heldout} == {
        f"a.jsonl:line-{i}" for i in range(1, 5)
    }
