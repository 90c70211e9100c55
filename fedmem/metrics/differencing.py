"""Across rounds: what the change from one global model to the next tells about a note or a client.

Pure functions of tokens.parquet and metrics.jsonl (server.parquet for a client's own update). All
begins with gains: how much more likely, in nats a token, a note is than under the untouched base.
Between two models the base cancels out. Notes rise and fall with the schedule and with all that is
learned; so a change is standardised over all candidate notes of its span.

Seats. "*": whoever received every global model. A named client has the base, and the models before
and after each round it took part in; its own notes do not count. Who else took part, it does not
see: `participation` says "granted" where the attack uses it, "guessed" where that is the question.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from fedmem.metrics.intervals import LEVEL, Interval, wilson
from fedmem.metrics.outcomes import Columns, Owned
from fedmem.metrics.outcomes import rows as rows_of
from fedmem.metrics.roc import auc, told_apart
from fedmem.metrics.tokens import TokenTable

Row = dict[str, Any]
Gains = dict[int, dict[str, float]]  # round -> canary -> nats a token above the base
EVERY = "*"


@dataclass(frozen=True)
class Span:
    """From the model after round `first` to that after `last`; present: who took part in between.

    change: nats a token by canary. standard: the same, less its mean and over its standard
    deviation over all of them.
    """

    first: int
    last: int
    present: frozenset[str]
    change: dict[str, float]

    @cached_property
    def standard(self) -> dict[str, float]:
        values = np.array([*self.change.values()])
        spread = float(values.std()) or 1.0
        mean = float(values.mean())
        return {name: (value - mean) / spread for name, value in self.change.items()}


def gains(tokens: TokenTable) -> Gains:
    """Of every scored global model; empty without one, or without the base's scores."""
    found: Gains = {}
    for (round_, model, name), one in tokens.items():
        base = tokens.get((0, model, name))
        if model == "global" and base is not None and len(one.logprob):
            nats = float((one.logprob.astype(np.float64) - base.logprob).mean())
            found.setdefault(round_, {})[name] = nats
    return dict(sorted(found.items()))


def known(gained: Gains, participants: Mapping[int, Sequence[str]], attacker: str) -> list[int]:
    """The rounds whose models the attacker has, the base (0) first."""
    if attacker == EVERY:
        return sorted(gained)
    there = {round_ for round_, names in participants.items() if attacker in names}
    return sorted(({0} | there | {round_ - 1 for round_ in there}) & set(gained))


def outside(attacker: str, canaries: Mapping[str, Owned]) -> list[Owned]:
    """The notes that count: of which the attacker holds no copy, nor a note of the patient's."""
    held = {c.patient for c in canaries.values() if attacker in c.owners and not c.twin}
    return [c for c in canaries.values() if attacker not in c.owners and c.patient not in held]


def spans(
    gained: Gains, rounds: Sequence[int], participants: Mapping[int, Sequence[str]]
) -> list[Span]:
    """Each model against the one before, of those in `rounds`."""
    return [
        Span(
            *(a, b, frozenset(n for r in range(a + 1, b + 1) for n in participants.get(r, ()))),
            {name: value - gained[a][name] for name, value in gained[b].items()},
        )
        for a, b in pairwise(rounds)
    ]


# --- scores of a note: higher speaks for membership; None where there is none ---------------


def final(of: Sequence[Span], canary: Owned) -> float | None:
    """The last model against the base: the reference attack, beside which the others stand."""
    return math.fsum(span.change[canary.id] for span in of)


def peak(of: Sequence[Span], canary: Owned) -> float | None:
    """The highest gain after any round, a note's own best; twins have theirs alike."""
    total, best = 0.0, -math.inf
    for span in of:
        total += span.change[canary.id]
        best = max(best, total)
    return best


def jump(of: Sequence[Span], canary: Owned) -> float | None:
    """The largest standardised change from one model to the next."""
    return max(span.standard[canary.id] for span in of)


def contrast(of: Sequence[Span], canary: Owned) -> float | None:
    """Mean standardised change in spans in which its owners took part, less that in the others."""
    return contrasted(of, canary.id, canary.owners)


def contrasted(of: Sequence[Span], canary: str, clients: Iterable[str]) -> float | None:
    """The same for any clients; None where they took part in all spans or in none."""
    there: tuple[list[float], list[float]] = ([], [])
    for span in of:
        there[span.present.isdisjoint(clients)].append(span.standard[canary])
    with_, without = there
    return float(np.mean(with_) - np.mean(without)) if with_ and without else None


SCORES: dict[str, Callable[[Sequence[Span], Owned], float | None]] = {
    "final": final,
    "peak": peak,
    "jump": jump,
    "contrast": contrast,
}


# --- rows -----------------------------------------------------------------------------------


def rows(
    tokens: TokenTable,
    canaries: Mapping[str, Owned],
    participants: Mapping[int, Sequence[str]],
    attackers: Sequence[str] = (),
    own: Mapping[tuple[int, str, str], float] | None = None,
) -> list[Row]:
    """Rows of three `figure`s, with the columns of `roc.told_apart`.

    membership: canaries against twins by each of SCORES. best_round: the round whose gains tell
    them apart best, its interval at 1 - 5 % / rounds tried, beside the last one's. participation:
    how often, of a client that took part in a span and one that did not, the first one's notes
    changed more (`auc`; Wilson over the n spans that have both: clients of one span hang together);
    `notes` "twins" is the control: notes that would have been the client's, and never were.

    own: `own_effects`; then an attacker's rows stand there twice, with its own update's effect
    subtracted (`own` true) and without.
    """
    gained = gains(tokens)
    if len(gained) < 2:
        return []
    found: list[Row] = []
    for attacker in [EVERY, *attackers]:
        rounds = known(gained, participants, attacker)
        if len(rounds) < 2:
            continue
        of = [canary for canary in outside(attacker, canaries) if canary.id in gained[rounds[0]]]
        seen = spans(gained, rounds, participants)
        variants = [(False, seen)]
        if own and attacker != EVERY:
            variants.append((True, [_less_own(span, attacker, own) for span in seen]))
        for subtracted, series in variants:
            head = {"attacker": attacker, "knowledge": "true_prefix", "own": subtracted}
            found += _membership(head, series, of)
            found += _participation(head, series, of, attacker)
        if attacker == EVERY:
            found += _best_round(gained, of)
    return found


