"""The canary plan: which notes are written how often at whom, and the twins that never are.

Canaries and twins come from one pool at random, and no two of them share a patient, a value of an
identifying slot, or more than 20 % of their 8-grams. So a value that a model gives back is owed to
the note it was written in, notes are independent units, and twins show the chance level.
(`disjoint: false` gives that up, but for the twins' patients: for sets of many notes a patient.)
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from fedmem.config.data import Canaries
from fedmem.data.inclusion import shadowed
from fedmem.data.records import Canary, Note
from fedmem.data.windows import Window
from fedmem.errors import DataError

GRAM = 8
OVERLAP = 0.2
# notes of one hospital share towns, wards, ages, dates and jobs; such a value points to nobody
IDENTIFYING_CATEGORIES = {"NAME", "CONTACT", "ID"}
IDENTIFYING_TYPES = {"STREET", "ZIP"}
_WORD = re.compile(r"\w+")

Grams = frozenset[tuple[str, ...]]


@dataclass(frozen=True)
class Drawn:
    """A note that was taken into the pool, and its window."""

    note: Note
    window: Window


Prepare = Callable[[Note, int], Drawn | None]


def grams(text: str) -> Grams:
    """The text's 8-grams over lower-case words (all its words as one where it is shorter)."""
    words = _WORD.findall(text.casefold())
    last = max(1, len(words) - GRAM + 1)
    return frozenset(tuple(words[i : i + GRAM]) for i in range(last))


def overlap(a: Grams, b: Grams) -> float:
    """Share of the smaller text's 8-grams that the other holds too."""
    return len(a & b) / min(len(a), len(b))


def identifying(note: Note) -> set[str]:
    """Values, in lower case, of the note's PHI that points to one person, whatever its type."""
    return {
        " ".join(note.value(span).casefold().split())
        for span in note.phi
        if span.category in IDENTIFYING_CATEGORIES or span.type in IDENTIFYING_TYPES
    }


def draw(
    notes: Iterable[Note], need: int, seed: int, prepare: Prepare
) -> tuple[list[Drawn], Counter[str]]:
    """`need` notes drawn at random, pairwise disjoint, and how many were left out for which reason.

    `prepare(note, index)` fills and encodes the note that would be the `index`-th drawn; None
    leaves it out as `too_long`. Raises DataError if too few notes are left.
    """
    pool = sorted(notes, key=lambda note: note.id)
    rng = random.Random(f"{seed}/canaries/draw")
    rng.shuffle(pool)
    left_out: Counter[str] = Counter()
    drawn = list(islice(disjoint(pool, prepare, left_out), need))
    if len(drawn) < need:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
        raise DataError(
            f"data.canaries: levels and twins need {need} notes; of the {len(pool)} there are, "
            f"{len(drawn)} can be used (left out: {reasons or 'none'}); lower levels or twins, "
            "or give more notes"
        )
    rng.shuffle(drawn)  # the order of drawing favours notes unlike others; roles must not
    return drawn, left_out


def draw_whole(
    notes: Iterable[Note], wanted: Canaries, seed: int, prepare: Prepare
) -> tuple[list[Drawn], Counter[str]]:
    """As `draw`, of all notes: patients may have several, as in the paper's code. Twins come last.

    Twins are whole patients, so that nobody trains on another note of a twin's patient; notes that
    the last of them has too many of are left out as `same_patient`. Raises DataError if too few
    notes are left.
    """
    left_out: Counter[str] = Counter()
    patients: dict[str, list[Drawn]] = {}
    for index, note in enumerate(sorted(notes, key=lambda note: note.id)):
        item = prepare(note, index)
        if item is None:
            left_out["too_long"] += 1
        else:
            patients.setdefault(note.patient, []).append(item)
    rng = random.Random(f"{seed}/canaries/draw")
    names = sorted(patients)
    rng.shuffle(names)
    twins: list[Drawn] = []
    while names and len(twins) < wanted.twins:
        twins += patients[names.pop()]
    left_out["same_patient"] = max(0, len(twins) - wanted.twins)
    written = [item for name in names for item in patients[name]]
    rng.shuffle(written)
    need = sum(level.notes for level in wanted.levels)
    if len(written) < need or len(twins) < wanted.twins:
        raise DataError(
            f"data.canaries: levels need {need} notes and twins {wanted.twins}; beside the twins' "
            f"patients there are {len(written)}; lower levels or twins, or give more notes"
        )
    return written[:need] + twins[: wanted.twins], left_out


