"""How much came out: k of n notes by round, level, knowledge and attack, beside twins and base.

Level = number of copies written; 0 are the twins, from the same pool, never trained on: what they
"leak" is chance. Round 0 is the untouched base: what it knows is no leak of this training.

Rows with attacker "*" speak of the model itself, whoever received it. Rows that name an attacker
count only rounds it took part in and notes it is an outsider to; "any" is the union of those.
Under local-only training nobody receives another's model: a note is judged in its owner's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from fedmem.metrics.intervals import bootstrap_mean, cluster_share, newcombe, wilson
from fedmem.metrics.outcomes import Key, Outcome, Owned, eligible

Row = dict[str, Any]
Notes = dict[str, list[Outcome]]  # canary -> its outcomes; several where attackers are joined
Passes = dict[tuple[int, str, str], Notes]  # (round, knowledge, attacker)
ATTACKS = ("phi", "window", "exact", "approximate")


def passes(
    outcomes: Mapping[Key, Outcome],
    canaries: Mapping[str, Owned],
    participants: Mapping[int, Sequence[str]],
) -> Passes:
    """Outcomes that count, by (round, knowledge, attacker); the attacker "any" joins named ones."""
    found: Passes = defaultdict(lambda: defaultdict(list))
    allowed = {
        (attacker, canary.id): eligible(attacker, canary, canaries) is None
        for attacker in {key.attacker for key in outcomes} - {"*"}
        for canary in canaries.values()
    }
    for key, outcome in outcomes.items():
        canary = canaries[key.canary]
        if key.attacker == "*":
            if key.model == "global" or key.model in canary.owners:
                found[key.round, key.knowledge, "*"][key.canary].append(outcome)
            continue
        took_part = key.round == 0 or key.attacker in participants.get(key.round, ())
        received = key.model in ("global", key.attacker)
        if took_part and received and allowed[key.attacker, key.canary]:
            for name in (key.attacker, "any"):
                found[key.round, key.knowledge, name][key.canary].append(outcome)
    return {key: dict(notes) for key, notes in found.items()}


def share(k: int, n: int) -> Row:
    """k of n notes with Wilson's interval, as a summary holds it."""
    interval = wilson(k, n)
    return {"k": k, "n": n, "rate": interval.point, "low": interval.low, "high": interval.high}


def count(tried: Iterable[list[bool | None]]) -> tuple[int, int]:
    """(notes with a hit, notes tried); each note may have been tried several times."""
    known = [[hit for hit in note if hit is not None] for note in tried]
    known = [note for note in known if note]
    return sum(any(note) for note in known), len(known)


def by_level(notes: Notes, canaries: Mapping[str, Owned]) -> dict[int, Notes]:
    """The notes of each number of copies; 0 are the twins."""
    levels: dict[int, Notes] = defaultdict(dict)
    for name in sorted(notes):
        levels[0 if canaries[name].twin else canaries[name].copies][name] = notes[name]
    return dict(sorted(levels.items()))


def _prefixes(notes: Notes) -> list[int]:
    """Prefix lengths tried, shortest first."""
    return sorted({p for note in notes.values() for outcome in note for p in outcome.exact})


def note_shares(found: Passes, canaries: Mapping[str, Owned], continuation: int) -> list[Row]:
    """Share of notes by round, knowledge, attacker, level, attack and prefix (None: any length)."""
    result: list[Row] = []
    for (round_, knowledge, attacker), notes in sorted(found.items()):
        for copies, group in by_level(notes, canaries).items():
            lengths = _prefixes(group)
            cases = [(a, p) for a in ATTACKS[2:] for p in lengths]
            for attack, prefix in [*((a, None) for a in ATTACKS), *cases]:
                k, n = count(
                    [o.hit(attack, continuation, prefix) for o in note] for note in group.values()
                )
                if n:
                    row = _head(round_, knowledge, attacker, copies)
                    row |= {"attack": attack, "prefix": prefix}
                    row |= _prefix_size(group, prefix) | share(k, n)
                    result.append(row)
    compare(result, ("attack", "prefix"), newcombe)
    return result


def _head(round_: int, knowledge: str, attacker: str, copies: int) -> Row:
    return {"round": round_, "knowledge": knowledge, "attacker": attacker, "copies": copies}


def _prefix_size(group: Notes, prefix: int | None) -> Row:
    """Mean tokens and characters of the prompts of this length."""
    sizes = [
        o.prefix[prefix]
        for note in group.values()
        for o in note
        if prefix is not None and prefix in o.prefix
    ]
    if not sizes:
        return {"prefix_tokens": None, "prefix_chars": None}
    means = [round(sum(column) / len(sizes), 1) for column in zip(*sizes, strict=True)]
    return {"prefix_tokens": means[0], "prefix_chars": means[1]}


