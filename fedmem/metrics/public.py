"""What the released model gives to whoever holds it and nothing else, from the saved scores."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from fedmem.config import Config
from fedmem.metrics.leakage import Notes, note_shares
from fedmem.metrics.outcomes import Key, Outcome, Owned

PUBLIC = "(public)"  # an attacker's name that no client can have


Outcomes = dict[Key, Outcome]


def apart(outcomes: Mapping[Key, Outcome]) -> tuple[Outcomes, Outcomes]:
    """(the participants' and the auditor's outcomes, those of whoever holds the released model)."""
    released = {key: outcome for key, outcome in outcomes.items() if key.attacker == PUBLIC}
    return {key: one for key, one in outcomes.items() if key not in released}, released


def rows(
    config: Config,
    released: Mapping[Key, Outcome],
    canaries: Mapping[str, Owned],
    leakage: Iterable[Mapping[str, Any]],
    last: int,
) -> list[dict[str, Any]]:
    """Rows as of `leakage`, with `view`: what was drawn (`none`), and beside it the auditor's bound
    on the last model (`true_prefix`). None where the view is not among the config's."""
    if "public" not in config.attack.views:
        return []
    drawn: dict[tuple[int, str, str], Notes] = defaultdict(lambda: defaultdict(list))
    for key, outcome in released.items():
        drawn[key.round, key.knowledge, PUBLIC][key.canary].append(outcome)
    bound = [
        dict(row)
        for row in leakage
        if (row["round"], row["attacker"], row["knowledge"]) == (last, "*", "true_prefix")
    ]
    found = note_shares(drawn, canaries, config.attack.continuation)
    return [{"view": "public", **row} for row in found + bound]
