"""The index: a few numbers a record, on which all is decided."""

import numpy as np
import pytest

from fedmem.config import Config
from fedmem.data import corpus as corpora
from fedmem.data.cache import Cache
from fedmem.data.corpus import BATCH, batches, open_all, told
from fedmem.data.prompts import text


def opened(folder, rows, write_jsonl, **data):
    write_jsonl("a.jsonl", rows)
    source = {"kind": "jsonl", "path": "a.jsonl", "adapter": "medical_meadow", "patient": "who"}
    split = {"kind": "natural", "clients": 2, "column": "ward"}
    clients = [{"name": "a", "source": source, "split": split}]
    made = Config.model_validate({"data": {"root": str(folder), "clients": clients, **data}})
    (one,) = open_all(made, Cache(folder / "cache", lambda line: None))
    return one


def rows(count):
    return [
        {"input": f"What  IS {i % 50}?", "output": f"It is {i}.", "who": f"p{i % 7}", "ward": i % 3}
        for i in range(count)
    ]


def test_equal_things_have_equal_hashes(tmp_path, write_jsonl):
    count = BATCH + 100
    one = opened(tmp_path, rows(count), write_jsonl)
    assert len(one) == count
    distinct = {name: len(np.unique(values)) for name, values in one.index.items()}
    assert distinct["question"] == 50
    assert distinct["pair"] == count
    assert distinct["unit"] == 7
    assert distinct["group"] == 3
    assert one.tasks == ["open"]
    assert one.index["size"].tolist() == [len(text(r).encode()) for r in one.records()]
    bytes_ = sum(values.dtype.itemsize for values in one.index.values())
    assert bytes_ <= 64


def test_hashes_hang_on_the_seed_alone(tmp_path, write_jsonl):
    seeds = [opened(tmp_path, rows(9), write_jsonl).index["question"] for _ in range(2)]
    write_jsonl("a.jsonl", rows(9))
    assert seeds[0].tolist() == seeds[1].tolist()
    config = Config.model_validate(
        {
            "seed": 1,
            "data": {
                "root": str(tmp_path),
                "clients": [
                    {
                        "name": "a",
                        "source": {
                            "kind": "jsonl",
                            "path": "a.jsonl",
                            "adapter": "medical_meadow",
                        },
                    }
                ],
            },
        }
    )
    (other,) = open_all(config, Cache(tmp_path / "cache", lambda line: None))
    assert not set(other.index["question"].tolist()) & set(seeds[0].tolist())


@pytest.mark.parametrize("count", [0, 1, 4, 5])
def test_batches_hold_everything_in_order(count):
    made = list(batches(range(count), 4))
    assert [item for batch in made for item in batch] == list(range(count))
    assert all(len(batch) == 4 for batch in made[:-1])


def test_what_takes_longer_than_two_seconds_is_told(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(corpora.time, "monotonic", lambda: now[0])
    lines = []
    for number in told(range(1500), lines.append, "reading a.jsonl", 1500):
        now[0] = number / 200  # 200 records a second
    assert lines == [f"reading a.jsonl: {n} of 1,500 records" for n in ("500", "1,200")]
    short = []
    list(told(range(50), short.append, "reading a.jsonl"))
    assert short == []
