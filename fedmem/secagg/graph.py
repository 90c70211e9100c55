"""Who shares secrets with whom, and how many shares open one: k neighbours, and the threshold t.

Bell et al. 2020, section 3: clients stand on a ring in random order, each with the k/2 next ones on
either side as neighbours. k and t are such that, with at most `corrupted` clients colluding with
the server and `lost` clients gone, each of these fails with probability at most 2^-40:
no client's corrupted neighbours hold t shares of its secret; t holders of each secret are left; the
honest survivors stay connected, so that their sum alone comes out. Few clients need everybody as a
neighbour; then nothing is left to chance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

SIGMA = 40  # failures: 2^-40 at most for each of the three, over all clients
FEWEST = 3  # of two summands each is the sum less the other
MOST = 2048  # clients a round: sums of scalars are made for so many


@dataclass(frozen=True)
class Plan:
    """Of a round with `clients` clients: each one's `neighbours`, the shares that open a secret
    (`threshold`, of neighbours + 1), and how many `survivors` a round needs at least."""

    clients: int
    neighbours: int
    threshold: int
    survivors: int


@lru_cache(maxsize=64)
def plan(
    clients: int,
    neighbours: int | None = None,
    threshold: int | None = None,
    corrupted: float = 0.34,
    lost: float = 0.1,
) -> Plan:
    """The plan for so many clients; None: by the bounds. `corrupted`, `lost`: shares of clients.

    At least one client may get lost, whatever `lost` says, where the threshold allows it. The sum
    that comes out holds two honest clients' updates at least. Raises ValueError, in words for a
    user, where no plan holds.
    """
    if clients < FEWEST:
        raise ValueError(
            f"{clients} clients a round, and secure aggregation needs {FEWEST}: "
            "of two, each could take its own update off the sum and hold the other's"
        )
    if clients > MOST:
        raise ValueError(f"{clients} clients a round, and secure aggregation takes {MOST} at most")
    bad, gone = share_of(corrupted, clients), max(1, share_of(lost, clients))
    if bad + 2 > clients:
        raise ValueError(
            f"corrupted: {bad} of {clients} clients leaves fewer than two honest ones, "
            "whose updates a sum could hide"
        )
    full = clients - 1
    if neighbours is not None and neighbours > full:
        raise ValueError(f"neighbours: {neighbours}, and a client has {full} others")
    if neighbours is not None and neighbours < full and neighbours % 2:
        raise ValueError(f"neighbours: {neighbours} is odd; half stand on either side")
    if neighbours is not None:
        return _with_threshold(clients, neighbours, threshold, bad, gone)
    for k in range(2, full * 3 // 4 + 1, 2):  # a sparse graph that saves less is not worth its risk
        found = _bounds(clients, k, bad, gone)
        if found and (threshold is None or found[0] <= threshold <= found[1]):
            return _with_threshold(clients, k, threshold, bad, gone)
    return _with_threshold(clients, full, threshold, bad, gone)


def share_of(share: float, clients: int) -> int:
    """How many clients a share is, rounded down (0.3 of 10 is 3, whatever floats make of it)."""
    return math.floor(share * clients + 1e-9)


def _with_threshold(n: int, k: int, threshold: int | None, bad: int, gone: int) -> Plan:
    whole = k == n - 1
    bounds = (max(2, bad + 1), n) if whole else _bounds(n, k, bad, gone)
    if bounds is None:
        raise ValueError(
            f"neighbours: {k} of {n} clients are too few for {bad} corrupted and {gone} lost ones "
            f"(failure above 2^-{SIGMA}); take more, or `auto`"
        )
    least, most = bounds
    if threshold is None:
        # Above half of holders and corrupted together, a server that lies to some clients about
        # who was lost cannot have a secret of both kinds from them, either.
        threshold = min((k + 1 + bad) // 2 + 1, max(n - gone, bad + 2) if whole else most)
        threshold = max(threshold, bad + 2 if whole else least)
        survivors = threshold
    else:
        if threshold > most:
            raise ValueError(f"threshold: {threshold} shares of {most} that there are to count on")
        if threshold < least:
            raise ValueError(
                f"threshold: {threshold} shares open a secret, and {bad} corrupted clients of {n} "
                f"could hold them; take {least} at least"
            )
        survivors = threshold
    # The bounds of a sparse graph hold for so many lost clients and no more.
    return Plan(n, k, threshold, survivors if whole else max(n - gone, bad + 2))


def _bounds(n: int, k: int, bad: int, gone: int) -> tuple[int, int] | None:
    """(least, greatest) threshold for which a ring with k of n - 1 neighbours holds, or None."""
    if _log_gap(n, k, bad + gone) > -SIGMA * math.log(2):
        return None
    # corrupted neighbours of an honest client; an honest holder more opens nothing
    most_bad = _quantile(n - 1, bad, k, n)
    # holders left of a lost client's secret: its neighbours alone; of a survivor's: itself, too
    most_gone = max(_quantile(n - 1, gone - 1, k, n), _quantile(n - 1, gone, k, n) - 1)
    least, most = max(2, most_bad + 1), k - most_gone
    return (least, most) if least <= most else None


def _log_gap(n: int, k: int, removed: int) -> float:
    """log of a bound on the chance that the rest falls apart: k/2 removed ones in a row."""
    if removed < k // 2:
        return -math.inf
    return math.log(n) + sum(math.log((removed - j) / (n - j)) for j in range(k // 2))


def _quantile(others: int, marked: int, k: int, clients: int) -> int:
    """The least x such that, with probability 1 - 2^-40, no client has more than x marked ones
    among its k neighbours, drawn from `others` of which `marked` are (hypergeometric tails)."""
    limit = -SIGMA * math.log(2) - math.log(clients)
    most, tail = min(k, marked), -math.inf
    for x in range(most, -1, -1):
        log_p = _log_choose(marked, x) + _log_choose(others - marked, k - x)
        tail = float(_log_add(tail, log_p - _log_choose(others, k)))
        if tail > limit:
            return x
    return 0


def _log_choose(n: int, k: int) -> float:
    if not 0 <= k <= n:
        return -math.inf
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _log_add(a: float, b: float) -> float:
    high, low = max(a, b), min(a, b)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))


def ring(order: Sequence[int], k: int) -> dict[int, list[int]]:
    """Each client's neighbours, sorted: the k/2 next on either side of it in `order`, or all."""
    n = len(order)
    if k >= n - 1:
        return {who: sorted(other for other in order if other != who) for who in order}
    steps = [step for i in range(1, k // 2 + 1) for step in (-i, i)]
    return {who: sorted(order[(at + s) % n] for s in steps) for at, who in enumerate(order)}
