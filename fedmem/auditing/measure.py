"""audit.parquet: for each coin-flip canary its coin, and its log-likelihood before and after."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from fedmem.attacks.scoring import score
from fedmem.data.records import Canary
from fedmem.metrics.audit import SCHEMA
from fedmem.model.state import Arrays


def measure(
    canaries: Sequence[Canary],
    base: Arrays,
    models: Mapping[str, Arrays],
    load: Callable[[Arrays], Any],
) -> pa.Table:
    """One scoring pass over all canaries with the base, and one with the last models.

    `models`: "global", or under topology `local` every client's, asked for its own alone.
    """
    texts = [canary.ids for canary in canaries]
    before = [float(one.logprob.sum()) for one in score(load(base), texts)]
    owners = [next(iter(canary.owners)) for canary in canaries]
    after = [0.0] * len(canaries)
    for name, arrays in sorted(models.items()):
        own = [i for i, owner in enumerate(owners) if name in ("global", owner)]
        for i, one in zip(own, score(load(arrays), [texts[i] for i in own]), strict=True):
            after[i] = float(one.logprob.sum())
    return pa.table(
        {
            "canary": [canary.id for canary in canaries],
            "owner": owners,
            "included": [canary.copies == 1 for canary in canaries],
            "tokens": [len(canary.ids) - 1 for canary in canaries],
            "base": before,
            "final": after,
        },
        schema=SCHEMA,
    )
