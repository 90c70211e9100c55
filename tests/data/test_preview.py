import pyarrow.parquet as pq
import pytest

from fedmem.config import Config
from fedmem.data.build import build
from fedmem.data.preview import preview, save_plan


def config(folder, synthetic, **sections):
    notes = {"kind": "synthetic", "adapter": "notes"}
    real = {"kind": "jsonl", "path": "notes.jsonl", "adapter": "notes"}
    cards = {"kind": "jsonl", "path": "cards.jsonl", "adapter": "medical_meadow"}
    data = {
        "root": str(folder),
        "clients": [{"name": name, "source": cards} for name in ("a", "b")],
        "canaries": {
            "source": notes if synthetic else real,
            "levels": [{"copies": 3, "notes": 4}],
            "twins": 2,
        },
    }
    return Config.model_validate({"data": data, "training": {"max_length": 1024}, **sections})


@pytest.fixture
def folder(tmp_path, write_jsonl):
    write_jsonl("cards.jsonl", [{"input": f"What is {i}?", "output": f"{i}"} for i in range(30)])
    write_jsonl(
        "notes.jsonl",
        [
            {"id": f"n{i}", "patient": f"secret{i}", "text": f"Finding{i} was seen."}
            for i in range(6)
        ],
    )
    return tmp_path


def test_a_row_a_client_without_text_of_real_notes(folder, tokenizer):
    rows = preview(build(config(folder, synthetic=False), tokenizer))
    assert [row["client"] for row in rows] == ["a", "b"]
    for row in rows:
        assert row["canary_copies"] == 6
        assert row["canaries"] == 2
        assert row["examples"] == row["records"] + 6
        assert row["longest"] < row["tokens"]
    assert "Finding" not in str(rows)
    assert "note" not in rows[0]


def test_synthetic_notes_are_shown(folder, tokenizer):
    dataset = build(config(folder, synthetic=True), tokenizer)
    texts = [canary.text[:200] for canary in dataset.canaries]
    assert all(row["note"] in texts for row in preview(dataset))


def test_centralized_is_one_row_with_the_sums(folder, tokenizer):
    apart = preview(build(config(folder, synthetic=False), tokenizer))
    pooled = build(config(folder, synthetic=False, rounds={"topology": "centralized"}), tokenizer)
    (row,) = preview(pooled)
    assert row["client"] == "all"
    for key in ("records", "examples", "tokens", "canaries", "canary_copies", "heldout"):
        assert row[key] == sum(one[key] for one in apart)


def test_the_plan_of_real_notes_is_redacted(folder, tokenizer, tmp_path):
    dataset = build(config(folder, synthetic=False), tokenizer)
    save_plan(dataset, tmp_path / "canaries.parquet")
    rows = pq.read_table(tmp_path / "canaries.parquet").to_pylist()
    assert [row["canary"] for row in rows] == [canary.id for canary in dataset.canaries]
    assert [row["owners"] for row in rows] == [list(canary.owners) for canary in dataset.canaries]
    assert sum(row["copies"] for row in rows) == 12
    assert [row["twin"] for row in rows] == [False] * 4 + [True] * 2
    assert {row["text"] for row in rows} == {None}
    assert all(row["phi_values"] is None for row in rows)
    assert all(row["phi"] == len(row["phi_types"]) == 15 for row in rows)
    raw = (tmp_path / "canaries.parquet").read_bytes()
    assert b"secret" not in raw
    assert b"Finding" not in raw
    assert not list(tmp_path.glob(".*"))


def test_the_plan_is_kept_whole_where_asked_or_synthetic(folder, tokenizer, tmp_path):
    path = tmp_path / "canaries.parquet"
    real = build(config(folder, synthetic=False), tokenizer)
    made = build(config(folder, synthetic=True), tokenizer)
    for dataset, redact in ((real, False), (made, None)):
        save_plan(dataset, path, redact)
        for row, canary in zip(pq.read_table(path).to_pylist(), dataset.canaries, strict=True):
            assert row["text"] == canary.text
            assert row["patient"] == canary.patient
            assert row["phi_values"] == [span.value for span in canary.phi]
    save_plan(made, path, redact=True)
    assert pq.read_table(path)["text"].null_count == len(made.canaries)
