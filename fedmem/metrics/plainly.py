"""The verdict on each client in plain words, from the rows of `verdict`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedmem.metrics.headline import interval, percent
from fedmem.metrics.intervals import LEVEL
from fedmem.metrics.verdict import ATTACKS, BOUND

Row = dict[str, Any]
WITH = {
    "own_prefix": "with only the beginnings of its own notes",
    "template": "knowing the form of the notes",
    "none": "knowing nothing",
    "repurpose": "after tuning it on notes of its own",
}


def sentences(rows: Sequence[Mapping[str, Any]], continuation: int) -> list[Row]:
    """A row for the owners of notes, each knowledge ("true_prefix", "own") and attack: `text`.

    The bound is told of the last round, what clients did themselves of all rounds. clear: the
    levels of duplication clear of the twins; null without twins, and where owners share patients.
    """
    firsts = [row for row in rows if row["figure"] == "first" and not row["twin"]]
    groups: dict[tuple[tuple[str, ...], str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["figure"] == "rate" and row["copies"] is not None:
            knowledge = BOUND if row["knowledge"] == BOUND else "own"
            if row["over"] == ("last" if knowledge == BOUND else "any"):
                key = (tuple(row["owners"]), knowledge, row["attack"])
                groups.setdefault(key, []).append(row)
    found = []
    for owners, knowledge, attack in sorted(
        groups, key=lambda key: (key[0], key[1] != BOUND, ATTACKS.index(key[2]))
    ):
        levels = groups[owners, knowledge, attack]
        rounds = [
            row["round"]
            for row in firsts
            if (tuple(row["owners"]), row["attack"]) == (owners, attack)
            and (row["knowledge"] == BOUND) == (knowledge == BOUND)
        ]
        text = _text(owners, knowledge, attack, levels, rounds, continuation)
        known = [row["clear"] for row in levels if row["clear"] is not None]
        clear = [row["copies"] for row in levels if row["clear"]] if known else None
        head: Row = {"owners": list(owners), "knowledge": knowledge, "attack": attack}
        found.append(head | {"clear": clear, "text": text})
    return found


def _text(
    owners: Sequence[str],
    knowledge: str,
    attack: str,
    levels: Sequence[Mapping[str, Any]],
    rounds: Sequence[int],
    continuation: int,
) -> str:
    whose = f"{owners[0]}'s" if len(owners) == 1 else f"the joint {_listed(owners)}"
    came = {
        "phi": "PHI",
        "window": f"{continuation} or more tokens in a row",
        "exact": f"the next {continuation} tokens exactly",
    }[attack]
    own = knowledge != BOUND
    if own and not any(row["k"] for row in levels):
        return _nothing(whose, came, levels)
    verb = f"gave other clients {came}" if own else f"gave back {came}"
    parts = []
    for index, row in enumerate(levels):
        notes = "note" if row["n"] == 1 else "notes"
        written = f"written {_times(row['copies'])}"
        of = f"of {whose} {row['n']} {notes} {written} {row['k']} {verb},"
        if index:
            of = f"of {'its' if len(owners) == 1 else 'their'} {row['n']} {written}, {row['k']},"
        span = f"{_level(row['level'])} interval " if not index or row["level"] != LEVEL else ""
        by = f" (to {row['attacker']}, {WITH.get(row['knowledge'], row['knowledge'])})"
        parts.append(f"{of} {span}{interval(dict(row))}{by if own and row['k'] else ''}")
    twins = levels[-1]["twins"]
    if twins:
        parts.append(f"twins {twins['k']} of {twins['n']}, {interval(twins)}")
    text = "; ".join(parts)
    said = [f"{text[0].upper()}{text[1:]}."]
    said += [f"The first came out in round {min(rounds)}."] if rounds else []
    tried = max(row["tried"] for row in levels)
    if own and tried > 1:
        said.append(f"That is the best of {tried} ways that clients tried.")
    return " ".join([*said, _verdict(owners, levels)])


def _nothing(whose: str, came: str, levels: Sequence[Mapping[str, Any]]) -> str:
    """No client got anything itself; an upper end each, at the level of the choice."""
    parts = [
        f"0 of {row['n']} written {_times(row['copies'])} (at most {percent(row['high'])} %)"
        for row in levels
    ]
    text = f"No other client got {came} out of {whose} notes itself: {_listed(parts)}"
    level = max(row["level"] for row in levels)
    return f"{text}, {_level(level)} intervals."


def _verdict(owners: Sequence[str], levels: Sequence[Mapping[str, Any]]) -> str:
    if len(owners) > 1:
        return f"Which of {_listed(owners)} they came from cannot be told."
    if levels[-1]["twins"] is None:
        return "No twins were held back: rates, and no claim."
    clear = [row["copies"] for row in levels if row["clear"]]
    if not clear:
        return "Not clear of the twins' level: no leak is shown."
    if len(clear) == len(levels):
        return "Clear of the twins' level."
    written = _listed([_times(copies) for copies in clear])
    return f"Clear of the twins' level: those written {written}."


def _times(copies: int) -> str:
    return "once" if copies == 1 else f"{copies} times"


def _level(level: float) -> str:
    return f"{percent(level)} %" if level == LEVEL else f"{100 * level:.1f} %"


def _listed(names: Sequence[str]) -> str:
    return " and ".join([*([", ".join(names[:-1])] if names[1:] else []), names[-1]])
