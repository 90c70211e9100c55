"""The page's heat tables: attacker x victim."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedmem.metrics.headline import interval
from fedmem.report.clients import over_rounds
from fedmem.report.view import (
    ATTACKS,
    KNOWLEDGE,
    Arm,
    Heat,
    Panel,
    Table,
    full,
    known,
    level,
    round_name,
    share,
)


def pairs(arms: Sequence[Arm]) -> Panel:
    """Attacker x victim: PHI from the victim's own notes, highest duplication, last round."""
    panel = Panel()
    for arm in arms:
        for knowledge in KNOWLEDGE:
            rows = arm.rows("matrix", knowledge=knowledge, copies=arm.top, attack="phi")
            rounds = [row["round"] for row in rows if row["round"]]
            if rounds:
                same = {"knowledge": knowledge, "attack": "phi", "round": max(rounds)}
                found, twins = (
                    {
                        (row["attacker"], row["victim"]): row
                        for row in arm.rows("matrix", copies=copies, **same)
                    }
                    for copies in (arm.top, 0)
                )
                panel.heats.append(_heat(arm, knowledge, max(rounds), found, twins))
    panel.folded.extend(over_rounds(arms))
    head = ["run", "round", "knowledge", "written", "came out", "attacker", "victim", "notes"]
    rows_ = [
        [
            *(
                arm.name,
                round_name(row["round"]),
                known(row["knowledge"]),
                level(row["copies"]),
            ),
            *(ATTACKS[row["attack"]], row["attacker"], row["victim"], full(row)),
        ]
        for arm in arms
        for row in arm.summary["matrix"]
    ]
    panel.tables.append(Table("Attacker × victim × round", head, rows_))
    left = [
        [
            *(arm.name, row["attacker"], row["victim"], level(row["copies"]), row["reason"]),
            str(row["notes"]),
        ]
        for arm in arms
        for row in arm.summary["excluded_pairs"]
    ]
    if left:
        head = ["run", "attacker", "victim", "written", "left out because", "notes"]
        panel.tables.append(Table("Notes left out of a pair", head, left))
    return panel


def _heat(
    arm: Arm,
    knowledge: str,
    round_: int,
    found: dict[tuple[str, str], Any],
    twins: dict[tuple[str, str], Any],
) -> Heat:
    def cell(attacker: str, victim: str) -> tuple[str, str, str, int] | None:
        row = found.get((attacker, victim))
        if row is None:
            return None
        # Shade 0 is kept for "nothing at all", so that one leaked note never looks like none.
        shade = 0 if row["k"] == 0 else min(5, 1 + int(row["rate"] * 5))
        chance = twins.get((attacker, victim))
        return share(row), interval(row), f"twins {share(chance)}" if chance else "", shade

    clients = arm.summary["clients"]
    attackers = [c for c in clients if any(attacker == c for attacker, _ in found)]
    caption = f"{arm.name}, {known(knowledge)}: notes written {level(arm.top)} that gave back"
    return Heat(
        f"{caption} PHI, after round {round_}",
        clients,
        [(attacker, [cell(attacker, victim) for victim in clients]) for attacker in attackers],
    )
