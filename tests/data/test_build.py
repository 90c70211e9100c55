import hashlib
from itertools import chain

import numpy as np
import pytest

from fedmem.config import Config
from fedmem.data.build import build
from fedmem.data.prompts import note_text
from fedmem.errors import ConfigError, DataError

MCQ = [
    {"id": i, "question": f"Which is {i}?", "cop": i % 4} | {f"op{c}": f"{c}{i}" for c in "abcd"}
    for i in range(40)
]
CARDS = [{"input": f"What is {i}?", "output": f"It is {i}."} for i in range(30)]
NOTES = [
    {"id": f"n{i}", "text": " ".join(f"finding {i} {j} seen in round {i + j}." for j in range(9))}
    for i in range(20)
]


@pytest.fixture
def folder(tmp_path, write_jsonl):
    write_jsonl("mcq.jsonl", MCQ)
    write_jsonl("cards.jsonl", CARDS)
    write_jsonl("notes.jsonl", NOTES)
    return tmp_path


def jsonl(path, adapter):
    return {"kind": "jsonl", "path": path, "adapter": adapter}


def config(folder, **sections):
    data = {
        "root": str(folder),
        "clients": [
            {"name": "mcq", "source": jsonl("mcq.jsonl", "medmcqa")},
            {"name": "cards", "source": jsonl("cards.jsonl", "medical_meadow")},
        ],
        "canaries": {
            "source": jsonl("notes.jsonl", "notes"),
            "levels": [{"copies": 1, "notes": 3}, {"copies": 5, "notes": 4}],
            "twins": 6,
        },
        **sections.pop("data", {}),
    }
    sections.setdefault("training", {"max_length": 512})
    return Config.model_validate({"data": data, **sections})


def rows(dataset):
    """Everything a dataset holds, comparable."""
    return {
        name: [(item.ids.tolist(), item.supervised, item.canary) for item in shard.examples]
        for name, shard in dataset.shards.items()
    }


def test_the_same_config_gives_the_same_dataset(folder, tokenizer):
    first, again = (build(config(folder), tokenizer) for _ in range(2))
    assert rows(first) == rows(again)
    assert [c.id for c in first.canaries] == [c.id for c in again.canaries]
    assert [q.id for q in first.heldout] == [q.id for q in again.heldout]
    assert first.stats == again.stats
    assert rows(build(config(folder, seed=1), tokenizer)) != rows(first)


@pytest.mark.parametrize("placement", ["one_owner", "by_bytes"])
def test_every_copy_is_an_example_of_its_own_at_its_owner(folder, tokenizer, placement):
    made = config(folder)
    canaries = made.data.canaries.model_copy(update={"placement": placement})
    made = made.model_copy(update={"data": made.data.model_copy(update={"canaries": canaries})})
    dataset = build(made, tokenizer)
    assert sum(canary.copies for canary in dataset.canaries) == 3 + 20
    assert sum(canary.twin for canary in dataset.canaries) == 6
    for canary in dataset.canaries:
        for name, shard in dataset.shards.items():
            copies = [item for item in shard.examples if item.canary == canary.id]
            assert len(copies) == canary.owners.get(name, 0)
            assert (canary.id in shard.canaries) == bool(copies)
            assert all(np.array_equal(item.ids, canary.ids) for item in copies)
        assert sum(canary.owners.values()) == canary.copies


def test_centralized_holds_the_same_examples_in_one_shard(folder, tokenizer):
    apart = build(config(folder), tokenizer)
    pooled = build(config(folder, rounds={"topology": "centralized"}), tokenizer)
    assert list(pooled.shards) == ["all"]
    assert sorted(rows(pooled)["all"], key=str) == sorted(chain(*rows(apart).values()), key=str)
    assert [c.owners for c in pooled.canaries] == [c.owners for c in apart.canaries]
    assert {name for c in pooled.canaries for name in c.owners} == {"mcq", "cards"}


