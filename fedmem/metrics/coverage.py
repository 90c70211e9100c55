"""What a client finds by its own queries: coverage and efficiency (FedPII, arXiv 2506.06060).

Coverage: values that one other client alone holds and that came out, of all such values.
Efficiency: values found for each query spent. By round, and over all rounds together (None).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from fedmem.metrics.intervals import cluster_share
from fedmem.metrics.leakage import Passes, Row
from fedmem.metrics.outcomes import Owned

Found = dict[str, dict[int, bool]]  # canary -> value -> did it come out?


def rows(passes: Passes, canaries: Mapping[str, Owned]) -> list[Row]:
    """By round, knowledge, attacker ("any": together) and copies; the twins' rows are chance.

    queries: all that were spent. per_thousand: values found per thousand queries, with the
    coverage's interval, notes being the unit. Null where nothing was asked.
    """
    spent: dict[tuple[int | None, str, str], int] = defaultdict(int)
    came: dict[tuple[int | None, str, str], Found] = defaultdict(lambda: defaultdict(dict))
    for (round_, knowledge, attacker), notes in sorted(passes.items()):
        if attacker in ("*", "any"):
            continue
        queries = max(o.queries for note in notes.values() for o in note)
        for name in (attacker, "any"):
            for when in (round_, None) if round_ else (round_,):
                spent[when, knowledge, name] += queries
                of = came[when, knowledge, name]
                for canary, note in notes.items():
                    if len(canaries[canary].owners) == 1:  # else it is nobody's alone
                        for outcome in note:
                            for index, hit in outcome.phi.items():
                                of[canary][index] = of[canary].get(index, False) or hit
    found: list[Row] = []
    for key in sorted(came, key=lambda key: (key[0] is None, key[0] or 0, *key[1:])):
        round_when, knowledge, attacker = key
        levels: dict[int, list[dict[int, bool]]] = defaultdict(list)
        for canary, values in came[key].items():
            levels[canaries[canary].copies].append(values)
        for copies, of_level in sorted(levels.items()):
            hits = [sum(values.values()) for values in of_level]
            sizes = [len(values) for values in of_level]
            interval, method = cluster_share(hits, sizes)
            row: Row = {"round": round_when, "knowledge": knowledge, "attacker": attacker}
            row |= {"copies": copies, "k": sum(hits), "n": sum(sizes), "notes": len(hits)}
            row |= {"rate": interval.point, "low": interval.low, "high": interval.high}
            row |= {"method": method, "queries": spent[key]}
            each = 1000 * sum(sizes) / spent[key] if spent[key] else None
            for name, value in (("", interval.point), ("_low", interval.low)):
                row[f"per_thousand{name}"] = None if each is None else each * value
            row["per_thousand_high"] = None if each is None else each * interval.high
            found.append(row)
    return found