def compare(result: list[Row], same: tuple[str, ...], test: Callable[..., Any] | None) -> None:
    """Put beside each row the twins' figure and the base's; whether it is clear of the twins.

    "Clear": the whole 95 % interval of the difference to the twins lies above 0. Null without
    twins, for the twins themselves, and in round 0.
    """
    figures = ("k", "n", "rate", "low", "high")

    def key(row: Row, round_: int, copies: int) -> tuple[Any, ...]:
        keys = (row[name] for name in same)
        return (round_, row["knowledge"], row["attacker"], copies, *keys)

    index = {key(row, row["round"], row["copies"]): row for row in result}
    for row in result:
        twins = index.get(key(row, row["round"], 0)) if row["copies"] else None
        base = index.get(key(row, 0, row["copies"])) if row["round"] else None
        row["twins"] = {name: twins[name] for name in figures} if twins else None
        row["base"] = {name: base[name] for name in figures} if base else None
        if test:
            difference = test(row["k"], row["n"], twins["k"], twins["n"]) if twins else None
            row["difference"] = asdict(difference) if difference else None
            row["clear"] = difference.low > 0 if difference and row["round"] else None


def value_shares(found: Passes, canaries: Mapping[str, Owned], by: str | None = None) -> list[Row]:
    """Share of PHI values given back; interval over notes. `by`: None, "category" or "type"."""
    result: list[Row] = []
    for (round_, knowledge, attacker), notes in sorted(found.items()):
        for copies, group in by_level(notes, canaries).items():
            counts: dict[str | None, dict[str, tuple[int, int]]] = defaultdict(dict)
            for name, note in group.items():
                for index, (category, type_) in _kinds(note).items():
                    kind = {"category": category, "type": type_}.get(by or "")
                    k, n = counts[kind].get(name, (0, 0))
                    counts[kind][name] = (k + any(o.phi.get(index) for o in note), n + 1)
            for kind, pairs in sorted(counts.items(), key=lambda item: str(item[0])):
                hits, values = zip(*pairs.values(), strict=True)
                interval, method = cluster_share(hits, values)
                row = _head(round_, knowledge, attacker, copies) | ({by: kind} if by else {})
                row |= {"k": sum(hits), "n": sum(values), "rate": interval.point}
                row |= {"low": interval.low, "high": interval.high}
                result.append(row | {"notes": len(pairs), "method": method})
    compare(result, (by,) if by else (), None)
    return result


def _kinds(note: list[Outcome]) -> dict[int, tuple[str, str]]:
    """Index of each value tried -> its category and type."""
    return {index: kind for outcome in note for index, kind in outcome.kinds.items()}


def losses(found: Passes, canaries: Mapping[str, Owned], seed: int = 0) -> list[Row]:
    """Mean over notes of a note's NLL a token (nats), by round and level; notes bootstrapped."""
    result = []
    for (round_, knowledge, attacker), notes in sorted(found.items()):
        for copies, group in by_level(notes, canaries).items():
            values = [o.nll for note in group.values() for o in note[:1] if o.nll is not None]
            if values:
                interval = bootstrap_mean(values, seed)
                row = _head(round_, knowledge, attacker, copies) | {"notes": len(values)}
                row |= {"nll": interval.point, "low": interval.low, "high": interval.high}
                result.append(row)
    return result


def worst(
    found: Passes, canaries: Mapping[str, Owned], continuation: int, top: int = 10
) -> list[Row]:
    """The notes that leaked most, each in its worst round: PHI values, longest run, matched tokens.

    Injected notes first, `top` of them; then the one worst twin, for scale. `leaked` says whether
    a value, an exact match or a run of `continuation` tokens came out at all.
    """
    best: dict[str, Row] = {}
    for (round_, knowledge, attacker), notes in sorted(found.items()):
        if round_ == 0 or attacker == "any":
            continue
        for name, note in sorted(notes.items()):
            row = _worst_row(_head(round_, knowledge, attacker, 0), canaries[name], note)
            row["leaked"] = any(
                o.hit(attack, continuation) for o in note for attack in ("phi", "window", "exact")
            )
            if name not in best or _severity(row) > _severity(best[name]):
                best[name] = row
    ranked = sorted(best.values(), key=_severity, reverse=True)  # stable: ids break ties
    injected = [row for row in ranked if not row["twin"]][:top]
    return injected + [row for row in ranked if row["twin"]][:1]


def _severity(row: Row) -> tuple[int, int, int]:
    return len(row["phi_hits"]), row["longest"] or 0, row["matched"] or 0


def _worst_row(head: Row, canary: Owned, note: list[Outcome]) -> Row:
    kinds = _kinds(note)
    hits = sorted(i for i in kinds if any(o.phi.get(i) for o in note))
    matched = max((o.best for o in note if o.best), default=None)
    names = ("matched", "continuation", "prefix_tokens", "prefix_chars", "bleu")
    return head | {
        "canary": canary.id,
        "owners": list(canary.owners),
        "copies": canary.copies,
        "twin": canary.twin,
        "tokens": canary.tokens,
        "chars": canary.chars,
        "phi_hits": hits,
        "phi_values": len(kinds),
        "phi_types": [kinds[i][1] for i in hits],
        "longest": max((o.longest for o in note if o.longest is not None), default=None),
        **dict(zip(names, matched or [None] * len(names), strict=True)),
    }