def disjoint(
    notes: Iterable[Note],
    prepare: Prepare,
    left_out: Counter[str],
    taken: Sequence[Drawn] = (),
) -> Iterator[Drawn]:
    """The notes, in order, that share nothing with one before, nor with one of `taken`.

    Others are counted by reason.
    """
    drawn = len(taken)
    patients = {item.note.patient for item in taken}
    values: set[str] = set().union(*(identifying(item.note) for item in taken))
    texts = [grams(item.window.text) for item in taken]
    for note in notes:
        if note.patient in patients:
            left_out["same_patient"] += 1
            continue
        item = prepare(note, drawn)
        if item is None:
            left_out["too_long"] += 1
            continue
        own_values, own_grams = identifying(item.note), grams(item.window.text)
        if not values.isdisjoint(own_values):
            left_out["shared_value"] += 1
            continue
        if any(overlap(own_grams, other) > OVERLAP for other in texts):
            left_out["near_duplicate"] += 1
            continue
        drawn += 1
        patients.add(note.patient)
        values |= own_values
        texts.append(own_grams)
        yield item


def plan(
    canaries: Canaries, drawn: Sequence[Drawn], shard_bytes: Mapping[str, int], seed: int
) -> tuple[Canary, ...]:
    """Canaries level by level, then twins. shard_bytes: each client's bytes of own records."""
    clients = sorted(shard_bytes)
    random.Random(f"{seed}/canaries/owners").shuffle(clients)
    copies = [level.copies for level in canaries.levels for _ in range(level.notes)]
    if canaries.placement == "one_owner":
        owners = [{clients[i % len(clients)]: n} for i, n in enumerate(copies)]
    else:
        owners = by_bytes(copies, shard_bytes, clients, seed)
    # one turn over the clients for all levels: balanced within each level and over all
    twins = [{clients[i % len(clients)]: 0} for i in range(canaries.twins)]
    roles = list(zip(copies, owners, strict=True)) + [(0, owner) for owner in twins]
    if canaries.shadow is not None:
        roles = shadowed(canaries, roles, len(clients), seed)
    return tuple(
        placed(item, owner, count) for item, (count, owner) in zip(drawn, roles, strict=True)
    )


def placed(item: Drawn, owners: dict[str, int], copies: int) -> Canary:
    """The note as a canary of its owners, or with no copies as a twin."""
    return Canary(
        id=item.note.id,
        patient=item.note.patient,
        owners=owners,
        copies=copies,
        twin=copies == 0,
        ids=item.window.ids,
        offsets=item.window.offsets,
        phi=item.window.phi,
        text=item.window.text,
        synthetic=item.note.synthetic,
    )


def by_bytes(
    copies: Sequence[int], shard_bytes: Mapping[str, int], clients: Sequence[str], seed: int
) -> list[dict[str, int]]:
    """The paper's placement: all copies shuffled, then dealt in proportion to the shards' bytes.

    Client -> copies, for each canary: copies of a note land on several clients.
    """
    dealt = [note for note, count in enumerate(copies) for _ in range(count)]
    random.Random(f"{seed}/canaries/copies").shuffle(dealt)
    shares = split(len(dealt), [shard_bytes[client] for client in clients])
    owners: list[dict[str, int]] = [{} for _ in copies]
    start = 0
    for client, share in zip(clients, shares, strict=True):
        for note in dealt[start : start + share]:
            owners[note][client] = owners[note].get(client, 0) + 1
        start += share
    return owners


def split(total: int, weights: Sequence[int]) -> list[int]:
    """`total` in whole parts proportional to `weights` (largest remainders; all 0: equal)."""
    weights = weights if sum(weights) else [1] * len(weights)
    parts = [total * weight // sum(weights) for weight in weights]
    rest = [-(total * weight % sum(weights)) for weight in weights]
    order = sorted(range(len(weights)), key=lambda i: rest[i])
    for i in order[: total - sum(parts)]:
        parts[i] += 1
    return parts
