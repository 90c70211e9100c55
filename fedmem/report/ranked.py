"""The page's section on secrets under sampling and among candidates: (n,p), exposure, inference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedmem.report import svg
from fedmem.report.view import Arm, Figure, Panel, Table, clear, full, level, number, round_name

Row = Mapping[str, Any]
KINDS = {"window": "a passage", "phi": "a PHI value"}
FORMS = {"exact": "all values", "sampled": "sampled", "skew_normal": "skew-normal"}
SCORES = {"likelihood": "likelihood", "reference": "gain over the base"}
SURE = 0.5  # of the declared p, the one nearest to this is drawn


def ranked(arms: Sequence[Arm]) -> Panel:
    """By queries, the share of notes that sampling would give; exposures; guesses among lists."""
    panel = Panel()
    figures = [_queries(arms, kind) for kind in KINDS]
    figures += [_exposure(arms), _inference(arms)]
    panel.figures.extend(figure for figure in figures if figure)
    panel.tables.extend([_np_table(arms), _exposure_table(arms), _inference_table(arms)])
    return panel


def _last(arm: Arm, table: str, **same: Any) -> list[dict[str, Any]]:
    return arm.rows(table, round=arm.summary["last_round"], **same)


def _queries(arms: Sequence[Arm], kind: str) -> Figure | None:
    rows = {arm.name: _last(arm, "extraction_np", kind=kind, point=0) for arm in arms}
    sure = sorted({row["p"] for of in rows.values() for row in of}, key=lambda p: abs(p - SURE))
    places = sorted({row["queries"] for of in rows.values() for row in of})
    if not places:
        return None
    roles: tuple[svg.Role, ...] = ("main", "twins")
    series = []
    for arm in arms:
        for copies, role in zip((arm.top, 0), roles, strict=True):
            points = [
                svg.Point(places.index(r["queries"]), r["rate"], r["low"], r["high"], full(r))
                for r in rows[arm.name]
                if (r["p"], r["copies"]) == (sure[0], copies)
            ]
            if points:
                points.sort(key=lambda point: point.at)
                series.append(svg.Series(f"{arm.name} {level(copies)}", arm.look, points, role))
    told = "; ".join(f"{line.name}: {line.points[-1].text}" for line in series)
    heading = f"{KINDS[kind][0].upper()}{KINDS[kind][1:]}, sampled"
    top = svg.rate_top([p.high or p.value for line in series for p in line.points])
    plot = svg.line_chart(
        f"{heading}: share of notes by draws, at a chance of {sure[0]:g}. {told}",
        [f"{place:,}" for place in places],
        *(series, (0, top)),
        axis="draws",
    )
    said = f"Share of notes that give {KINDS[kind]} in so many draws with a chance of {sure[0]:g}."
    return Figure(heading, said, plot)


def _exposure(arms: Sequence[Arm]) -> Figure | None:
    places = sorted({lv["copies"] for arm in arms for lv in arm.summary["levels"]})
    series = []
    for arm in arms:
        points = [
            svg.Point(places.index(r["copies"]), r["bits"], r["low"], r["high"], _bits(r))
            for r in _last(arm, "exposure", score="reference", form="sampled")
        ]
        if points:
            points.sort(key=lambda point: point.at)
            series.append(svg.Series(arm.name, arm.look, points))
    if not series:
        return None
    values = [v for line in series for p in line.points for v in (p.low, p.high, p.value)]
    told = "; ".join(f"{line.name}: {line.points[-1].text}" for line in series)
    plot = svg.line_chart(
        f"Mean exposure of the notes' values in bits, by copies. {told}",
        [level(copies) for copies in places],
        *(series, svg.span([v for v in values if v is not None]), svg.plain),
        axis="times written",
    )
    said = "Mean exposure in bits, of the gain over the untouched base, among sampled candidates."
    return Figure("Exposure", said, plot)


def _inference(arms: Sequence[Arm]) -> Figure | None:
    groups = []
    for arm in arms:
        for r in _last(arm, "inference", score="reference", top=1, copies=arm.top):
            figures = (r["rate"], r["low"], r["high"])
            bars = [svg.Bar(arm.name, arm.look, *figures, f"{r['k']} of {r['n']}")]
            if twins := r["twins"]:
                figures = (twins["rate"], twins["low"], twins["high"])
                text = f"{twins['k']} of {twins['n']}"
                bars.append(svg.Bar("twins", arm.look, *figures, text, "twins"))
            chance = svg.Bar("chance", arm.look, r["chance"], None, None, "chance", "base")
            groups.append((r["category"] or "all", [*bars, chance]))
    if not groups:
        return None
    order = list(dict.fromkeys(name for name, _ in groups))
    joined = [(name, [b for n, bars in groups if n == name for b in bars]) for name in order]
    top = svg.rate_top([bar.high or bar.value for _, bars in joined for bar in bars])
    told = "; ".join(f"{name}: {bars[0].text}" for name, bars in joined)
    plot = svg.bar_chart(f"Values guessed first among candidates, by kind: {told}", joined, top)
    said = "Values that rank first among their candidates by gain over the base. Hollow: twins;"
    return Figure("Guessed among candidates", f"{said} diamond: blind guessing.", plot)


def _bits(row: Row) -> str:
    return f"{number(row['bits'], 2)} ({number(row['low'], 2)}–{number(row['high'], 2)})"


def _np_table(arms: Sequence[Arm]) -> Table:
    head = ["run", "written", "secret", "temperature", "top-k", "top-p", "draws", "chance"]
    head += ["notes", "twins", "untouched base", "clear of twins"]
    rows = [
        [
            *(arm.name, level(row["copies"]), KINDS.get(row["kind"], row["kind"])),
            *(f"{row['temperature']:g}", str(row["top_k"] or "–"), f"{row['top_p']:g}"),
            *(f"{row['queries']:,}", f"{row['p']:g}"),
            *(full(row), full(row["twins"]), full(row["base"]), clear(row)),
        ]
        for arm in arms
        for row in _last(arm, "extraction_np")
        if row["copies"]
    ]
    return Table("What sampling gives, last round", head, rows)


def _exposure_table(arms: Sequence[Arm]) -> Table:
    head = ["run", "round", "written", "score", "form", "notes", "bits (95 % interval)"]
    head += ["most exposed value", "at most", "twins", "clear of twins"]
    rows = [
        [
            *(arm.name, round_name(row["round"]), level(row["copies"]), SCORES[row["score"]]),
            *(FORMS[row["form"]], str(row["notes"]), _bits(row), number(row["highest"], 1)),
            *(number(row["cap"], 1), _bits(row["twins"]) if row["twins"] else "–", clear(row)),
        ]
        for arm in arms
        for row in arm.rows("exposure")
    ]
    return Table("Exposure", head, rows)


def _inference_table(arms: Sequence[Arm]) -> Table:
    head = ["run", "written", "score", "kind", "among the first", "candidates", "values"]
    head += ["chance", "twins", "clear of both"]
    rows = [
        [
            *(arm.name, level(row["copies"]), SCORES[row["score"]], row["category"] or "all"),
            *(str(row["top"]), number(row["candidates"], 0), full(row)),
            *(f"{100 * row['chance']:.0f} %", full(row["twins"]), clear(row)),
        ]
        for arm in arms
        for row in _last(arm, "inference")
    ]
    return Table("Values guessed among candidates, last round", head, rows)
