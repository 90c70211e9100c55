"""What a dataset holds, for people: a row a client for the screen, and the canary plan on disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fedmem.data.build import Dataset

PLAN = pa.schema(
    [
        pa.field("canary", pa.string(), nullable=False),
        pa.field("patient", pa.string(), nullable=False),
        pa.field("owners", pa.list_(pa.string()), nullable=False),
        pa.field("owner_copies", pa.list_(pa.int32()), nullable=False),  # in step with owners
        pa.field("copies", pa.int32(), nullable=False),
        pa.field("twin", pa.bool_(), nullable=False),
        pa.field("tokens", pa.int32(), nullable=False),
        pa.field("chars", pa.int32(), nullable=False),
        pa.field("phi", pa.int32(), nullable=False),
        pa.field("synthetic", pa.bool_(), nullable=False),
        pa.field("text", pa.string()),
        pa.field("phi_values", pa.list_(pa.string())),
        pa.field("phi_types", pa.list_(pa.string()), nullable=False),
    ]
)


def preview(dataset: Dataset) -> list[dict[str, Any]]:
    """A row for each shard: its size, canaries and longest example, then the counts of its making.

    `note` is the beginning of one canary, where every note is synthetic; else there is no such key.
    """
    canaries = {canary.id: canary for canary in dataset.canaries}
    clients: dict[str, dict[str, int]] = dataset.stats["clients"]
    rows = []
    for name, shard in dataset.shards.items():
        made = [clients[name]] if name in clients else list(clients.values())
        row: dict[str, Any] = {
            "client": name,
            "examples": len(shard.examples),
            "tokens": int(shard.lengths.sum()),
            "longest": int(shard.lengths.max()),
            "canaries": len(shard.canaries),
            "canary_copies": sum(counts["canary_copies"] for counts in made),
        }
        for key in made[0]:
            row.setdefault(key, sum(counts[key] for counts in made))
        if dataset.synthetic and shard.canaries:
            row["note"] = canaries[shard.canaries[0]].text[:200]
        rows.append(row)
    return rows


def plan_table(dataset: Dataset, redact: bool | None = None) -> pa.Table:
    """A row a canary or twin, as planned.

    `redact` None: redacted unless every note is synthetic. Redacted means no text, no PHI values,
    and patients by number (a patient's id may be a record number).
    """
    hide = not dataset.synthetic if redact is None else redact
    patients = dict.fromkeys(canary.patient for canary in dataset.canaries)
    numbers = {patient: f"patient-{n:04d}" for n, patient in enumerate(patients, start=1)}
    rows = [
        {
            "canary": canary.id,
            "patient": numbers[canary.patient] if hide else canary.patient,
            "owners": list(canary.owners),
            "owner_copies": list(canary.owners.values()),
            "copies": canary.copies,
            "twin": canary.twin,
            "tokens": len(canary.ids),
            "chars": len(canary.text),
            "phi": len(canary.phi),
            "synthetic": canary.synthetic,
            "text": None if hide else canary.text,
            "phi_values": None if hide else [span.value for span in canary.phi],
            "phi_types": [span.type for span in canary.phi],
        }
        for canary in dataset.canaries
    ]
    return pa.Table.from_pylist(rows, schema=PLAN)


def save_plan(dataset: Dataset, path: Path, redact: bool | None = None) -> None:
    """Write `plan_table` to canaries.parquet: whole or not at all."""
    aside = path.with_name(f".{path.name}.part")
    pq.write_table(plan_table(dataset, redact), aside)
    with aside.open("rb") as file:
        os.fsync(file.fileno())
    aside.replace(path)
