"""Shares of notes by the released code's own measures (`attacks.paper_compat`), with intervals.

Their headline is the mean over the prompt lengths, their worst case the highest of them; the worst
exact match is taken over notes written once only. Twins, which they have not, stand beside.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from fedmem.metrics.intervals import wilson
from fedmem.metrics.leakage import Row, share
from fedmem.metrics.outcomes import PAPER, Owned

BLEU = 0.75  # of characters, `>=`


def rows(scores: pa.Table, canaries: Mapping[str, Owned]) -> list[Row]:
    """By round, copies and measure: `figure` length (one row each), mean and worst.

    The mean's interval is Wilson's for so many notes: a note's mean over the lengths varies no more
    than one hit or miss would, so that it is rather too wide. The worst length is chosen after the
    fact, which its interval does not pay for. No rows where the switch was off.
    """
    hits: dict[tuple[int, int, str], dict[int, list[bool]]] = defaultdict(lambda: defaultdict(list))
    kept = scores.filter(pc.equal(scores["attack"], PAPER))
    names = ["round", "model", "canary", "target", "hit", "bleu"]
    for row in kept.select(names).to_pylist():
        owned = canaries[row["canary"]]
        if row["model"] not in ("global", *owned.owners):
            continue
        for measure, hit in (("exact", row["hit"]), ("bleu", row["bleu"] >= BLEU)):
            hits[row["round"], owned.copies, measure][row["target"]].append(bool(hit))
    found: list[Row] = []
    for (round_, copies, measure), by_length in sorted(hits.items()):
        head: dict[str, Any] = {"round": round_, "copies": copies, "measure": measure}
        lengths = [
            head | {"figure": "length", "prefix": length} | share(sum(tried), len(tried))
            for length, tried in sorted(by_length.items())
        ]
        found += lengths
        notes = min(row["n"] for row in lengths)
        mean = sum(row["rate"] for row in lengths) / len(lengths)
        interval = wilson(mean * notes, notes)
        row = head | {"figure": "mean", "prefix": None, "k": mean * notes, "n": notes}
        found.append(row | {"rate": mean, "low": interval.low, "high": interval.high})
        if measure == "bleu" or copies == 1:
            worst = max(lengths, key=lambda one: one["rate"])
            found.append(worst | {"figure": "worst"})
    return found
