"""The page's verdict client by client; the most exposed patients; over rounds; at what price."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedmem.metrics.headline import interval
from fedmem.report import svg
from fedmem.report.view import (
    ATTACKS,
    Arm,
    Figure,
    Heat,
    Panel,
    Table,
    clear,
    full,
    known,
    level,
    number,
    round_name,
    share,
)

Row = Mapping[str, Any]
CLIENTS = 12  # in a plot, the most exposed ones
PATIENTS = 8


@dataclass(frozen=True)
class Verdict:
    """What is said of one client's notes (or of those that several hold): first, then the rest."""

    owners: str
    lead: list[str] = field(default_factory=list)
    more: list[str] = field(default_factory=list)


def verdicts(arm: Arm) -> list[Verdict]:
    """Client by client; of each knowledge the first attack leads, the others are folded."""
    found: dict[str, Verdict] = {}
    seen: set[tuple[str, str]] = set()
    for row in arm.rows("verdict_sentences"):
        owners = " and ".join(row["owners"])
        one = found.setdefault(owners, Verdict(owners))
        key = (owners, row["knowledge"])
        (one.more if key in seen else one.lead).append(row["text"])
        seen.add(key)
    return list(found.values())


def by_client(arms: Sequence[Arm]) -> Panel:
    """Rates by client at the highest duplication; patients; all rows as tables."""
    panel = Panel()
    cases = [
        ("phi", "true_prefix", "last", "PHI, true text granted, last round"),
        ("window", "true_prefix", "last", "A long run, true text granted, last round"),
        ("phi", "own", "any", "PHI, by the best client itself, all rounds"),
    ]
    for attack, knowledge, over, heading in cases:
        figure = _rates(arms, attack, knowledge, over, heading)
        panel.figures.extend([figure] if figure else [])
    figure = _patients(arms)
    panel.figures.extend([figure] if figure else [])
    panel.tables.extend([_rate_table(arms), _first_table(arms), _patient_table(arms)])
    return panel


def _own(row: Row) -> str:
    return "true_prefix" if row["knowledge"] == "true_prefix" else "own"


def _rates(
    arms: Sequence[Arm], attack: str, knowledge: str, over: str, heading: str
) -> Figure | None:
    groups: dict[str, list[svg.Bar]] = {}
    worst: dict[str, float] = {}
    for arm in arms:
        for row in arm.rows("verdict", figure="rate", copies=arm.top, attack=attack, over=over):
            if _own(row) != knowledge:
                continue
            name = " and ".join(row["owners"])
            worst[name] = max(row["rate"], worst.get(name, 0.0))
            bars = groups.setdefault(name, [])
            bars.append(_bar(f"{arm.name} {level(arm.top)}", arm.look, row))
            if row["twins"]:
                bars.append(_bar(f"{arm.name} twins", arm.look, row["twins"], "twins"))
    if not groups:
        return None
    shown = sorted(sorted(worst, key=lambda name: -worst[name])[:CLIENTS])
    told = "; ".join(f"{name}: {groups[name][0].text}" for name in shown)
    top = svg.rate_top([bar.high or 0.0 for name in shown for bar in groups[name]])
    drawn = [(name, groups[name]) for name in shown]
    plot = svg.bar_chart(f"{heading}, by client: {told}", drawn, top, label=_room(shown))
    caption = "Whose notes came out. Filled: notes at the highest duplication; hollow: twins."
    if len(worst) > len(shown):
        caption += f" The {len(shown)} most exposed of {len(worst)}."
    return Figure(heading, caption, plot)


def _bar(name: str, look: int, row: Row, role: svg.Role = "main") -> svg.Bar:
    figures = (row["rate"], row["low"], row["high"])
    return svg.Bar(name, look, *figures, share(dict(row)), role)


def _room(names: Sequence[str]) -> int:
    return min(150, max(84, 12 + 6 * max(map(len, names))))


