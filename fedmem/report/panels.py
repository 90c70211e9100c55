"""The page's plots of leakage: by round, by number of copies, by length of the prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fedmem.report import paper, svg
from fedmem.report.view import (
    ATTACKS,
    Arm,
    Figure,
    Panel,
    Table,
    clear,
    full,
    known,
    level,
    number,
    rate,
    round_name,
    share,
    who,
)

Rows = Sequence[dict[str, Any]]
FIGURE_HEAD = ["injected notes", "twins", "untouched base", "clear of twins"]


def _points(rows: Rows, at: Callable[[dict[str, Any]], int], key: str = "rate") -> list[svg.Point]:
    found = []
    for row in rows:
        said = full(row) if key == "rate" else f"{number(row[key])} ({_span(row)})"
        found.append(svg.Point(at(row), row[key], row["low"], row["high"], said))
    return sorted(found, key=lambda point: point.at)


def _span(row: dict[str, Any]) -> str:
    return f"{number(row['low'])}–{number(row['high'])}"


def _top(series: Sequence[svg.Series]) -> float:
    """The axis must hold every interval: never one arm's figures alone."""
    return svg.rate_top([p.high or p.value for line in series for p in line.points])


def _figures(row: dict[str, Any]) -> list[str]:
    return [full(row), full(row["twins"]), full(row["base"]), clear(row)]


def by_round(arms: Sequence[Arm]) -> Panel:
    """Leakage after each round at each arm's highest duplication, beside its twins."""
    rounds = sorted({r for arm in arms for r in arm.summary["rounds"]})
    tokens = arms[0].summary["continuation"]
    cases = [
        ("PHI, true text granted", "phi", "true_prefix", "*", "at least one PHI value"),
        (f"{tokens} tokens in a row", "window", "true_prefix", "*", f"a run of {tokens} tokens"),
        ("Exact continuation", "exact", "true_prefix", "*", f"the next {tokens} tokens exactly"),
        (
            *("Near-exact continuation", "approximate", "true_prefix", "*"),
            f"the next {tokens} tokens at BLEU {arms[0].summary['bleu']:g} or more",
        ),
        (
            *("PHI, own beginnings only", "phi", "own_prefix", "any"),
            "at least one PHI value found by some other client",
        ),
    ]
    panel, lines = Panel(), {case: _lines(arms, rounds, *case[1:4]) for case in cases}
    top = _top([line for found in lines.values() for line in found])
    for case, found in lines.items():
        if any(line.role == "main" for line in found):
            heading, said = case[0], case[4]
            title = f"{heading}: share of notes that gave back {said}, by round. " + _ends(found)
            plot = svg.line_chart(
                title, [round_name(r) for r in rounds], found, (0, top), axis="round"
            )
            panel.figures.append(Figure(heading, f"Share of notes that gave back {said}.", plot))
    loss = _loss_figure(arms, rounds)
    panel.figures.extend([loss] if loss else [])
    rows = [
        [
            *(arm.name, round_name(row["round"]), known(row["knowledge"]), who(row), level(c)),
            *(ATTACKS[row["attack"]], *_figures(row)),
        ]
        for arm in arms
        for row in arm.rows("leakage", prefix=None)
        if (c := row["copies"])
    ]
    head = ["run", "round", "knowledge", "attacker", "written", "came out", *FIGURE_HEAD]
    panel.tables.append(Table("Notes that leaked, by round", head, rows))
    if loss:
        head = ["run", "round", "written", "notes", "nats a token (95 % interval)"]
        rows = [
            [
                *(arm.name, round_name(row["round"]), level(row["copies"]), str(row["notes"])),
                f"{number(row['nll'])} ({_span(row)})",
            ]
            for arm in arms
            for row in arm.summary["loss"]
        ]
        panel.tables.append(Table("Mean loss of the notes", head, rows))
    return panel


def _ends(lines: Sequence[svg.Series]) -> str:
    """The last figure of each line, in words."""
    return "; ".join(f"{line.name}: {line.points[-1].text}" for line in lines if line.points)


def _lines(
    arms: Sequence[Arm], rounds: list[int], attack: str, knowledge: str, attacker: str
) -> list[svg.Series]:
    same = {"attack": attack, "knowledge": knowledge, "attacker": attacker, "prefix": None}
    found = []
    for arm, copies, role in _roles(arms):
        rows = arm.rows("leakage", copies=copies, **same)
        points = _points(rows, lambda row: rounds.index(row["round"]))
        if points:
            found.append(svg.Series(f"{arm.name} {level(copies)}", arm.look, points, role))
    return found


def _roles(arms: Sequence[Arm]) -> list[tuple[Arm, int, svg.Role]]:
    """Each arm's highest duplication, and its twins."""
    roles: list[tuple[Arm, int, svg.Role]] = []
    for arm in arms:
        roles += [(arm, arm.top, "main"), (arm, 0, "twins")]
    return roles


