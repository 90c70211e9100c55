"""`fedmem data preview`: what each client will hold, as lines for the screen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fedmem.config import Config
from fedmem.data.build import build
from fedmem.data.preview import preview
from fedmem.model.base import load_tokenizer

ALWAYS = ("examples", "tokens", "longest", "heldout", "canaries", "canary_copies")


def preview_lines(config: Config) -> Iterator[str]:
    """A table with a row a client, then what was counted, then one canary if all are synthetic.

    Raises what building the data raises: ConfigError, DataError.
    """
    dataset = build(config, load_tokenizer(config.model))
    rows = preview(dataset)
    yield from _table(rows)
    yield ""
    yield from _counts("held-out records", dataset.stats["heldout"])
    yield from _counts("canaries", dataset.stats["canaries"])
    for name, digest in dataset.stats["files"].items():
        yield f"file {name}: sha256 {digest[:16]}"
    for row in rows:
        if note := row.get("note"):
            yield f"\na canary of {row['client']} begins: {' '.join(note.split())}"
            return


def _table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Columns that are zero for every client (no bad rows, nothing cut) are left out."""
    keys = [key for key in rows[0] if key not in {"client", "note"}]
    keys = [key for key in keys if key in ALWAYS or any(row[key] for row in rows)]
    heads = ["client", *(key.replace("_", " ") for key in keys)]
    cells = [[row["client"], *(f"{row[key]:,}" for key in keys)] for row in rows]
    widths = [max(len(line[i]) for line in [heads, *cells]) for i in range(len(heads))]
    for line in [heads, *cells]:
        first, *rest = [*zip(line, widths, strict=True)]
        parts = [first[0].ljust(first[1]), *(text.rjust(width) for text, width in rest)]
        yield "  ".join(parts).rstrip()


def _counts(title: str, counts: dict[str, int]) -> Iterator[str]:
    said = ", ".join(f"{key.replace('_', ' ')} {n:,}" for key, n in counts.items() if n)
    yield f"{title}: {said or 'none'}"