def _patients(arms: Sequence[Arm]) -> Figure | None:
    groups: list[tuple[str, list[svg.Bar]]] = []
    for arm in arms:
        for row in arm.rows("verdict", figure="patient", twin=False)[:PATIENTS]:
            if not row["phi_values"]:
                continue
            cases: tuple[tuple[str, str, svg.Role], ...] = (
                ("phi", "true text granted", "main"),
                ("own", "other clients themselves", "base"),
            )
            bars = []
            for key, said, role in cases:
                if key == "phi" or row["own"]:
                    part, text = row[key] / row["phi_values"], f"{row[key]} of {row['phi_values']}"
                    bars.append(svg.Bar(said, arm.look, part, None, None, text, role))
            groups.append((row["patient"], bars))
    if not groups:
        return None
    top = svg.rate_top([bar.value for _, bars in groups for bar in bars])
    told = "; ".join(f"{name}: {bars[0].text}" for name, bars in groups)
    plot = svg.bar_chart(
        f"Values of the most exposed patients that came out in any round: {told}",
        *(groups, top),
        label=_room([name for name, _ in groups]),
    )
    said = "Share of a patient's PHI values that came out in any round, true text granted;"
    said += " diamond: what other clients found themselves."
    return Figure("Most exposed patients", said, plot)


def _rate_table(arms: Sequence[Arm]) -> Table:
    head = ["run", "whose notes", "written", "came out", "knowledge", "got by", "when", "notes"]
    head += ["interval at", "twins", "untouched base", "clear of twins"]
    rows = [
        [
            *(arm.name, " and ".join(row["owners"]), _copies(row["copies"])),
            *(ATTACKS[row["attack"]], known(row["knowledge"]), _taker(row["attacker"])),
            "any round" if row["over"] == "any" else f"round {row['round']}",
            *(full(row), f"{100 * row['level']:.4g} %", full(row["twins"]), full(row["base"])),
            clear(row),
        ]
        for arm in arms
        for row in arm.rows("verdict", figure="rate")
    ]
    return Table("Client by client, all figures", head, rows)


def _first_table(arms: Sequence[Arm]) -> Table:
    head = ["run", "note", "patient", "whose", "written", "came out", "knowledge", "first round"]
    head += ["got by", "queries by then"]
    rows = [
        [
            *(arm.name, row["canary"], row["patient"], " and ".join(row["owners"])),
            *(level(row["copies"]), ATTACKS[row["attack"]], known(row["knowledge"])),
            *(str(row["round"]), ", ".join(map(_taker, row["attackers"]))),
            "–" if row["queries"] is None else str(row["queries"]),
        ]
        for arm in arms
        for row in arm.rows("verdict", figure="first")
    ]
    return Table("When each note came out first", head, rows)


def _patient_table(arms: Sequence[Arm]) -> Table:
    head = ["run", "patient", "whose", "notes", "written", "values, true text granted"]
    head += ["values, by clients themselves", "longest run", "first round", "got by"]
    rows = [
        [
            *(arm.name, row["patient"], " and ".join(row["owners"]), str(row["notes"])),
            *(level(row["copies"]), f"{row['phi']} of {row['phi_values']}"),
            *(f"{row['own']} of {row['phi_values']}", number(row["longest"], 0)),
            "–" if row["first"] is None else str(row["first"]),
            ", ".join(row["attackers"]) or "–",
        ]
        for arm in arms
        for row in arm.rows("verdict", figure="patient")
    ]
    return Table("Most exposed patients, and the worst twin", head, rows)


def _copies(copies: int | None) -> str:
    return "all levels" if copies is None else level(copies)


def _taker(attacker: str) -> str:
    return "any receiver" if attacker == "*" else attacker


