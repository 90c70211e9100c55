"""The medical knowledge base: diseases and what is true of them, as a table of short phrases."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

# what may be asked of a disease, by column of the table
RELATIONS = ("sign", "cause", "test", "treatment", "complication", "risk")


@dataclass(frozen=True)
class Disease:
    """A disease, its body system, and one true value a relation."""

    name: str
    system: str
    facts: dict[str, str]


@lru_cache(maxsize=1)
def diseases() -> tuple[Disease, ...]:
    """All diseases, sorted by name."""
    rows: list[Disease] = []
    for part in ("diseases_a.csv", "diseases_b.csv"):
        text = files("fedmem.data.synthetic").joinpath(part).read_text(encoding="ascii")
        for row in csv.DictReader(text.splitlines()):
            facts = {relation: row[relation] for relation in RELATIONS}
            rows.append(Disease(row["name"], row["system"], facts))
    return tuple(sorted(rows, key=lambda disease: disease.name))