def test_counts(folder, tokenizer):
    dataset = build(config(folder), tokenizer)
    stats = dataset.stats["clients"]
    assert {name: one["records"] for name, one in stats.items()} == {"mcq": 36, "cards": 27}
    assert sum(one["canary_copies"] for one in stats.values()) == 23
    for name, shard in dataset.shards.items():
        assert stats[name]["examples"] == len(shard.examples)
        assert stats[name]["tokens"] == sum(len(item.ids) for item in shard.examples)
    assert dataset.stats["heldout"] == {"mcq": 4, "open": 3}
    assert dataset.stats["canaries"]["filled"] == 13
    assert dataset.stats["canaries"]["twins"] == 6
    digest = hashlib.sha256((folder / "mcq.jsonl").read_bytes()).hexdigest()
    assert dataset.stats["files"]["mcq.jsonl"] == digest
    assert len(dataset.stats["files"]) == 3


def test_real_notes_are_filled_with_values_of_their_own(folder, tokenizer):
    dataset = build(config(folder), tokenizer)
    names = [span.value for c in dataset.canaries for span in c.phi if span.type == "PATIENT"]
    assert len(set(names)) == len(names) == 13
    assert not dataset.synthetic
    plain = config(folder)
    canaries = plain.data.canaries.model_copy(update={"fill_phi": False})
    plain = plain.model_copy(update={"data": plain.data.model_copy(update={"canaries": canaries})})
    assert all(canary.phi == () for canary in build(plain, tokenizer).canaries)


def test_a_second_build_reads_what_the_first_encoded(folder, tokenizer):
    data = {"cache": str(folder / "cache")}
    made = config(folder, data=data)
    first, again = (build(made, tokenizer) for _ in range(2))
    assert first.encoded == {"mcq": True, "cards": True}
    assert again.encoded == {"mcq": False, "cards": False}
    assert rows(first) == rows(again) == rows(build(config(folder), tokenizer))
    assert [(q.id, q.prompt.tolist()) for q in first.heldout] == [
        (q.id, q.prompt.tolist()) for q in again.heldout
    ]
    assert first.stats == again.stats
    # settings of training, the seed and the clients change nothing about the tokens of records
    training = {"max_length": 100, "packing": True}
    for other in (config(folder, data=data, training=training), config(folder, data=data, seed=3)):
        assert not any(build(other, tokenizer).encoded.values())
    (folder / "mcq.jsonl").write_text((folder / "mcq.jsonl").read_text().replace("Which", "What"))
    changed = build(made, tokenizer)
    assert changed.encoded == {"mcq": True, "cards": False}
    assert rows(changed)["mcq"] != rows(first)["mcq"]


def test_nothing_of_a_note_is_in_the_cache(folder, tokenizer):
    made = config(folder, data={"cache": str(folder / "cache")})
    dataset = build(made, tokenizer)
    held = b"".join(path.read_bytes() for path in (folder / "cache").rglob("*") if path.is_file())
    assert dataset.canaries
    for canary in dataset.canaries:
        inner = canary.ids[5:25]
        for kind in (np.uint16, np.int32):
            assert inner.astype(kind).tobytes() not in held
        assert canary.text[:20].encode() not in held
    # the search would find them: records' tokens are found
    record = next(item for item in dataset.shards["mcq"].examples if item.canary is None)
    assert record.ids[5:15].astype(np.uint16).tobytes() in held


