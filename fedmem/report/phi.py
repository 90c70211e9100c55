"""The page's section on kinds of PHI, and the figures beside the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedmem.metrics.headline import interval, percent
from fedmem.report import svg
from fedmem.report.view import Arm, Figure, Panel, Table, full, known, level, share, who


def categories(arms: Sequence[Arm]) -> Panel:
    """Share of PHI values by category in the last round, with twins and the untouched base."""
    panel = Panel()
    same = {"knowledge": "true_prefix", "attacker": "*"}
    groups = []
    for arm in arms:
        rows = arm.rows("phi_categories", round=arm.summary["last_round"], copies=arm.top, **same)
        bars = [(row["category"], _bars(arm, row)) for row in rows]
        if bars:
            groups.append((arm, bars))
    top = svg.rate_top([b.high or 0 for _, found in groups for _, bars in found for b in bars])
    for arm, bars in groups:
        said = f"PHI values of notes written {level(arm.top)}, by category"
        figures = ", ".join(f"{name} {found[0].text}" for name, found in bars)
        plot = svg.bar_chart(f"{arm.name}: {said}, last round: {figures}", bars, top)
        caption = "Filled: injected notes; hollow: twins; diamond: untouched base, same notes."
        panel.figures.append(Figure(f"{arm.name} {level(arm.top)}", caption, plot))
    for table, by in (("phi_categories", "category"), ("phi_types", "type")):
        rows_ = [
            [
                *(arm.name, known(row["knowledge"]), who(row), level(row["copies"]), row[by]),
                *(full(row), full(row["twins"]), full(row["base"])),
            ]
            for arm in arms
            for row in arm.rows(table, round=arm.summary["last_round"])
            if row["copies"]
        ]
        head = [
            "run",
            "knowledge",
            "attacker",
            "written",
            by,
            "injected notes",
            "twins",
            "untouched base",
        ]
        panel.tables.append(Table(f"PHI values by {by}, last round", head, rows_))
    return panel


def _bars(arm: Arm, row: dict[str, Any]) -> list[svg.Bar]:
    found = []
    cases: list[tuple[str, svg.Role, dict[str, Any] | None]] = [
        ("injected", "main", row),
        ("twins", "twins", row["twins"]),
        ("base", "base", row["base"]),
    ]
    for name, role, figure in cases:
        if figure:
            numbers = (figure["rate"], figure["low"], figure["high"])
            found.append(svg.Bar(name, arm.look, *numbers, share(figure), role))
    return found


def glance(arm: Arm) -> list[tuple[str, str]]:
    """The few figures that stand beside the answer."""
    row = arm.summary["primary"]
    if row is None:
        return []
    found = [("notes", share(row)), ("95 % interval", interval(row))]
    if row["twins"]:
        found.append(("twins", f"{share(row['twins'])} ({percent(row['twins']['rate'])} %)"))
    if row["base"]:
        found.append(("untouched base", share(row["base"])))
    return found
