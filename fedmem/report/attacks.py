"""The page's comparison of attacks on the same notes; epsilon audited beside accounted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fedmem.metrics import audit
from fedmem.report import svg
from fedmem.report.view import Arm, Figure, Heat, Panel, Table, level, number, rate, round_name

Row = Mapping[str, Any]
NAMES = {
    "phi": "PHI values",
    "run": "longest run",
    "prefix": "matched prefix",
    "loss": "LOSS",
    "zlib": "zlib",
    "reference": "reference",
    "min_k": "Min-K%",
    "min_k_pp": "Min-K%++",
    "ez": "EZ-MIA",
    "recall": "ReCaLL",
    "neighbourhood": "neighbours",
    "lira_offline": "LiRA offline",
    "lira_online": "LiRA online",
    "rmia_offline": "RMIA offline",
    "rmia_online": "RMIA online",
    "peak": "best of rounds",
    "jump": "largest change",
    "contrast": "with − without",
}
ROUNDS = ("reference", "loss")  # which attack is shown by round: the first there is


def against(arms: Sequence[Arm]) -> Panel:
    """Area under the ROC curve of all attacks by level; who agrees with whom; by round."""
    panel = Panel()
    for copies in sorted({row["copies"] or 0 for arm in arms for row in _areas(arm)} - {0}):
        groups: dict[str, list[svg.Bar]] = {}
        for arm in arms:
            for row in _areas(arm):
                if row["copies"] == copies and row["auc"] is not None:
                    text = f"{row['auc']:.2f}"
                    bar = svg.Bar(arm.name, arm.look, row["auc"], row["low"], row["high"], text)
                    groups.setdefault(_name(row), []).append(bar)
        if groups:
            told = "; ".join(f"{name} {bars[0].text}" for name, bars in groups.items())
            plot = svg.dot_chart(
                f"Area under the ROC curve by attack, notes written {level(copies)}: {told}",
                *([*groups.items()], (0.0, 1.0)),
                chance=0.5,
            )
            said = "Chance that a note written scores above a twin; 0.5 is a guess."
            panel.figures.append(Figure(f"Notes written {level(copies)}", said, plot))
    figure = _by_round(arms)
    panel.figures.extend([figure] if figure else [])
    panel.folded.extend(heat for arm in arms if (heat := _agreement(arm)))
    head = ["run", "attack", "written", "members", "twins", "AUC (95 % interval)"]
    head += ["hits at 1 % false alarms", "at 0.1 %"]
    rows = [
        [
            *(arm.name, _name(row), _copies(row["copies"])),
            *(str(row["members"]), str(row["twins"]), _area(row)),
            *(_hits(row, "tpr_1"), _hits(row, "tpr_01")),
        ]
        for arm in arms
        for row in _areas(arm)
    ]
    panel.tables.append(Table("All attacks on the same notes, last round", head, rows))
    head = ["run", "round", "attack", "written", "AUC (95 % interval)"]
    rows = [
        [
            *(arm.name, round_name(row["round"]), _name(row)),
            *(_copies(row["copies"]), _area(row)),
        ]
        for arm in arms
        for row in arm.rows("membership")
    ]
    panel.tables.append(Table("Membership by round", head, rows))
    return panel


def _areas(arm: Arm) -> Iterator[Row]:
    """Every attack's area, last round; of differencing what no single round can tell."""
    yield from arm.rows("agreement", figure="auc")
    yield from arm.rows("shadows", figure="membership")
    for row in arm.rows("differencing", figure="membership", attacker="*", own=False):
        if row["attack"] != "final":  # is `reference`
            yield row


def _name(row: Row) -> str:
    return NAMES.get(str(row["attack"]), str(row["attack"]))


def _area(row: Row) -> str:
    if row["auc"] is None:
        return f"– ({row['reason']})"
    return f"{row['auc']:.3f} ({row['low']:.3f}–{row['high']:.3f})"


def _hits(row: Row, name: str) -> str:
    if row[name] is None:
        return f"– ({row[f'{name}_reason']})"
    figures = {"rate": row[name], "low": row[f"{name}_low"], "high": row[f"{name}_high"]}
    return rate(figures)


def _copies(copies: int | None) -> str:
    return "all levels" if copies is None else level(copies)