def over_rounds(arms: Sequence[Arm]) -> list[Heat]:
    """PHI by round at the highest duplication: by victim with the true text, by pair without.

    A client's own knowledge is shown where anything came out of it.
    """
    found = []
    for arm in arms:
        rows = [row for row in arm.rows("matrix", copies=arm.top, attack="phi") if row["round"]]
        for knowledge in dict.fromkeys(row["knowledge"] for row in rows):
            of = [row for row in rows if row["knowledge"] == knowledge]
            if knowledge != "true_prefix" and not any(row["k"] for row in of):
                continue
            rounds = sorted({row["round"] for row in of})
            cells = {(row["attacker"], row["victim"], row["round"]): row for row in of}
            pairs = list(dict.fromkeys((row["attacker"], row["victim"]) for row in of))
            lines = [
                (f"{a} ← {v}", [_cell(cells.get((a, v, r))) for r in rounds]) for a, v in pairs
            ]
            caption = f"{arm.name}, {known(knowledge)}: notes written {level(arm.top)} that gave "
            places = [round_name(round_) for round_ in rounds]
            caption += "back PHI, by round"
            found.append(Heat(caption, places, lines, "attacker ← victim, by round →"))
    return found


def _cell(row: Row | None) -> tuple[str, str, str, int] | None:
    if row is None:
        return None
    shade = 0 if row["k"] == 0 else min(5, 1 + int(row["rate"] * 5))
    return share(dict(row)), interval(dict(row)), "", shade


def price(arms: Sequence[Arm]) -> Panel:
    """Notes per thousand queries, by attacker and way, all levels and rounds together."""
    panel = Panel()
    found: list[tuple[str, list[tuple[str, list[svg.Bar]]]]] = []
    for arm in arms:
        rows = [
            row
            for row in arm.rows("verdict", figure="price", attack="phi")
            if row["copies"] is None or len(arm.summary["levels"]) < 3
        ]
        for knowledge in dict.fromkeys(row["knowledge"] for row in rows):
            of = [row for row in rows if row["knowledge"] == knowledge]
            groups = [(row["attacker"], _price_bars(arm, row)) for row in of]
            found.append((f"{arm.name}, {known(knowledge)}", groups))
    highest = [bar.high or 0.0 for _, groups in found for _, bars in groups for bar in bars]
    top = svg.span([0.0, *highest])[1]
    for heading, groups in found:
        told = "; ".join(f"{name}: {bars[0].text} queries" for name, bars in groups)
        plot = svg.bar_chart(
            f"{heading}: notes that gave PHI per thousand queries: {told}",
            *(groups, top, svg.plain),
            label=_room([name for name, _ in groups]),
        )
        said = "Notes that gave PHI per thousand queries; notes / queries at the right. Hollow:"
        panel.figures.append(Figure(heading, f"{said} as many twins.", plot))
    head = ["run", "attacker", "knowledge", "written", "came out", "notes", "queries"]
    head += ["per thousand queries (95 % interval)", "twins"]
    rows_ = [
        [
            *(arm.name, row["attacker"], known(row["knowledge"]), _copies(row["copies"])),
            *(ATTACKS[row["attack"]], share(row), str(row["queries"]), _per(row)),
            _per(row["twins"]) if row["twins"] else "–",
        ]
        for arm in arms
        for row in arm.rows("verdict", figure="price")
    ]
    panel.tables.append(Table("Leaks per thousand queries", head, rows_))
    return panel


def _price_bars(arm: Arm, row: Row) -> list[svg.Bar]:
    figures, text = (row["rate"], row["low"], row["high"]), f"{row['k']} / {row['queries']}"
    bars = [svg.Bar("notes", arm.look, *figures, text)]
    if chance := row["twins"]:
        figures = (chance["rate"], chance["low"], chance["high"])
        bars.append(svg.Bar("twins", arm.look, *figures, "twins", "twins"))
    return bars


def _per(row: Row) -> str:
    return f"{row['rate']:.3g} ({row['low']:.3g}–{row['high']:.3g})"