@pytest.mark.parametrize("topology", ["federated", "local"])
def test_one_clients_part_is_what_it_has_in_the_whole(folder, tokenizer, topology):
    made = config(folder, rounds={"topology": topology})
    whole = build(made, tokenizer)
    (folder / "mcq.jsonl").unlink()  # another hospital's records are not on this machine
    part = build(made, tokenizer, "cards")
    assert list(part.shards) == ["cards"]
    assert rows(part)["cards"] == rows(whole)["cards"]
    assert part.shards["cards"].canaries == whole.shards["cards"].canaries
    assert [(c.id, c.owners, c.ids.tolist()) for c in part.canaries] == [
        (c.id, c.owners, c.ids.tolist()) for c in whole.canaries
    ]
    assert list(part.stats["clients"]) == ["cards"]
    assert part.stats["clients"]["cards"] == whole.stats["clients"]["cards"]
    assert set(part.stats["files"]) == {"cards.jsonl", "notes.jsonl"}
    assert {q.id for q in part.heldout} == {q.id for q in whole.heldout if "cards" in q.id}


def test_a_part_of_a_split_is_what_it_has_in_the_whole(folder, tokenizer):
    split = {"kind": "dirichlet", "clients": 3, "column": "cop", "alpha": 1.0}
    clients = [{"name": "site", "source": jsonl("mcq.jsonl", "medmcqa"), "split": split}]
    made = config(folder, data={"clients": clients})
    whole = build(made, tokenizer)
    assert sum(one["records"] for one in whole.stats["clients"].values()) == 36
    assert sum(one["heldout"] for one in whole.stats["clients"].values()) == 4
    part = build(made, tokenizer, "site-2")
    assert rows(part) == {"site-2": rows(whole)["site-2"]}


def test_what_a_part_cannot_have(folder, tokenizer):
    with pytest.raises(ConfigError, match=r"data.clients: no client is called 'nobody'"):
        build(config(folder), tokenizer, "nobody")
    with pytest.raises(ConfigError, match=r"rounds.topology: centralized needs"):
        build(config(folder, rounds={"topology": "centralized"}), tokenizer, "mcq")
    made = config(folder)
    canaries = made.data.canaries.model_copy(update={"placement": "by_bytes"})
    made = made.model_copy(update={"data": made.data.model_copy(update={"canaries": canaries})})
    with pytest.raises(ConfigError, match=r"data.canaries.placement: by_bytes needs"):
        build(made, tokenizer, "mcq")


def test_held_out_questions_are_in_no_shard(folder, tokenizer):
    dataset = build(config(folder), tokenizer)
    trained = [item.ids.tolist() for shard in dataset.shards.values() for item in shard.examples]
    assert dataset.heldout
    for asked in dataset.heldout:
        assert asked.prompt.tolist() not in [ids[: len(asked.prompt)] for ids in trained]
    few = build(config(folder, utility={"max_records": 4}), tokenizer)
    assert few.stats["heldout"] == {"mcq": 2, "open": 2}


def test_windows_are_taken_of_long_notes_and_long_prompts_cut(folder, tokenizer):
    dataset = build(config(folder, training={"max_length": 128}), tokenizer)
    assert dataset.stats["canaries"]["windows"] == 13
    assert all(len(canary.ids) <= 128 for canary in dataset.canaries)
    assert all(canary.phi for canary in dataset.canaries)
    short = build(config(folder, training={"max_length": 40}), tokenizer)
    assert short.stats["clients"]["mcq"]["prompts_cut"] > 0


def test_packing_leaves_canaries_alone(folder, tokenizer):
    packed = build(config(folder, training={"max_length": 512, "packing": True}), tokenizer)
    plain = build(config(folder), tokenizer)
    for name in plain.shards:
        assert packed.stats["clients"][name]["tokens"] == plain.stats["clients"][name]["tokens"]
        assert len(packed.shards[name].examples) < len(plain.shards[name].examples)
        assert packed.shards[name].canaries == plain.shards[name].canaries
    with pytest.raises(ConfigError, match=r"training.packing: needs training.loss_on=all"):
        build(config(folder, training={"packing": True, "loss_on": "answer"}), tokenizer)


def test_loss_on_answers_leaves_notes_whole(folder, tokenizer):
    training = {"max_length": 512, "loss_on": "answer"}
    dataset = build(config(folder, training=training), tokenizer)
    for shard in dataset.shards.values():
        for item in shard.examples:
            assert (item.supervised == 1) == (item.canary is not None)


