"""Windows given back nearly word for word: shares of notes by measure, each at its threshold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from fedmem.config import Attack
from fedmem.metrics.intervals import newcombe
from fedmem.metrics.leakage import Row, compare, share
from fedmem.metrics.outcomes import Owned

MEASURES = ("bleu", "edit", "rouge_l")  # of tokens; an edit distance is to be small
ROUNDING = 1e-6  # scores are float32: 0.1 is a little more


def rows(scores: pa.Table, canaries: Mapping[str, Owned], attack: Attack) -> list[Row]:
    """By round, copies, prefix length (None: any of them), measure: k of n notes.

    Nothing for a run of a version that did not measure ROUGE-L: there, windows far in BLEU were
    not decoded to their end.
    """
    if "rouge_l" not in scores.column_names:
        return []
    thresholds = {name: getattr(attack, name) for name in MEASURES}
    near: dict[tuple[int, int, int | None, str], dict[str, bool]] = defaultdict(dict)
    names = ["round", "model", "canary", "target", *MEASURES]
    kept = pc.equal(scores["attack"], "extraction")
    for row in scores.filter(kept).select(names).to_pylist():
        owned = canaries[row["canary"]]
        if row["model"] not in ("global", *owned.owners):
            continue
        for measure in MEASURES:
            hit = _reaches(measure, row[measure], thresholds[measure])
            for prefix in (None, row["target"]):
                of = near[row["round"], owned.copies, prefix, measure]
                of[owned.id] = of.get(owned.id, False) or hit
    found: list[Row] = []
    for key in sorted(near, key=lambda key: (key[0], key[1], key[2] or 0, key[3])):
        round_, copies, prefix, measure = key
        row = {"round": round_, "knowledge": "true_prefix", "attacker": "*", "copies": copies}
        row |= {"prefix": prefix, "measure": measure, "threshold": thresholds[measure]}
        found.append(row | share(sum(near[key].values()), len(near[key])))
    compare(found, ("prefix", "measure"), newcombe)
    return found


def _reaches(measure: str, value: float | None, threshold: float) -> bool:
    if value is None:  # far by every measure
        return False
    if measure == "edit":
        return value <= threshold + ROUNDING
    return value >= threshold - ROUNDING
