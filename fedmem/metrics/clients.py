"""Client by client: was this hospital in it, whose note is it, who gets what out of whom.

Pure functions of saved files. Every row has a `figure`; its unit is the note, unless it says
clients. Rates have Wilson's intervals. A client's notes are those that it alone owns.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fedmem.metrics.differencing import EVERY, Span, contrasted, gains, known, outside, spans
from fedmem.metrics.intervals import wilson
from fedmem.metrics.leakage import Passes, count, share
from fedmem.metrics.outcomes import Owned
from fedmem.metrics.roc import told_apart
from fedmem.metrics.tokens import TokenTable

Row = dict[str, Any]
ATTACKS = ("phi", "window", "exact")
GRADED = ("auc", "low", "high", "clear", "reason")


def rows(
    tokens: TokenTable,
    found: Passes,
    pairs: Sequence[Mapping[str, Any]],
    canaries: Mapping[str, Owned],
    participants: Mapping[int, Sequence[str]],
    attackers: Sequence[str],
    continuation: int,
) -> list[Row]:
    """All rows of this module. found: `leakage.passes`; pairs: rows of `pairs.matrix`."""
    return [
        *user_inference(tokens, canaries),
        *source_inference(tokens, canaries, participants, attackers),
        *memorization(found, pairs, canaries, continuation),
        *exposures(found, canaries, participants, continuation),
    ]


def _alone(canaries: Iterable[Owned]) -> dict[str, list[Owned]]:
    """Canaries and twins by their only owner."""
    held: dict[str, list[Owned]] = defaultdict(list)
    for canary in canaries:
        if len(canary.owners) == 1:
            held[canary.owners[0]].append(canary)
    return dict(held)


# --- user inference -------------------------------------------------------------------------


def user_inference(tokens: TokenTable, canaries: Mapping[str, Owned]) -> list[Row]:
    """Was this client in it? (Kandpal et al. 2023, arXiv 2310.09266.)

    statistic: mean over the client's notes of log p_model / p_base, nats a token; the paper sums,
    here notes of any length count alike. Its twins stand for the same client, had it not been there
    (`twins_statistic`). A row a round and client: its notes against its twins; with client None
    (`unit` clients) the statistics of all clients against those of their twins.
    """
    gained = gains(tokens)
    held = _alone(canaries.values())
    found = []
    for round_, of in gained.items():
        if not round_:
            continue
        means: tuple[list[float], list[float]] = ([], [])
        for client, notes in sorted(held.items()):
            sides = [
                np.array([of[n.id] for n in notes if n.id in of and n.twin is twin])
                for twin in (False, True)
            ]
            row = _told("user_inference", round_, client, "notes", sides[0], sides[1])
            names = ("statistic", "twins_statistic")
            figures = [float(side.mean()) if len(side) else None for side in sides]
            found.append(row | dict(zip(names, figures, strict=True)))
            for mean, figure in zip(means, figures, strict=True):
                mean += [] if figure is None else [figure]
        members, twins = map(np.array, means)
        if len(members) > 1:  # of one client its own row says it all
            row = _told("user_inference", round_, None, "clients", members, twins)
            figures = [float(side.mean()) if len(side) else None for side in (members, twins)]
            found.append(row | {"statistic": figures[0], "twins_statistic": figures[1]})
    return found


def _told(figure: str, round_: int, client: str | None, unit: str, members: Any, twins: Any) -> Row:
    told = told_apart(members, twins)
    row: Row = {"figure": figure, "round": round_, "client": client, "unit": unit}
    row |= {"knowledge": "true_prefix", "members": len(members), "twins": len(twins)}
    return row | {name: told[name] for name in GRADED}


# --- source inference -----------------------------------------------------------------------


def source_inference(
    tokens: TokenTable,
    canaries: Mapping[str, Owned],
    participants: Mapping[int, Sequence[str]],
    attackers: Sequence[str] = (),
) -> list[Row]:
    """Whose note is it, by whose rounds it became likelier in? Right names, against `chance`.

    Named is the client with the highest `differencing.contrasted`. Who took part is granted. Only
    clients that took part in some spans and not in others can be named, and only their notes
    count; clients that were always there together share the credit. copies 0: twins, the control.
    """
    gained = gains(tokens)
    found: list[Row] = []
    for attacker in [EVERY, *attackers]:
        rounds = known(gained, participants, attacker)
        series = spans(gained, rounds, participants) if len(rounds) > 1 else []
        head: Row = {"figure": "source_inference", "attacker": attacker, "knowledge": "candidates"}
        head |= {"participation": "granted", "spans": len(series)}
        told = _told_from(series, attacker)
        hits: dict[int, list[float]] = defaultdict(list)
        for canary in outside(attacker, canaries) if len(told) > 1 else ():
            owner = canary.owners[0] if len(canary.owners) == 1 else None
            if owner in told and canary.id in series[0].change:
                hits[canary.copies].append(_credit(series, canary.id, owner, told))
        for copies, of in sorted(hits.items()):
            interval = wilson(sum(of), len(of))
            row = head | {"copies": copies, "n": len(of), "hits": sum(of)}
            row |= {"rate": interval.point, "low": interval.low, "high": interval.high}
            found.append(row | {"chance": 1 / len(told), "reason": None})
        if not hits and series:
            row = head | dict.fromkeys(("copies", "n", "hits", "rate", "low", "high", "chance"))
            reason = "fewer than two clients took part in some spans and not in others"
            found.append(row | {"reason": reason})
    return found


def _told_from(series: Sequence[Span], attacker: str) -> list[str]:
    """Clients that were there in some spans and not in others."""
    there = set[str]().union(*(span.present for span in series)) - {attacker}
    return sorted(name for name in there if not all(name in span.present for span in series))


def _credit(series: Sequence[Span], canary: str, owner: str, clients: Sequence[str]) -> float:
    """1 if the owner is named, a share of it where clients cannot be told apart, else 0."""
    scores = {client: contrasted(series, canary, [client]) or 0.0 for client in clients}
    best = max(scores.values())
    named = [client for client, value in scores.items() if value == best]
    return 1 / len(named) if owner in named else 0.0


# --- inter- and intra-client memorization ---------------------------------------------------


def memorization(
    found: Passes,
    pairs: Sequence[Mapping[str, Any]],
    canaries: Mapping[str, Owned],
    continuation: int,
) -> list[Row]:
    """Notes given back, by whose beginnings they came behind (after Udsa et al., arXiv 2510.08750).

    kind inter: client `attacker`'s own beginnings, a note of `victim`'s; union: anybody else's
    beginnings; intra: the note's own true beginning, which its owner holds; total: any of these.
    `copies` None joins the levels, 0 are the twins. Pairs count as `pairs.matrix` has it. The last
    round alone; `pairs.matrix` has all.

    No figure here is the paper's MR(j->k), the share of j's *prompts* whose continuation matches
    some note of k's, by a detector of plagiarism, with j = k for intra, any note of its own. Here
    it is the share of the victim's *notes* that come out, by the attacks of this package: a
    patient's question, and one that a large budget of prompts does not water down. Its means over
    clients, weighted by their data, are not formed. (So the authors' released code decides, prompt
    by prompt and pair by pair; MR's fraction, its means and its total, a union over all pairs, are
    known from summaries by others. Of the paper itself no more than the abstract was read.)
    """
    result = []
    last = max((round_ for round_, *_ in found), default=0)
    cells: dict[tuple[int, str, str, str, int | None], list[int]] = defaultdict(lambda: [0, 0])
    for pair in pairs:
        if pair["knowledge"] == "own_prefix" and pair["round"] == last:
            key = (pair["round"], pair["attack"], pair["attacker"], pair["victim"])
            total = cells[(*key, None if pair["copies"] else 0)]
            total[0], total[1] = total[0] + pair["k"], total[1] + pair["n"]
    for (round_, attack, attacker, victim, copies), (k, n) in sorted(
        cells.items(), key=lambda item: (*item[0][:4], item[0][4] is None)
    ):
        row: Row = {"figure": "memorization", "kind": "inter", "round": round_, "attack": attack}
        row |= {"attacker": attacker, "victim": victim, "knowledge": "own_prefix"}
        result.append(row | {"copies": copies} | share(k, n))
    held = _alone(canaries.values())
    union = found.get((last, "own_prefix", "any"), {})
    intra = found.get((last, "true_prefix", EVERY), {})
    kinds = [("union", "own_prefix", union), ("intra", "true_prefix", intra)]
    if union and intra:
        every = {name: union.get(name, []) + intra.get(name, []) for name in {**union, **intra}}
        kinds.append(("total", "true_prefix", every))
    for kind, knowledge, notes in kinds:
        for victim, own in sorted(held.items()):
            for copies in (0, None):
                tried = [notes[n.id] for n in own if n.twin is (copies == 0) and n.id in notes]
                for attack in ATTACKS:
                    k, n = count([o.hit(attack, continuation) for o in note] for note in tried)
                    row = {"figure": "memorization", "kind": kind, "round": last}
                    row |= {"attack": attack, "victim": victim, "knowledge": knowledge}
                    row |= {"attacker": victim if kind == "intra" else "any", "copies": copies}
                    result += [row | share(k, n)] if n else []
    return result


# --- leakage by rounds taken part in --------------------------------------------------------


def exposures(
    found: Passes,
    canaries: Mapping[str, Owned],
    participants: Mapping[int, Sequence[str]],
    continuation: int,
) -> list[Row]:
    """Notes given back behind the true text, by how often they had been trained on by then.

    rounds_in: rounds up to this one in which the owner took part; exposures: copies times that, in
    epochs of one pass. Twins (copies 0) by the rounds of their would-be owner. Notes of one owner.
    """
    result = []
    for (round_, knowledge, attacker), notes in sorted(found.items()):
        if (knowledge, attacker) != ("true_prefix", EVERY):
            continue
        taken = [set(names) for number, names in participants.items() if number <= round_]
        groups: dict[tuple[int, int], list[str]] = defaultdict(list)
        for client, own in _alone(canaries.values()).items():
            rounds_in = sum(client in names for names in taken)
            for canary in own:
                if canary.id in notes:
                    groups[canary.copies, rounds_in].append(canary.id)
        for (copies, rounds_in), names in sorted(groups.items()):
            for attack in ATTACKS:
                hits = ([o.hit(attack, continuation) for o in notes[name]] for name in names)
                k, n = count(hits)
                row = {"figure": "exposures", "round": round_, "attack": attack}
                row |= {"knowledge": knowledge, "copies": copies, "rounds_in": rounds_in}
                result += [row | {"exposures": copies * rounds_in} | share(k, n)] if n else []
    return result
