"""`fedmem data check`: every row of every source looked at, every bad one named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from fedmem.config import Config
from fedmem.config.data import DirichletSplit, NaturalSplit
from fedmem.config.sources import StoredSource
from fedmem.data import sources
from fedmem.data.adapters import Fault, examine
from fedmem.errors import DataError
from fedmem.loading import arm_configs

SHOWN = 20  # different faults of a source that are told; each with its first place, and how often


def check_lines(config: Config) -> Iterator[str]:
    """Lines about each source: its bad rows and repeated ids by their place, then their numbers.

    Raises DataError at the end if there was any, or a source could not be read to its end.
    """
    faults = unreadable = 0
    for source, root, column in _named(config):
        counts: Counter[str] = Counter()
        first: dict[str, str] = {}  # the text of a fault -> its first place
        often: Counter[str] = Counter()
        try:
            for place, found in examine(source, root, column):
                counts["rows"] += 1
                if isinstance(found, Fault):
                    counts[found.kind] += 1
                    first.setdefault(found.text, place)
                    often[found.text] += 1
            if not counts["rows"]:
                raise DataError(f"{sources.name(source)}: holds no rows")
        except DataError as error:
            yield f"  {error}"
            unreadable += 1
        faults += often.total()
        for text in list(first)[:SHOWN]:
            more = f" (and {often[text] - 1:,} rows more)" if often[text] > 1 else ""
            yield f"  {first[text]}: {text}{more}"
        if len(first) > SHOWN:
            rest = sum(often[text] for text in list(first)[SHOWN:])
            yield f"  and {rest:,} other bad rows"
        yield (
            f"{sources.name(source)}: {counts['rows']:,} rows, {counts['bad_rows']:,} bad, "
            f"{counts['duplicate_ids']:,} with an id seen before"
        )
    if unreadable:
        raise DataError(
            f"sources that cannot be read: {unreadable}; mend them, or the config that names them"
            + (f"; bad rows: {faults:,}" if faults else "")
        )
    if faults:
        raise DataError(
            f"bad rows: {faults:,}; mend them, check the source's `kind` and `adapter` if all are "
            "bad, or leave such rows out: data.on_bad_row=skip"
        )


def _named(config: Config) -> list[tuple[StoredSource, Path | None, str | None]]:
    """Every stored source of the config or its arms once, with its root and its clients' column."""
    named: dict[tuple[StoredSource, Path | None, str | None], None] = {}
    for one in arm_configs(config).values() or [config]:
        for client in one.data.clients:
            split = client.part.split if client.part else None
            column = split.column if isinstance(split, DirichletSplit | NaturalSplit) else None
            if isinstance(client.source, StoredSource):
                named[client.source, one.data.root, column] = None
        if isinstance(one.data.canaries.source, StoredSource):
            named[one.data.canaries.source, one.data.root, None] = None
    return list(named)
