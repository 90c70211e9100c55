"""The secrets that were asked for behind the true text, as scores.parquet has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedmem.metrics.outcomes import Owned, rows


@dataclass(frozen=True)
class Target:
    """One secret under one model: a window of a note (`extraction`), or a PHI value (`phi`).

    start: its first token in the canary's ids; tokens: how many. candidates: log-probabilities of
    the true value and of its candidates [1 + m], where it was ranked. space: values of its form.
    """

    round: int
    model: str
    canary: str
    attack: str
    target: int
    start: int
    tokens: int
    category: str | None
    type: str | None
    candidates: NDArray[np.float64] | None
    space: int | None


COLUMNS = [
    *("round", "model", "canary", "attack", "target", "start", "tokens", "category", "type"),
    *("candidates", "space"),
]


def targets(scores: pa.Table, canaries: Mapping[str, Owned]) -> Iterator[Target]:
    """Each secret once a round; a window's row stands for all prefix lengths: it has one place.

    Under local-only training a note counts in its owner's model alone. Secrets without a token
    are left out, and so are all of a run whose version wrote no `start`. DataError where another
    column is missing, or of another kind.
    """
    if "start" not in scores.column_names:
        return
    kept = pc.and_(
        pc.equal(scores["knowledge"], "true_prefix"), pc.is_in(scores["attack"], pa.array(KINDS))
    )
    seen: set[tuple[int, str, str]] = set()
    for row in rows(scores.filter(kept), COLUMNS):
        owned = canaries[row["canary"]]
        if row["model"] not in ("global", *owned.owners):
            continue
        if row["start"] is None or not row["tokens"]:
            continue
        if row["attack"] == "extraction":
            key = (row["round"], row["model"], row["canary"])
            if key in seen:
                continue
            seen.add(key)
        given = row.pop("candidates")
        ranked = None if given is None else np.array(given, np.float64)
        yield Target(**row, candidates=ranked)


KINDS = ["extraction", "phi"]
