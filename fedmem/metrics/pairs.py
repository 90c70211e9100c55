"""Attacker x victim: what one client could get back of the notes that one other client holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from fedmem.metrics.leakage import Row, count, share
from fedmem.metrics.outcomes import Key, Outcome, Owned, eligible

ATTACKS = ("phi", "window", "exact")


def admitted(
    attacker: str, victim: str, canaries: Mapping[str, Owned]
) -> tuple[dict[int, list[str]], list[Row]]:
    """The victim's notes that count against `attacker`, by copies; the others counted by reason.

    A note counts if the victim alone holds it, and the attacker holds no other note of the patient.
    Twins that would have been the victim's (copies 0) count alike: they are the level of chance.
    """
    notes: dict[int, list[str]] = {}
    reasons: Counter[tuple[int, str]] = Counter()
    for canary in canaries.values():
        if victim not in canary.owners:
            continue
        reason = eligible(attacker, canary, canaries)
        if reason is None and len(canary.owners) > 1:
            held = "would have held" if canary.twin else "holds"
            reason = f"another client {held} a copy"
        if reason:
            reasons[canary.copies, reason] += 1
        else:
            notes.setdefault(canary.copies, []).append(canary.id)
    pair = {"attacker": attacker, "victim": victim}
    excluded = [
        pair | {"copies": copies, "reason": reason, "notes": n}
        for (copies, reason), n in sorted(reasons.items())
    ]
    return notes, excluded


def matrix(
    outcomes: Mapping[Key, Outcome],
    canaries: Mapping[str, Owned],
    participants: Mapping[int, Sequence[str]],
    clients: Sequence[str],
    attackers: Sequence[str],
    continuation: int,
) -> tuple[list[Row], list[Row]]:
    """(rows by round, knowledge, attack, attacker, victim, copies; excluded notes by reason).

    An attacker counts in the rounds it took part in: then it received the model. Rows of the
    attacker "*" count for each of them (so columns of a victim agree up to the exclusions);
    named rows count for that client only.
    """
    index: dict[tuple[int, str, str, str], list[Outcome]] = {}
    cells: set[tuple[int, str]] = set()
    for key, outcome in outcomes.items():
        for attacker in attackers if key.attacker == "*" else [key.attacker]:
            if key.model in ("global", attacker):
                place = (key.round, key.knowledge, attacker, key.canary)
                index.setdefault(place, []).append(outcome)
                cells.add((key.round, key.knowledge))
    result: list[Row] = []
    left_out: list[Row] = []
    for attacker in attackers:
        for victim in clients:
            if attacker == victim:
                continue
            notes, excluded = admitted(attacker, victim, canaries)
            left_out += excluded
            for round_, knowledge in sorted(cells):
                if round_ and attacker not in participants.get(round_, ()):
                    continue
                head = {"round": round_, "knowledge": knowledge}
                head |= {"attacker": attacker, "victim": victim}
                for copies, names in sorted(notes.items()):
                    tried = [index.get((round_, knowledge, attacker, n), []) for n in names]
                    result += _cells(head | {"copies": copies}, tried, continuation)
    return result, left_out


def _cells(head: dict[str, Any], tried: list[list[Outcome]], continuation: int) -> list[Row]:
    rows = []
    for attack in ATTACKS:
        k, n = count([o.hit(attack, continuation) for o in note] for note in tried)
        if n:
            rows.append(head | {"attack": attack} | share(k, n))
    return rows
