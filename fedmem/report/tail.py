"""The page's tail: how long the matched prefixes are, and the chance to miss the worst case."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedmem.report import svg
from fedmem.report.view import Arm, Figure, Panel, Table, full, level, number, round_name

MEASURES = {
    "prefix": "Matched prefix",
    "run": "Longest run",
}
PLACES = 9
SAMPLES = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


def tails(arms: Sequence[Arm]) -> Panel:
    """Tail curves at the highest duplication beside the twins, and samples that miss the worst."""
    panel = Panel()
    for measure in MEASURES:
        figure = _curve(arms, measure)
        panel.figures.extend([figure] if figure else [])
    figure = _missed(arms)
    panel.figures.extend([figure] if figure else [])
    head = ["run", "round", "measure", "written", "notes", "mean", "median", "90 %", "95 %", "99 %"]
    head += ["longest", "cut off at", "q of a geometric law", "longest by that law", "heavier"]
    rows = [
        [
            *(arm.name, round_name(row["round"]), MEASURES[row["measure"]], _level(row["copies"])),
            *(str(row["n"]), number(row["mean"], 1)),
            *(str(row[name]) for name in ("median", "q90", "q95", "q99", "max")),
            *(number(row["most"], 0), number(row["q"])),
            "–" if row["expected_max"] is None else f"up to {row['expected_max']}",
            {None: "–", True: "yes", False: "no"}[row["heavy"]],
        ]
        for arm in arms
        for row in arm.rows("skew", figure="length")
    ]
    panel.tables.append(Table("Lengths of what came out, in tokens", head, rows))
    head = ["run", "measure", "written", "tokens or more", "notes"]
    rows = [
        [
            *(arm.name, MEASURES[row["measure"]], _level(row["copies"]), str(row["at"])),
            full(row),
        ]
        for arm in arms
        for row in arm.rows("skew", figure="tail")
    ]
    panel.tables.append(Table("Tail curves", head, rows))
    return panel


def _level(copies: int | None) -> str:
    return "all levels" if copies is None else level(copies)


def _curve(arms: Sequence[Arm], measure: str) -> Figure | None:
    found: list[tuple[Arm, int, svg.Role, list[dict[str, Any]]]] = []
    roles: tuple[svg.Role, ...] = ("main", "twins")
    for arm in arms:
        for copies, role in zip((arm.top, 0), roles, strict=True):
            rows = arm.rows("skew", figure="tail", measure=measure, copies=copies)
            if rows:
                found.append((arm, copies, role, rows))
    longest = max((row["at"] for *_, rows in found for row in rows), default=0)
    if not longest:
        return None
    places = sorted({round(i * longest / (PLACES - 1)) for i in range(PLACES)})
    series, told = [], []
    for arm, copies, role, rows in found:
        points = []
        for i, place in enumerate(places):
            row = next((row for row in rows if row["at"] >= place), None)
            # beyond the longest: none of n, and the interval of the last step is the nearest told
            if row:
                text = f"{place} tokens or more: {full(row)}"
                points.append(svg.Point(i, row["rate"], row["low"], row["high"], text))
        series.append(svg.Series(f"{arm.name} {level(copies)}", arm.look, points, role))
        told.append(f"{arm.name} {level(copies)} up to {rows[-1]['at']}")
    for arm in arms if measure == "prefix" else ():
        same = {"measure": measure, "copies": arm.top, "round": arm.summary["last_round"]}
        law = next(iter(arm.rows("skew", figure="length", **same)), None)
        if law and law["q"]:
            points = [svg.Point(i, law["q"] ** place) for i, place in enumerate(places)]
            series.append(svg.Series(f"{arm.name} geometric", arm.look, points, "chance"))
    title = f"{MEASURES[measure]}: share of notes by tokens given back. {'; '.join(told)}"
    plot = svg.line_chart(
        *(title, [str(place) for place in places], series),
        axis="tokens in a row, or more",
    )
    said = "Share of notes of which so many tokens or more came back"
    said += " behind a prompt." if measure == "prefix" else ", anywhere in the note."
    if measure == "prefix":
        said += " Dotted: a geometric law, the same chance to go on at each token."
    return Figure(MEASURES[measure], said, plot)


def _missed(arms: Sequence[Arm]) -> Figure | None:
    series, told = [], []
    for arm in arms:
        rows = arm.rows("skew", figure="missed", measure="run")
        points = []
        for i, part in enumerate(SAMPLES if rows else ()):
            row = min(rows, key=lambda row: abs(row["sample"] / row["n"] - part))
            text = f"{row['sample']} of {row['n']} notes looked at: {100 * row['missed']:.0f} %"
            points.append(svg.Point(i, row["missed"], None, None, text))
        if points:
            series.append(svg.Series(arm.name, arm.look, points))
            told.append(f"{arm.name}, {points[2].text}")
    if not series:
        return None
    title = f"Chance that a sample of the notes misses the longest run. {'; '.join(told)}"
    places = [svg.percent(part) for part in SAMPLES]
    plot = svg.line_chart(title, places, series, axis="share of the notes looked at")
    said = "Chance that a sample of the notes holds none of those with the longest run."
    return Figure("Missing the worst case", said, plot)
