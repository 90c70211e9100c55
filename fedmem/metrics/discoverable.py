"""(n,p)-discoverable extraction (Hayes et al., arXiv 2410.19482): how many queries give a secret?

A query behind the true text before gives the secret with probability p_z, the product of its
tokens' probabilities under the way of sampling (temperature, top-k, top-p; 0 outside a cut). It is
(n,p)-discoverable if n queries give it at least once with probability p: 1 - (1 - p_z)^n >= p.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fedmem.config import Attack
from fedmem.metrics.intervals import newcombe
from fedmem.metrics.leakage import Row, compare, share
from fedmem.metrics.outcomes import Owned
from fedmem.metrics.targets import Target
from fedmem.metrics.tokens import TokenTable

KINDS = {"extraction": "window", "phi": "phi"}
WHOLE = 1e-6  # a quotient so near a whole number is that number: scores are float32
MOST = 10_000  # secrets that take more queries are not listed one by one


def log_chance(logprob: Sequence[float] | Any) -> float:
    """log p_z of a secret from its tokens' log-probabilities; ValueError for no token."""
    if not len(logprob):
        raise ValueError("a secret has one token at least")
    return min(0.0, math.fsum(float(one) for one in logprob))


def queries_needed(log_pz: float, p: float) -> int | None:
    """The smallest n with 1 - (1 - p_z)^n >= p, 0 < p < 1; None where no number is enough."""
    if log_pz >= 0:
        return 1
    if log_pz < -700:  # also -inf: below what a float can hold as a probability
        return None
    n = math.log1p(-p) / math.log1p(-math.exp(log_pz))
    return max(1, math.ceil(n * (1 - WHOLE)))


def rows(
    tokens: TokenTable, secrets: Iterable[Target], canaries: Mapping[str, Owned], attack: Attack
) -> list[Row]:
    """Notes with a discoverable secret, by round, copies, kind, way of sampling, n and p.

    kind: `window` (the tokens behind the split, all text before as prompt) or `phi` (any of its
    values). `queries` is n. Null figures never: every note has either kind, or is not counted.
    """
    grid = attack.discoverable
    least: dict[tuple[int, int, str, int], dict[str, dict[float, float]]] = defaultdict(dict)
    for secret, point, log_pz in chances(tokens, secrets):
        owned = canaries[secret.canary]
        key = (secret.round, owned.copies, KINDS[secret.attack], point)
        best = least[key].setdefault(secret.canary, dict.fromkeys(grid.p, math.inf))
        for p in grid.p:
            best[p] = min(best[p], queries_needed(log_pz, p) or math.inf)
    found: list[Row] = []
    for (round_, copies, kind, point), notes in sorted(least.items()):
        head = {"round": round_, "knowledge": "true_prefix", "attacker": "*", "copies": copies}
        head |= {"kind": kind, "point": point} | attack.sampling[point].model_dump()
        for n in grid.n:
            for p in grid.p:
                k = sum(best[p] <= n for best in notes.values())
                found.append(head | {"queries": n, "p": p} | share(k, len(notes)))
    compare(found, ("kind", "point", "queries", "p"), newcombe)
    return found


def needed(
    tokens: TokenTable, secrets: Iterable[Target], canaries: Mapping[str, Owned], attack: Attack
) -> list[Row]:
    """Each secret of the last round with the queries it takes at each p, fewest first.

    Secrets that take more than `MOST` queries at every p are left out.
    """
    of = list(secrets)
    last = max((secret.round for secret in of), default=0)
    found: list[Row] = []
    for secret, point, log_pz in chances(tokens, (s for s in of if s.round == last)):
        takes = {str(p): queries_needed(log_pz, p) for p in attack.discoverable.p}
        if any(n is not None and n <= MOST for n in takes.values()):
            owned = canaries[secret.canary]
            row: Row = {"round": last, "canary": secret.canary, "owners": list(owned.owners)}
            row |= {"copies": owned.copies, "kind": KINDS[secret.attack], "target": secret.target}
            row |= {"type": secret.type, "tokens": secret.tokens, "point": point}
            found.append(row | {"log10_pz": log_pz / math.log(10), "queries": takes})
    return sorted(found, key=lambda row: (-row["log10_pz"], row["canary"], row["target"]))


def chances(tokens: TokenTable, secrets: Iterable[Target]) -> Iterator[tuple[Target, int, float]]:
    """(secret, point of the sampling grid, log p_z) for all secrets whose tokens were scored."""
    for secret in secrets:
        one = tokens.get((secret.round, secret.model, secret.canary))
        if one is None:
            continue
        first = secret.start - 1  # the scores are of tokens 1 and after
        stop = first + secret.tokens
        if first < 0 or stop > one.sampled.shape[1]:
            continue
        for point, logprob in enumerate(one.sampled[:, first:stop].astype(np.float64)):
            yield secret, point, log_chance(logprob)
