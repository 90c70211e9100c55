"""Privacy units of a built shard: copies of a note, equal records, a patient's records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from tiny import config

from fedmem.data.build import Dataset, build
from fedmem.data.records import Examples
from fedmem.model.base import load_tokenizer


def built(base: Path, only: str | None = None, **sections: Any) -> Dataset:
    unit = sections.pop("unit", "record")
    dp = {"noise_multiplier": 1.0, "unit": unit}
    settings = config(base, training={"max_length": 160, "dp": dp}, **sections)
    return build(settings, load_tokenizer(settings.model), only)


def rows(tmp_path: Path) -> dict[str, Any]:
    """Ten records of four patients; records 8 and 9 are copies of 0 and 1, with other ids."""
    file = tmp_path / "rows.jsonl"
    patients = "ppqqrrssps"
    with file.open("w", encoding="utf-8") as lines:
        for i, patient in enumerate(patients):
            text = f"Question number {i % 8} about the heart?"
            row = {"id": f"r{i}", "q": text, "a": f"Answer {i % 8}.", "who": patient}
            lines.write(json.dumps(row) + "\n")
    source = {"kind": "jsonl", "path": str(file), "adapter": "generic", "prompt": "q"}
    return {**source, "completion": "a", "patient": "who"}


def test_copies_of_a_note_are_one_unit(base_folder: Path) -> None:
    data = built(base_folder)
    for name, shard in data.shards.items():
        units = shard.units
        assert units.dtype == np.uint64 and len(units) == len(shard.examples)
        for canary in data.canaries:
            of_note = {int(u) for u, e in zip(units, shard.examples, strict=True)
                       if e.canary == canary.id}  # fmt: skip
            assert len(of_note) == (1 if canary.owners.get(name) else 0)
        others = [int(u) for u, e in zip(units, shard.examples, strict=True) if not e.canary]
        assert len(set(others)) == len(others)
        assert shard.holders == 1


def test_equal_records_are_one_unit_and_under_patient_all_of_a_person(
    base_folder: Path, tmp_path: Path
) -> None:
    source = rows(tmp_path)
    clients = {"clients": [{"name": "a", "source": source}], "validation": 0.05}
    for unit, patients in (("record", False), ("patient", True)):
        shard = built(base_folder, unit=unit, data={**given(clients), "cache": str(tmp_path)})
        records = shard.shards["a"]
        kept = [(int(u), e) for u, e in zip(records.units, records.examples, strict=True)
                if e.canary is None]  # fmt: skip
        texts = {e.ids.tobytes() for _, e in kept}
        if patients:
            assert len({u for u, _ in kept}) < len(texts)
        else:
            assert len({u for u, _ in kept}) == len(texts) <= len(kept)


def given(part: dict[str, Any]) -> dict[str, Any]:
    canaries = {
        "source": {"kind": "synthetic", "adapter": "notes", "records": 12},
        "levels": [{"copies": 1, "notes": 1}, {"copies": 4, "notes": 1}],
        "twins": 1,
    }
    return {**part, "canaries": canaries}


def test_a_note_dealt_to_several_clients_is_counted(base_folder: Path) -> None:
    source = {"kind": "synthetic", "adapter": "flashcards", "records": 6}
    data = given({"clients": [{"name": name, "source": source} for name in "abc"]})
    data["canaries"] = {**data["canaries"], "placement": "by_bytes"}
    found = built(base_folder, data=data)
    most = {
        name: max([len(c.owners) for c in found.canaries if c.owners.get(name)], default=1)
        for name in "abc"
    }
    assert {name: shard.holders for name, shard in found.shards.items()} == most
    assert max(most.values()) > 1
    # pooled there is one holder of everything
    pooled = built(base_folder, data=data, rounds={"topology": "centralized"}).shards["all"]
    assert pooled.holders == 1
    keys = {e.canary: int(u) for u, e in zip(pooled.units, pooled.examples, strict=True)}
    assert len({u for c, u in keys.items() if c}) == 2


def test_without_dp_no_units_are_kept(base_folder: Path) -> None:
    settings = config(base_folder)
    shard = build(settings, load_tokenizer(settings.model)).shards["a"]
    assert isinstance(shard.examples, Examples) and shard.examples.units is None
    alone = built(base_folder, only="a").shards["a"]  # as a hospital builds it
    assert alone.holders == 1 and len(alone.units) == len(alone.examples)
