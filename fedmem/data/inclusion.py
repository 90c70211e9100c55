"""What a shadow run writes of a run's canaries and twins: a random half of all, twins too.

Shadows 2k and 2k + 1 write complementary halves, so that in any even number of them each note is
written in exactly half. Everything else of the data is the run's own.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from fedmem.config.data import Canaries

Role = tuple[int, dict[str, int]]  # copies, and how many of them at which client


def written(index: int, shadow: int, seed: int) -> bool:
    """Whether this shadow writes the `index`-th note of the plan; a fair coin."""
    coin = random.Random(f"{seed}/shadow/{shadow // 2}/{index}").random() < 0.5
    return coin != bool(shadow % 2)


def shadowed(canaries: Canaries, roles: Sequence[Role], clients: int, seed: int) -> list[Role]:
    """The plan's roles, canaries then twins, as shadow `canaries.shadow` has them.

    A twin that is written has the copies of one of the levels; each client's twins are dealt to
    the levels in turn.
    """
    assert canaries.shadow is not None
    first = sum(level.notes for level in canaries.levels)
    found: list[Role] = []
    for index, (copies, owners) in enumerate(roles):
        if not written(index, canaries.shadow, seed):
            found.append((0, dict.fromkeys(owners, 0)))
        elif copies:
            found.append((copies, owners))
        else:
            turn = (index - first) // clients % len(canaries.levels)
            count = canaries.levels[turn].copies
            found.append((count, dict.fromkeys(owners, count)))
    return found