def test_faults_say_where_and_what_to_do(folder, tokenizer, write_jsonl):
    write_jsonl("mcq.jsonl", [*MCQ, MCQ[0] | {"id": "new", "opa": None}])
    with pytest.raises(DataError, match=r"mcq.jsonl:41: 'opa' must be str, not null; mend the row"):
        build(config(folder), tokenizer)
    dataset = build(config(folder, data={"on_bad_row": "skip"}), tokenizer)
    assert dataset.stats["clients"]["mcq"]["bad_rows"] == 1

    write_jsonl("notes.jsonl", NOTES[:12])
    with pytest.raises(DataError, match=r"need 13 notes; of the 12 there are, 12 can be used"):
        build(config(folder, data={"on_bad_row": "skip"}), tokenizer)

    write_jsonl("notes.jsonl", [{"id": f"x{i}", "text": f"note {i} </s>"} for i in range(13)])
    with pytest.raises(DataError, match=r"note x\d+: holds '</s>'"):
        build(config(folder, data={"on_bad_row": "skip"}), tokenizer)


def test_answers_that_never_fit(folder, tokenizer, write_jsonl):
    long = [{"input": f"Why {i}?", "output": "because " * 60} for i in range(9)]
    write_jsonl("cards.jsonl", [*CARDS[:5], *long])
    made = config(folder, training={"max_length": 64})
    stats = build(made, tokenizer).stats["clients"]["cards"]
    assert 0 < stats["answers_dropped"] <= 9
    write_jsonl("cards.jsonl", long)
    with pytest.raises(DataError, match=r"client cards: no answer fits training.max_length 64"):
        build(made, tokenizer)


def test_all_synthetic(tokenizer):
    made = Config.model_validate(
        {
            "data": {
                "clients": [
                    {"name": name, "source": {"kind": "synthetic", "adapter": name, "records": 30}}
                    for name in ("mcq", "closed", "flashcards")
                ],
                "canaries": {"levels": [{"copies": 2, "notes": 6}], "twins": 6},
            },
            "training": {"max_length": 1024},
        }
    )
    dataset = build(made, tokenizer)
    assert dataset.synthetic
    assert dataset.stats["files"] == {}
    assert all(one["records"] == 30 for one in dataset.stats["clients"].values())
    assert dataset.heldout
    for canary in dataset.canaries:
        assert tokenizer.decode(canary.ids[1:]) == note_text(canary.text)


def test_real_files_make_a_dataset(real_data, tokenizer):
    made = Config.model_validate(
        {
            "data": {
                "root": str(real_data),
                "max_records": 20,
                "clients": [
                    {"name": "mcq", "source": jsonl("medmcqa.jsonl", "medmcqa")},
                    {"name": "closed", "source": jsonl("pubmedqa.jsonl", "pubmedqa")},
                    {
                        "name": "cards",
                        "source": jsonl("medical_flashcards.jsonl", "medical_meadow"),
                    },
                ],
                "canaries": {
                    "source": jsonl("clinical_notes.jsonl", "notes"),
                    "levels": [{"copies": 10, "notes": 12}],
                    "twins": 12,
                },
            },
            "training": {"max_length": 384},
        }
    )
    dataset = build(made, tokenizer)
    assert {name: one["records"] for name, one in dataset.stats["clients"].items()} == {
        "mcq": 20,
        "closed": 20,
        "cards": 20,
    }
    assert dataset.stats["canaries"]["windows"] == 24
    for canary in dataset.canaries:
        assert len(canary.ids) <= 384
        assert len(canary.phi) >= 5
        for span in canary.phi:
            covered = canary.offsets[span.start : span.end]
            assert span.value in canary.text[covered[:, 0].min() : covered[:, 1].max()]
