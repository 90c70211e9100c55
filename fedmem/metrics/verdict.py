"""Leakage told client by client: whose notes came out, how often, when, to whom, at what price.

Pure functions of the saved outcomes. A note is put down to the clients that hold a note of its
patient: where there are several, all are named and nothing is attributed to one of them. What
clients did themselves is told of the most successful one; its interval is then at
1 - 5 % / attackers and ways tried (Bonferroni), for it was picked after the fact.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from fedmem.metrics.intervals import LEVEL, fisher, newcombe, wilson
from fedmem.metrics.leakage import Passes, count
from fedmem.metrics.outcomes import Outcome, Owned

Row = dict[str, Any]
Owners = tuple[str, ...]
ATTACKS = ("phi", "window", "exact")
BOUND, EVERY, ANY = "true_prefix", "*", "any"
TOP = 10


def rows(
    found: Passes, canaries: Mapping[str, Owned], continuation: int, shared: bool = True
) -> list[Row]:
    """All rows, each with a `figure`: rate, first, price, patient. found: `leakage.passes`.

    shared: one model for all; if not (local training alone), a client's twins are its own.
    """
    held = holders(canaries)
    return [
        *rates(found, canaries, held, continuation, shared),
        *first_seen(found, canaries, held, continuation),
        *prices(found, canaries, continuation),
        *patients(found, canaries, held, continuation),
    ]


def holders(canaries: Mapping[str, Owned]) -> dict[str, Owners]:
    """By note: the clients that hold a note of its patient; of a twin: that would have held it."""
    clients: dict[tuple[str, bool], set[str]] = defaultdict(set)
    for canary in canaries.values():
        clients[canary.patient, canary.twin] |= set(canary.owners)
    return {c.id: tuple(sorted(clients[c.patient, c.twin])) for c in canaries.values()}


# --- rates ----------------------------------------------------------------------------------


def rates(
    found: Passes,
    canaries: Mapping[str, Owned],
    held: Mapping[str, Owners],
    continuation: int,
    shared: bool = True,
) -> list[Row]:
    """k of n notes by owners and copies (None: all), beside the twins and the untouched base.

    knowledge true_prefix, attacker "*": the auditor's bound. Otherwise the most successful other
    client and its knowledge; `tried`: of how many, `level`: that of its interval. over: "last", the
    last round whose model it has, or "any", whatever came out in any round. clear: the interval of
    the difference to the twins lies above 0, and Fisher's exact test agrees (a client's notes may
    be very few); null without twins, and where owners share a patient.
    """
    groups: dict[Owners, dict[int | None, list[str]]] = defaultdict(lambda: defaultdict(list))
    twins: dict[Owners, list[str]] = defaultdict(list)
    for canary in canaries.values():
        if canary.twin:
            twins[held[canary.id]].append(canary.id)
        else:
            for copies in (canary.copies, None):
                groups[held[canary.id]][copies].append(canary.id)
    everyone = [name for names in twins.values() for name in names]
    result = []
    for owners, levels in sorted(groups.items()):
        chance = everyone if shared else twins.get(owners, [])
        for copies in sorted(levels, key=lambda one: math.inf if one is None else one):
            if copies is None and len(levels) == 2:
                continue
            for over in ("last", "any"):
                for attack in ATTACKS:
                    for ways in _ways(found, owners):
                        case = (found, ways, levels[copies], chance, attack, over, continuation)
                        row = _rate(*case)
                        if row:
                            head: Row = {"figure": "rate", "owners": list(owners)}
                            row["clear"] = row["clear"] if len(owners) == 1 else None
                            result.append(head | {"copies": copies, "attack": attack} | row)
    return result


def _ways(found: Passes, owners: Owners) -> list[list[tuple[str, str]]]:
    """(knowledge, attacker): the bound; and those of clients that hold no note of the patient."""
    named = {(knowledge, attacker) for round_, knowledge, attacker in found if round_}
    own = sorted(
        (knowledge, attacker)
        for knowledge, attacker in named
        if knowledge != BOUND and attacker not in (EVERY, ANY, *owners)
    )
    return [ways for ways in ([(BOUND, EVERY)] if (BOUND, EVERY) in named else [], own) if ways]


def _rate(
    found: Passes,
    ways: Sequence[tuple[str, str]],
    notes: Sequence[str],
    twins: Sequence[str],
    attack: str,
    over: str,
    continuation: int,
) -> Row | None:
    """The most successful way, of those that could be tried on the notes at all."""
    counted = []
    for knowledge, attacker in ways:
        rounds = sorted(r for r, k, a in found if r and (k, a) == (knowledge, attacker))
        of = [found[r, knowledge, attacker] for r in (rounds[-1:] if over == "last" else rounds)]
        k, n = _count(of, notes, attack, continuation)
        if n:
            counted.append((k / n, n, k, knowledge, attacker, of, rounds[-1]))
    if not counted:
        return None
    _, n, k, knowledge, attacker, of, last = max(counted, key=lambda one: one[:2])
    level = 1 - (1 - LEVEL) / len(counted)
    base = found.get((0, knowledge, attacker), {})
    control = _count(of, twins, attack, continuation)
    gap = newcombe(k, n, *control, level) if control[1] else None
    clear = gap.low > 0 and fisher(k, n, *control) <= (1 - level) / 2 if gap else None
    row = {"knowledge": knowledge, "attacker": attacker, "tried": len(counted), "level": level}
    row |= {"over": over, "round": last} | _share((k, n), level)
    row |= {"twins": _share(control, level) if control[1] else None}
    untouched = _count([base], notes, attack, continuation)
    row |= {"base": _share(untouched, level) if untouched[1] else None}
    return row | {"difference": asdict(gap) if gap else None, "clear": clear}


def _count(
    of: Sequence[Mapping[str, list[Outcome]]], names: Iterable[str], attack: str, continuation: int
) -> tuple[int, int]:
    return count(
        [o.hit(attack, continuation) for notes in of for o in notes.get(name, ())] for name in names
    )


def _share(counted: tuple[int, int], level: float = LEVEL) -> Row:
    k, n = counted
    interval = wilson(k, n, level)
    return {"k": k, "n": n, "rate": interval.point, "low": interval.low, "high": interval.high}


# --- when, and at what price ----------------------------------------------------------------


def first_seen(
    found: Passes,
    canaries: Mapping[str, Owned],
    held: Mapping[str, Owners],
    continuation: int,
) -> list[Row]:
    """For each note, twins too, and each attack: the first round at which it came out, and to whom.

    attackers: those to whom it came out in that round; queries: the fewest that one of them had
    spent by then. None of a note that never came out.
    """
    spent = _spent(found)
    result = []
    ways = sorted({(k, a) for _, k, a in found if a != ANY})
    for knowledge in sorted({knowledge for knowledge, _ in ways}):
        seen: dict[tuple[str, str], tuple[int, list[str]]] = {}
        for round_ in sorted({r for r, k, _ in found if r and k == knowledge}):
            for attacker in (a for k, a in ways if k == knowledge):
                for name, note in found.get((round_, knowledge, attacker), {}).items():
                    for attack in ATTACKS:
                        if any(o.hit(attack, continuation) for o in note):
                            when, who = seen.setdefault((name, attack), (round_, []))
                            who += [attacker] if when == round_ else []
        for (name, attack), (round_, attackers) in sorted(seen.items()):
            canary = canaries[name]
            queries = [spent.get((round_, knowledge, attacker), 0) for attacker in attackers]
            row: Row = {"figure": "first", "canary": name, "patient": canary.patient}
            row |= {"owners": list(held[name]), "copies": canary.copies, "twin": canary.twin}
            row |= {"attack": attack, "knowledge": knowledge, "round": round_}
            price = None if knowledge == BOUND else min(queries)
            result.append(row | {"attackers": attackers, "queries": price})
    return result


def _spent(found: Passes) -> dict[tuple[int, str, str], int]:
    """Queries of a named attacker and way, up to and with a round."""
    result = {}
    total: dict[tuple[str, str], int] = defaultdict(int)
    for (round_, knowledge, attacker), notes in sorted(found.items()):
        if round_ and attacker not in (EVERY, ANY) and notes:
            of = max(o.queries for note in notes.values() for o in note)
            total[knowledge, attacker] += of
            result[round_, knowledge, attacker] = total[knowledge, attacker]
    return result


def prices(found: Passes, canaries: Mapping[str, Owned], continuation: int) -> list[Row]:
    """Notes got per thousand queries, all rounds together, by attacker, way, attack and copies.

    The queries are what was spent, the notes the sample: `low` and `high` are Wilson's for k of n.
    twins: what as many twins gave for the same queries. The auditor's bound has no price.
    """
    spent = _spent(found)
    result = []
    for knowledge, attacker in sorted({(k, a) for _, k, a in spent}):
        rounds = [r for r, k, a in spent if (k, a) == (knowledge, attacker)]
        of = [found[r, knowledge, attacker] for r in rounds]
        queries = spent[max(rounds), knowledge, attacker]
        names = sorted({name for notes in of for name in notes})
        levels = sorted({canaries[name].copies for name in names if not canaries[name].twin})
        twins = [name for name in names if canaries[name].twin]
        for copies in [None, *levels] if len(levels) > 1 else levels:
            notes = [
                name
                for name in names
                if not canaries[name].twin and copies in (None, canaries[name].copies)
            ]
            for attack in ATTACKS:
                k, n = _count(of, notes, attack, continuation)
                if not n or not queries:
                    continue
                head: Row = {"figure": "price", "attacker": attacker, "knowledge": knowledge}
                head |= {"attack": attack, "copies": copies, "queries": queries, "k": k, "n": n}
                chance = _count(of, twins, attack, continuation)
                scale = 1000 * n / queries
                row = head | _scaled((k, n), scale)
                result.append(row | {"twins": _scaled(chance, scale) if chance[1] else None})
    return result


def _scaled(counted: tuple[int, int], scale: float) -> Row:
    share = _share(counted)
    return {"rate": scale * share["rate"]} | {end: scale * share[end] for end in ("low", "high")}


# --- the most exposed -----------------------------------------------------------------------


def patients(
    found: Passes,
    canaries: Mapping[str, Owned],
    held: Mapping[str, Owners],
    continuation: int,
    top: int = TOP,
) -> list[Row]:
    """The patients of whom most came out, over all rounds; then the worst twin, for scale.

    Ordered by values that other clients got themselves, then by values behind the true text, then
    by the longest run of tokens. leaked: a value, an exact match or a run of `continuation` tokens.
    """
    of: dict[tuple[bool, str], list[Owned]] = defaultdict(list)
    for canary in canaries.values():
        of[canary.twin, canary.patient].append(canary)
    made = [_patient(found, notes, held, continuation) for _, notes in sorted(of.items())]
    ranked = sorted(made, key=lambda row: (-row["own"], -row["phi"], -(row["longest"] or 0)))
    written = [row for row in ranked if row["leaked"] and not row["twin"]][:top]
    return written + [row for row in ranked if row["twin"]][:1]


def _patient(
    found: Passes, notes: Sequence[Owned], held: Mapping[str, Owners], continuation: int
) -> Row:
    bound: set[tuple[str, int]] = set()
    own: set[tuple[str, int]] = set()
    takers: set[str] = set()
    first: list[int] = []
    longest: list[int] = []
    for (round_, knowledge, attacker), outcomes in found.items():
        if not round_ or attacker == ANY:
            continue
        for note in notes:
            for one in outcomes.get(note.id, ()):
                values = {(note.id, index) for index, hit in one.phi.items() if hit}
                out = any(one.hit(attack, continuation) for attack in ATTACKS)
                first += [round_] if out else []
                longest += [one.longest] if one.longest is not None else []
                (bound if knowledge == BOUND else own).update(values)
                takers |= {attacker} if out and attacker != EVERY else set()
    head: Row = {"figure": "patient", "patient": notes[0].patient, "notes": len(notes)}
    head |= {"canaries": [note.id for note in notes], "owners": list(held[notes[0].id])}
    head |= {"copies": max(note.copies for note in notes), "twin": notes[0].twin}
    head |= {"phi": len(bound), "own": len(own), "phi_values": sum(note.phi for note in notes)}
    head |= {"longest": max(longest, default=None), "attackers": sorted(takers)}
    return head | {"first": min(first, default=None), "leaked": bool(first)}
