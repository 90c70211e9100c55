"""The longest run of a note's tokens in texts that a client drew, anywhere in either."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmem.attacks.own_prefix import outsider
from fedmem.attacks.views import ClientView
from fedmem.data.records import Canary


def longest_run(ids: Sequence[int] | NDArray[np.int32], said: NDArray[np.int64]) -> int:
    """The longest run of `ids` that stands in `said`: texts one after the other, -1 between."""
    best, ends = 0, np.zeros(len(said) + 1, np.int32)  # run that ends at each place of `said`
    for token in ids:
        ends[1:] = np.where(said == token, ends[:-1] + 1, 0)
        best = max(best, int(ends.max()))
    return best


def grade_runs(
    guesses: Sequence[Sequence[int]],
    view: ClientView,
    canaries: Sequence[Canary],
    knowledge: str,
) -> list[dict[str, Any]]:
    """A row (`loss`, without a loss) for each outsider's canary, with its longest run."""
    said = np.array([token for ids in guesses for token in (*ids, -1)], dtype=np.int64)
    rows = []
    for canary in canaries:
        if outsider(view, canary):
            longest = longest_run(canary.ids, said)
            rows.append(
                {
                    "attacker": view.client,
                    "knowledge": knowledge,
                    "attack": "loss",
                    "canary": canary.id,
                    "target": 0,
                    "tokens": len(canary.ids) - 1,
                    "hit": longest >= len(canary.ids) - 1,
                    "longest": longest,
                    "queries": len(guesses),
                }
            )
    return rows
