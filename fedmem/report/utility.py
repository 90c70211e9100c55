"""The page's section on utility, and what may be said of one arm against another."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

from fedmem.metrics.headline import percent
from fedmem.report import svg
from fedmem.report.view import Arm, Figure, Panel, Table, number

MEASURES = {"accuracy": ("accuracy", "low", "high"), "nll": ("nll", "nll_low", "nll_high")}
SAID = {"accuracy": "Accuracy", "nll": "Loss of the answers"}
DIFFER = "differ: the intervals lie apart"


def utility(arms: Sequence[Arm]) -> Panel:
    """Accuracy and NLL by round, each task apart, with intervals and the level of chance."""
    panel = Panel()
    rounds = sorted({row["round"] for arm in arms for row in arm.summary["utility"]})
    places = [str(r) if r else "base" for r in rounds]
    for task in sorted({row["task"] for arm in arms for row in arm.summary["utility"]}):
        for measure in MEASURES:
            lines = [line for arm in arms for line in _lines(arm, task, measure, rounds)]
            if not lines:
                continue
            ends = "; ".join(f"{line.name}: {line.points[-1].text}" for line in lines)
            title = f"{SAID[measure]} on {task}, by round. {ends}"
            if measure == "accuracy":
                chance = _chance(arms, task, len(rounds))
                plot = svg.line_chart(title, places, [*lines, *chance], axis="round")
                said = "Accuracy" + (f"; dotted: chance, {chance[0].points[0].text}" * bool(chance))
            else:
                values = [v for line in lines for p in line.points for v in (p.low, p.high) if v]
                plot = svg.line_chart(
                    title, places, lines, svg.span(values), svg.plain, axis="round"
                )
                said = "Mean loss of the right answer (NLL, nats); lower is better"
            panel.figures.append(Figure(f"{task}: {SAID[measure].lower()}", f"{said}.", plot))
    rows = [
        [
            *(arm.name, str(row["round"] or "base"), row["model"], row["task"], str(row["n"])),
            *(_figure(row, "accuracy"), number(row.get("chance")), _figure(row, "nll")),
        ]
        for arm in arms
        for row in arm.summary["utility"]
    ]
    head = ["run", "round", "model", "task", "records", "accuracy", "chance", "NLL"]
    panel.tables.append(Table("Utility by round and task (95 % intervals)", head, rows))
    return panel


def _lines(arm: Arm, task: str, measure: str, rounds: list[int]) -> list[svg.Series]:
    """A line a model: one, but under local-only training one a client."""
    names = MEASURES[measure]
    found: dict[str, list[svg.Point]] = {}
    for row in arm.rows("utility", task=task):
        if row.get(names[0]) is not None:
            value, low, high = (row.get(name) for name in names)
            at = rounds.index(row["round"])
            point = svg.Point(at, float(value or 0), low, high, _figure(row, measure))
            found.setdefault(row["model"], []).append(point)
    return [
        svg.Series(arm.name if len(found) == 1 else f"{arm.name} {model}", arm.look, points)
        for model, points in found.items()
    ]


def _chance(arms: Sequence[Arm], task: str, rounds: int) -> list[svg.Series]:
    level = next(
        (r["chance"] for a in arms for r in a.rows("utility", task=task) if r.get("chance")), None
    )
    if level is None:
        return []
    points = [svg.Point(at, level, text=f"{percent(level)} %") for at in range(rounds)]
    return [svg.Series("chance", 0, points, "chance")]


def _figure(row: dict[str, Any], measure: str) -> str:
    """As in "0.58 (0.46–0.69)", or a dash where the task has no options."""
    value, low, high = (row.get(name) for name in MEASURES[measure])
    if value is None:
        return "–"
    return number(value) if low is None else f"{number(value)} ({number(low)}–{number(high)})"


def compare(arms: Sequence[Arm]) -> tuple[list[str], Table | None]:
    """Where the arms' utility in the last round is known to differ; nothing for a single arm.

    Intervals apart mean that they differ. Overlap proves nothing, least of all equal utility, and
    one run an arm cannot: so no arm's leakage is set against another's.
    """
    if len(arms) < 2:
        return [], None
    rows, said = [], []
    for a, b in combinations(arms, 2):
        apart: list[str] = []
        unknown: list[str] = []
        for task, measure, ours, theirs in _shared(a, b):
            verdict = _verdict(measure, ours, theirs)
            (apart if verdict == DIFFER else unknown).append(f"{task} ({SAID[measure].lower()})")
            figures = [_figure(ours, measure), _figure(theirs, measure)]
            rows.append([f"{a.name} / {b.name}", task, SAID[measure], *figures, verdict])
        parts = [f"they differ in utility on {', '.join(apart)}"] if apart else []
        parts += [f"cannot tell on {', '.join(unknown)}"] if unknown else []
        found = "; ".join(parts) or "no task was measured alike in both"
        said.append(f"{a.name} against {b.name}: {found}.")
    head = ["runs", "task", "measure", "first", "second", "do they differ?"]
    return said, Table("Utility of the arms after their last round (95 % intervals)", head, rows)


def _verdict(measure: str, ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    """Whether two rows' intervals lie apart."""
    low, high = MEASURES[measure][1:]
    if ours.get(low) is None or theirs.get(low) is None:
        return "cannot tell: no interval"
    if ours[low] > theirs[high] or theirs[low] > ours[high]:
        return DIFFER
    return "cannot tell: overlap is no proof of equal utility"


def _shared(a: Arm, b: Arm) -> list[tuple[str, str, dict[str, Any], dict[str, Any]]]:
    """(task, measure, a's row, b's row) in each one's last round, where both have one model."""

    def last(arm: Arm) -> dict[str, dict[str, Any]]:
        rows = arm.summary["utility"]
        end = max((row["round"] for row in rows), default=0)
        ends = [row for row in rows if row["round"] == end]
        tasks = [row["task"] for row in ends]
        return {row["task"]: row for row in ends if tasks.count(row["task"]) == 1}

    ours, theirs = last(a), last(b)
    return [
        (task, measure, ours[task], theirs[task])
        for task in sorted(ours.keys() & theirs.keys())
        for measure in MEASURES
        if ours[task].get(measure) is not None and theirs[task].get(measure) is not None
    ]