def _by_round(arms: Sequence[Arm]) -> Figure | None:
    there = {row["attack"] for arm in arms for row in arm.rows("membership")}
    attack = next((name for name in ROUNDS if name in there), None)
    if attack is None:
        return None
    rounds = sorted({row["round"] for arm in arms for row in arm.rows("membership")} - {0})
    series = []
    for arm in arms:
        points = [
            svg.Point(rounds.index(row["round"]), row["auc"], row["low"], row["high"], _area(row))
            for row in arm.rows("membership", attack=attack, copies=arm.top, model="global")
            if row["auc"] is not None and row["round"]
        ]
        if points:
            series.append(svg.Series(f"{arm.name} {level(arm.top)}", arm.look, points))
    if not series:
        return None
    chance = [svg.Point(i, 0.5) for i in range(len(rounds))]
    told = "; ".join(f"{line.name}: {line.points[-1].text}" for line in series)
    heading = f"Membership by round: {NAMES[attack]}"
    plot = svg.line_chart(
        f"{heading}, area under the ROC curve. {told}",
        [round_name(round_) for round_ in rounds],
        [*series, svg.Series("guessing", 0, chance, "chance")],
        tick=svg.plain,
        axis="round",
    )
    return Figure(heading, "Area under the ROC curve at the highest duplication.", plot)


def _agreement(arm: Arm) -> Heat | None:
    rows = arm.rows("agreement", figure="correlation")
    names = list(dict.fromkeys(name for row in rows for name in (row["attack"], row["other"])))
    if not names:
        return None
    cells = {(row["attack"], row["other"]): row for row in rows}
    cells |= {(b, a): row for (a, b), row in cells.items()}

    def cell(a: str, b: str) -> tuple[str, str, str, int] | None:
        row = cells.get((a, b))
        if row is None or row["rho"] is None:
            return None
        span = f"{_sign(row['low'])} to {_sign(row['high'])}"
        return _sign(row["rho"]), span, "", min(5, int(abs(row["rho"]) * 6))

    lines = [(NAMES.get(a, a), [cell(a, b) for b in names]) for a in names]
    caption = f"{arm.name}: rank correlation of the attacks' scores over the notes written"
    return Heat(caption, [NAMES.get(name, name) for name in names], lines, "attack")


def _sign(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def audited(arms: Sequence[Arm]) -> Panel:
    """The one-run audit's bounds beside what was accounted."""
    panel = Panel()
    groups = []
    for arm in arms:
        for row in arm.rows("audit"):
            bars = [svg.Bar("shown, at least", arm.look, row["epsilon"], None, None, _eps(row))]
            if row["accounted"] is not None:
                said = f"≤ {row['accounted']:.2f}"
                bars.append(
                    svg.Bar("accounted", arm.look, row["accounted"], None, None, said, "base")
                )
            groups.append((f"{arm.name} {100 * row['level']:g} %", bars))
            panel.said.append(f"{arm.name}: {audit.said(row)}. Verdict: {row['verdict']}.")
    if groups:
        most = max(bar.value for _, bars in groups for bar in bars)
        told = "; ".join(f"{name} {bars[0].text}" for name, bars in groups)
        plot = svg.bar_chart(
            f"Epsilon shown by the audit beside the accounted one: {told}",
            *(groups, svg.span([0.0, max(most, 0.1)])[1], svg.plain),
            label=120,
        )
        said = "Bar: what the audit shows at least, at that level; diamond: what is accounted."
        panel.figures.append(Figure("Epsilon, shown and accounted", said, plot))
    head = ["run", "level", "claim", "unit", "accounted", "shown at least", "most it could show"]
    head += ["Gaussian variant", "delta", "right guesses", "verdict"]
    rows = [
        [
            *(arm.name, f"{100 * row['level']:g} %", str(row["what"] or "none")),
            *(str(row["unit"] or "–"), number(row["accounted"], 2), number(row["epsilon"], 2)),
            *(number(row["ceiling"], 2), number(row["gaussian"], 2), f"{row['delta']:.1e}"),
            *(f"{row['correct']} of {row['guesses']}", row["verdict"]),
        ]
        for arm in arms
        for row in arm.rows("audit")
    ]
    panel.tables.append(Table("Audited beside accounted", head, rows))
    return panel


def _eps(row: Row) -> str:
    return f"≥ {row['epsilon']:.2f}"