def _loss_figure(arms: Sequence[Arm], rounds: list[int]) -> Figure | None:
    lines = []
    for arm, copies, role in _roles(arms):
        rows = arm.rows("loss", copies=copies)
        points = _points(rows, lambda row: rounds.index(row["round"]), "nll")
        if points:
            lines.append(svg.Series(f"{arm.name} {level(copies)}", arm.look, points, role))
    if not lines:
        return None
    values = [v for line in lines for p in line.points for v in (p.low, p.high) if v is not None]
    title = "Loss of the notes in nats a token, by round. " + _ends(lines)
    places = [round_name(r) for r in rounds]
    plot = svg.line_chart(title, places, lines, svg.span(values), svg.plain, axis="round")
    said = "Mean loss of the notes (nats a token): falls below the twins' as notes are learned."
    return Figure("Loss of the notes", said, plot)


def by_level(arms: Sequence[Arm]) -> Panel:
    """Leakage in the last round by number of copies, twins standing at 0."""
    places = sorted({lv["copies"] for arm in arms for lv in arm.summary["levels"]})
    names = [level(copies) for copies in places]
    tokens = arms[0].summary["continuation"]
    panel = Panel()
    cases = [("phi", "PHI", "at least one PHI value")]
    cases += [("window", f"{tokens} tokens in a row", f"a run of {tokens} tokens")]
    cases += [("exact", "Exact continuation", f"the next {tokens} tokens exactly")]
    same = {"knowledge": "true_prefix", "attacker": "*", "prefix": None}
    lines = {}
    for attack, heading, said in cases:
        found = []
        for arm in arms:
            rows = arm.rows("leakage", attack=attack, round=arm.summary["last_round"], **same)
            points = _points(rows, lambda row: places.index(row["copies"]))
            found += [svg.Series(arm.name, arm.look, points)] if points else []
        if found:
            lines[heading, said] = found
    top = _top([line for found in lines.values() for line in found])
    for (heading, said), found in lines.items():
        title = f"{heading} by number of copies, last round. {_ends(found)}"
        plot = svg.line_chart(title, names, found, (0, top), axis="times written")
        panel.figures.append(Figure(heading, f"Share of notes that gave back {said}.", plot))
    table = [
        [arm.name, level(row["copies"]), ATTACKS[row["attack"]], full(row), clear(row)]
        for arm in arms
        for row in arm.rows("leakage", round=arm.summary["last_round"], **same)
    ]
    head = ["run", "written", "came out", "notes", "clear of twins"]
    panel.tables.append(Table("Last round, by number of copies", head, table))
    return panel


def by_prefix(arms: Sequence[Arm]) -> Panel:
    """Exact and near-exact continuation in the last round by prompt length."""
    panel, lengths = Panel(), _lengths(arms)
    if not lengths:
        return panel
    same: dict[str, Any] = {"knowledge": "true_prefix", "attacker": "*"}
    last = [
        (arm, row)
        for arm in arms
        for row in arm.rows("leakage", round=arm.summary["last_round"], **same)
        if row["prefix"] is not None
    ]
    places = [str(prefix) for prefix in lengths]
    chars = [_mean_chars([row for _, row in last if row["prefix"] == p]) for p in lengths]
    lines = {}
    for attack, heading in (("exact", "Exact"), ("approximate", "Near-exact")):
        lines[heading] = [
            svg.Series(f"{arm.name} {level(copies)}", arm.look, points, role)
            for arm, copies, role in _roles(arms)
            if (
                points := _points(
                    [
                        row
                        for owner, row in last
                        if owner is arm and (row["attack"], row["copies"]) == (attack, copies)
                    ],
                    lambda row: lengths.index(row["prefix"]),
                )
            )
        ]
    top = _top([line for found in lines.values() for line in found])
    tokens = arms[0].summary["continuation"]
    for heading, found in lines.items():
        title = f"{heading} continuation of {tokens} tokens by prompt length. {_ends(found)}"
        axis = "prompt: tokens, and characters below"
        plot = svg.line_chart(title, places, found, (0, top), below=chars, axis=axis)
        said = f"{heading} continuation of {tokens} tokens, by length of the prompt."
        panel.figures.append(Figure(f"{heading} continuation", said, plot))
    table = [
        [
            *(arm.name, level(row["copies"]), ATTACKS[row["attack"]], str(row["prefix"])),
            *(number(row["prefix_tokens"], 1), number(row["prefix_chars"], 1)),
            *(share(row), rate(row)),
        ]
        for arm, row in last
    ]
    head = ["run", "written", "came out", "prompt", "mean tokens", "mean characters"]
    head += ["notes", "share (95 % interval)"]
    panel.tables.append(Table("Last round, by prompt length", head, table))
    panel.tables.extend(paper.compat(arms))
    return panel


def _mean_chars(rows: Rows) -> str:
    """Mean characters of the prompts behind these rows."""
    sizes = [row["prefix_chars"] for row in rows if row["prefix_chars"] is not None]
    return f"{sum(sizes) / len(sizes):.0f}" if sizes else "–"


def _lengths(arms: Sequence[Arm]) -> list[int]:
    return sorted({row["prefix"] for arm in arms for row in arm.summary["leakage"]} - {None})
