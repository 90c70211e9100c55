"""Canaries of the one-run audit: each is written once, or nowhere, by a fair coin of its own.

They come from notes that are no canary or twin, share no patient, value or text with one, and are
used by no other attack or metric: the figures of the others mean what they mean without them.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice

from fedmem.config.audit import Audit
from fedmem.data.canaries import Drawn, Prepare, disjoint, placed
from fedmem.data.records import Canary, Note
from fedmem.errors import DataError

PREFIX = "audit-"


def toss(
    audit: Audit,
    notes: Iterable[Note],
    taken: Sequence[Drawn],
    clients: Sequence[str],
    seed: int,
    prepare: Prepare,
) -> tuple[Canary, ...]:
    """`audit.canaries` of `notes`, dealt to the clients in turn; copies 1 or 0, as its coin says.

    `taken`: the canaries and twins. The coins hang on the seed alone: neither the draw, nor the
    owner, nor anything else that a run does is a function of them. Raises DataError if too few
    notes are left.
    """
    used = {item.note.id for item in taken}
    pool = sorted((note for note in notes if note.id not in used), key=lambda note: note.id)
    rng = random.Random(f"{seed}/audit/draw")
    rng.shuffle(pool)
    left_out: Counter[str] = Counter()
    drawn = list(islice(disjoint(pool, prepare, left_out, taken), audit.canaries))
    if len(drawn) < audit.canaries:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
        raise DataError(
            f"attack.audit.canaries: {audit.canaries} notes are needed besides canaries and twins; "
            f"of the {len(pool)} there are, {len(drawn)} can be used (left out: "
            f"{reasons or 'none'}); lower it, or give more notes"
        )
    rng.shuffle(drawn)  # the order of drawing favours notes unlike others; owners must not
    owners = sorted(clients)
    rng.shuffle(owners)
    return tuple(
        _tossed(item, index, owners[index % len(owners)], seed) for index, item in enumerate(drawn)
    )


def _tossed(item: Drawn, index: int, owner: str, seed: int) -> Canary:
    included = random.Random(f"{seed}/audit/coin/{index}").random() < 0.5
    canary = placed(item, {owner: int(included)}, int(included))
    return replace(canary, id=f"{PREFIX}{index:03d}")