def _membership(head: Row, series: Sequence[Span], of: Sequence[Owned]) -> list[Row]:
    found = []
    levels = sorted({canary.copies for canary in of if not canary.twin})
    if head["attacker"] != EVERY:
        levels = []  # all levels together are enough for a seat
    for attack, score in SCORES.items():
        scores = {canary.id: score(series, canary) for canary in of}
        missing = sum(value is None for value in scores.values())
        reason = None
        if missing == len(scores):
            reason = "no note's owner took part in some spans and not in others"
        granted = "granted" if attack == "contrast" else None
        for copies in [None, *levels] if len(levels) > 1 else [None]:
            sides: tuple[list[float], list[float]] = ([], [])
            for canary in of:
                value = scores[canary.id]
                if value is not None and (canary.twin or copies in (None, canary.copies)):
                    sides[canary.twin].append(value)
            row = {"figure": "membership", **head, "attack": attack, "copies": copies}
            row |= {"participation": granted, "spans": len(series), "left_out": missing}
            found.append(row | told_apart(np.array(sides[0]), np.array(sides[1]), reason))
    return found


def _best_round(gained: Gains, of: Sequence[Owned]) -> list[Row]:
    def of_round(round_: int, level: float = LEVEL) -> Interval:
        members, twins = (
            np.array([gained[round_][c.id] for c in of if c.twin is twin]) for twin in (False, True)
        )
        return auc(members, twins, level)

    tried = [round_ for round_ in gained if round_]
    twins = sum(canary.twin for canary in of)
    if not 0 < twins < len(of):
        return []
    best = max(tried, key=lambda round_: of_round(round_).point)
    at, last = of_round(best, 1 - (1 - LEVEL) / len(tried)), of_round(tried[-1])
    row: Row = {"figure": "best_round", "attacker": EVERY, "knowledge": "true_prefix"}
    row |= {"round": best, "rounds_tried": len(tried), "members": len(of) - twins}
    row |= {"twins": twins, "auc": at.point, "low": at.low, "high": at.high}
    row |= {"clear": at.low > 0.5, "last_round": tried[-1], "last_auc": last.point}
    return [row | {"last_low": last.low, "last_high": last.high, "reason": None}]


def _participation(
    head: Row, series: Sequence[Span], of: Sequence[Owned], attacker: str
) -> list[Row]:
    found = []
    for notes in ("written", "twins"):
        groups: dict[str, list[str]] = {}
        for canary in of:
            if canary.twin is (notes == "twins") and len(canary.owners) == 1:
                groups.setdefault(canary.owners[0], []).append(canary.id)
        wins, present, absent = [], 0, 0
        for span in series:
            standard = span.standard
            sides: tuple[list[float], list[float]] = ([], [])
            for client, names in groups.items():
                if client != attacker:
                    value = float(np.mean([standard[name] for name in names]))
                    sides[client in span.present].append(value)
            absent, present = absent + len(sides[0]), present + len(sides[1])
            if all(sides):
                wins.append(auc(np.array(sides[1]), np.array(sides[0])).point)
        row = {"figure": "participation", **head, "participation": "guessed", "notes": notes}
        row |= {"spans": len(series), "present": present, "absent": absent, "n": len(wins)}
        if wins:
            area = wilson(math.fsum(wins), len(wins))
            figures = {"auc": area.point, "low": area.low, "high": area.high}
            found.append(row | figures | {"clear": area.low > 0.5, "reason": None})
            continue
        reason = "in no span did some take part and others not"
        if not groups:
            reason = f"no client's own {'twins' if notes == 'twins' else 'canaries'}"
        found.append(row | dict.fromkeys(("auc", "low", "high", "clear")) | {"reason": reason})
    return found


# --- what a client can subtract ------------------------------------------------------------


def own_effects(
    watched: Columns, tokens: TokenTable, shares: Mapping[int, Mapping[str, float]]
) -> dict[tuple[int, str, str], float]:
    """(round, client, canary) -> nats a token that the client's own update added to the average.

    watched: rows of server.parquet, the notes under the received model with one client's update.
    shares: each client's weight in a round's average. To first order: an update's effect in the
    average is its effect by itself, times its weight.
    """
    found = {}
    for row in rows_of(watched, ("round", "client", "canary", "tokens", "logprob")):
        before = tokens.get((row["round"] - 1, "global", row["canary"]))
        if before is not None and row["tokens"]:
            effect = row["logprob"] / row["tokens"] - float(before.logprob.mean(dtype=np.float64))
            share = shares.get(row["round"], {}).get(row["client"], 0.0)
            found[row["round"], row["client"], row["canary"]] = effect * share
    return found


def _less_own(span: Span, attacker: str, own: Mapping[tuple[int, str, str], float]) -> Span:
    rounds = range(span.first + 1, span.last + 1)
    change = {
        name: value - math.fsum(own.get((round_, attacker, name), 0.0) for round_ in rounds)
        for name, value in span.change.items()
    }
    return Span(span.first, span.last, span.present, change)
