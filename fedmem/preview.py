"""`fedmem data preview` and `fedmem data build`: what each client holds, in lines."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median_low
from typing import Any

from fedmem.config import Config
from fedmem.data.build import build
from fedmem.data.cache import Cache, Say
from fedmem.data.preview import preview
from fedmem.loading import arm_configs
from fedmem.model.base import load_tokenizer

ALWAYS = ("examples", "tokens", "longest", "heldout", "canaries", "canary_copies")
MANY = 20  # clients: of more, some are shown, and how they differ


def preview_lines(config: Config, say: Say = lambda text: None) -> Iterator[str]:
    """A table with a row a client, then what was counted, then one canary if all are synthetic.

    Raises what building the data raises: ConfigError, DataError.
    """
    dataset = build(config, load_tokenizer(config.model), say=say)
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


def build_lines(config: Config, say: Say = lambda text: None) -> Iterator[str]:
    """Encode the data of a config, or of each of its arms, into the cache; a line a client.

    Raises what building the data raises: ConfigError, DataError.
    """
    for arm, one in (arm_configs(config) or {"": config}).items():
        dataset = build(one, load_tokenizer(one.model), say=say)
        sources = {client.name: client.source for client in one.data.clients}
        for name, counts in dataset.stats["clients"].items():
            how = "encoded now" if dataset.encoded[name] else "found in the cache"
            if sources[name].kind == "synthetic":
                how = "generated, not cached"
            yield (
                f"{f'{arm}: ' if arm else ''}{name}: {counts['records']:,} records, "
                f"{counts['bytes']:,} bytes of text, {how}"
            )
    yield f"cache: {Cache(config.data.cache, say).folder}"


def _table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Columns that are zero for every client (no bad rows, nothing cut) are left out.

    Of more than MANY clients the first ten, and of each column the least, the median and the most.
    """
    keys = [key for key in rows[0] if key not in {"client", "note"}]
    keys = [key for key in keys if key in ALWAYS or any(row[key] for row in rows)]
    heads = ["client", *(key.replace("_", " ") for key in keys)]
    shown = rows if len(rows) <= MANY else rows[:10]
    cells = [[row["client"], *(f"{row[key]:,}" for key in keys)] for row in shown]
    if len(rows) > MANY:
        cells.append([f"({len(rows) - 10} more)", *[""] * len(keys)])
        for name, chosen in (("least", min), ("median", median_low), ("most", max)):
            cells.append([name, *(f"{chosen([row[key] for row in rows]):,}" for key in keys)])
    widths = [max(len(line[i]) for line in [heads, *cells]) for i in range(len(heads))]
    for line in [heads, *cells]:
        first, *rest = [*zip(line, widths, strict=True)]
        parts = [first[0].ljust(first[1]), *(text.rjust(width) for text, width in rest)]
        yield "  ".join(parts).rstrip()


def _counts(title: str, counts: dict[str, int]) -> Iterator[str]:
    said = ", ".join(f"{key.replace('_', ' ')} {n:,}" for key, n in counts.items() if n)
    yield f"{title}: {said or 'none'}"
