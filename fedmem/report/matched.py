"""The page's section on arm against arm: frontiers, each at its own best, and at equal utility."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from fedmem.comparison import matched, observations, sheets
from fedmem.comparison.draws import Axis
from fedmem.comparison.sides import Case
from fedmem.errors import DataError
from fedmem.report import view
from fedmem.report.plane import Path as Line
from fedmem.report.plane import Spot, plane
from fedmem.report.view import Figure, Panel, Table, number

SHARES = (0.5, 0.75, matched.SHARE)
SAID = {"phi": "PHI", "window": "a long run of tokens", "exact": "the exact continuation"}
INTRO = (
    "An arm is a config less seed and learning rate; each is compared with the first. Half of "
    "the held-out questions choose rates, rounds and the utility compared at; gains are those "
    "of the other half over the untouched base. At the same utility an arm stands where it "
    "leaks least among the places at which one of its rates first reaches it. Seeds, "
    "questions and notes are drawn together, alike for both arms."
)
HEAD = [
    *("first / second", "leak", "utility", "compared at", "leak, first", "leak, second"),
    *("difference, points", "ratio", "gain, first", "gain, second", "verdict"),
]


def matched_arms(run_dirs: Sequence[Path], names: Sequence[str], tasks: Sequence[str]) -> Panel:
    """The runs by arm (a config less seed and rate), every arm against the first one.

    `names`: of the runs. `tasks`: those whose NLL, together, is the utility compared at; none: all.
    Nothing where all runs are of one arm. Raises DataError for a task that no run has.
    """
    found = grouped(run_dirs, names)
    if len(found) < 2:
        return Panel()
    try:
        arms = []
        for name, paths in found.items():
            rows = pa.concat_tables([observations.observe(path) for path in paths])
            arms.append(sheets.arm(name, rows))
    except DataError as error:
        return Panel(said=[f"Arms are not compared: {error}."])
    top = max(int(sheet.copies.max()) for arm in arms for sheet in arm.seeds.values())
    known = sorted({task for arm in arms for s in arm.seeds.values() for task in s.tasks})
    if strange := sorted(set(tasks) - set(known)):
        raise DataError(f"--utility: no task is called {strange[0]!r} ({', '.join(known)})")
    first = Axis(" and ".join(tasks), "nll", tuple(tasks)) if tasks else Axis("all tasks")
    apart = [Axis(task, "nll", (task,)) for task in known if [task] != list(tasks)]
    return panel(arms, top, [first, *apart] if len(known) > 1 else [first])


def grouped(run_dirs: Sequence[Path], names: Sequence[str]) -> dict[str, list[Path]]:
    """Arm's name -> its runs. An arm of one run has the run's name, others what sets them apart."""
    label = dict(zip(run_dirs, names, strict=True))
    arms = observations.by_arm(run_dirs)
    trees = [dict(view.flat(tree)) for tree, _ in arms]
    found: dict[str, list[Path]] = {}
    for (_, paths), tree in zip(arms, trees, strict=True):
        name = label[paths[0]] if len(paths) == 1 else differing(tree, trees)
        found[name if name not in found else f"{name} ({len(found) + 1})"] = paths
    return found


def differing(tree: Mapping[str, str], trees: Sequence[Mapping[str, str]]) -> str:
    """What sets an arm's config apart from the others, as in "method lora, r 4"."""
    keys = [key for key in tree if len({other.get(key) for other in trees}) > 1]
    return ", ".join(f"{key.rpartition('.')[2]} {tree[key]}" for key in keys[:3]) or "as the first"


def panel(arms: Sequence[sheets.Arm], copies: int, axes: Sequence[Axis]) -> Panel:
    """Every arm against the first, along each axis; the first axis is drawn and said in words."""
    found = Panel()
    rows = []
    for other in arms[1:]:
        for axis in axes:
            for attack in ("phi", "exact"):
                case = Case(axis, attack, copies, tuple(a for a in axes if a is not axis))
                rows += matched.compare(arms[0], other, case, SHARES)
    first = [row for row in rows if row["attack"] == "phi" and row["axis"] == axes[0].name]
    for share in (matched.SHARE, None):  # at equal utility first: it is the question
        found.said.extend(sentence(row) for row in first if row["share"] == share)
    found.said.append(
        f"The figure to quote is PHI at the same utility ({axes[0].name}); the table's other rows "
        "look at the same runs in other ways, each at 95 % by itself."
    )
    if min(len(arm.seeds) for arm in arms) < 2:
        found.said.append(
            "One seed an arm: these intervals speak of other notes and questions under these very "
            "runs, and not of training again."
        )
    caption = (
        f"Arm against arm: share of notes written {copies} times, less twins, in points; gain in "
        "nats a token; a ratio where the second's leakage is clear of 0 (95 % intervals)"
    )
    case = Case(axes[0], "phi", copies)
    found.figures.append(figure(arms, case))
    found.tables.append(Table(caption, HEAD, list(map(cells, rows))))
    return found


def figure(arms: Sequence[sheets.Arm], case: Case, looks: Sequence[int] | None = None) -> Figure:
    """Leakage over gain: each rate's rounds thin, each arm's frontier bold with intervals.

    `looks`: the arms' colours and marks by number, where they are not those of their places.
    """
    lines = []
    for look, arm in zip(looks or range(len(arms)), arms, strict=True):
        for rate, course in matched.courses(arm, case):
            spots = [Spot(gain, leak) for gain, leak in course]
            lines.append(Line(f"{arm.name}, rate {rate:g}", look, spots, thin=True))
        spots = [
            Spot(gain, *leak, text=f"gain {gain:.2f}: {points(leak)}")
            for gain, leak in matched.frontier(arm, case)
        ]
        if spots:
            lines.append(Line(arm.name, look, spots))
    unit = "nats a token" if case.axis.measure == "nll" else "share of questions"
    axis = f"gain over the untouched base, {case.axis.name} ({unit})"
    title = f"{SAID[case.attack]} from notes written {case.copies} times, less twins, by utility"
    said = (
        f"Share of notes written {case.copies} times that gave back {SAID[case.attack]}, the true "
        "text granted, less the twins' share. Thin: each learning rate's rounds, straight from the "
        "base to round 1, as far as they learn. Bold: the least that an arm leaks at a utility; "
        "its last mark may lie below the arm's own best, where another round or rate leaks less."
    )
    return Figure("Leakage at each utility", said, plane(title, lines, axis))


def sentence(row: dict[str, Any]) -> str:
    """A comparison in words; what cannot be told is said with its reason."""
    head = f"{row['b']} against {row['a']}, {place(row)}"
    if "difference" not in row or row["difference"] is None:
        return f"{head}: {row['verdict']}."
    told = row["verdict"]
    if told in ("less", "more"):
        told = f"{row['b']} leaks {told}"
    first, second = points(row["leak_a"]), points(row["leak_b"])
    early = (
        f" (Reached by {' and '.join(row['early'])} within the first round, in which nothing was "
        "measured.)"
    )
    return (
        f"{head}: {SAID[row['attack']]} from notes written {row['copies']} times, above twins, "
        f"{row['a']} {first}, {row['b']} {second}, difference {points(row['difference'])}: {told}"
        f"{', whatever their utility' if row['share'] is None else ''}."
    ) + early * bool(row["early"])


def place(row: dict[str, Any]) -> str:
    """Where two arms are compared, in words."""
    if row["share"] is None:
        return f"each at its own best ({row['axis']})"
    part = "" if row["share"] == 1 else f"{100 * row['share']:.0f} % of "
    return f"at the same utility ({part}the smaller of both best gains, {row['axis']})"


def cells(row: dict[str, Any]) -> list[str]:
    """A comparison as a row of the table; gains in nats a token."""
    at = "own best" if row["share"] is None else f"{100 * row['share']:.0f} % of the smaller gain"
    head = [f"{row['a']} / {row['b']}", SAID[row["attack"]], row["axis"], at]
    if "difference" not in row:
        return [*head, *["–"] * 6, row["verdict"]]
    figures = [points(row[key]) for key in ("leak_a", "leak_b", "difference")]
    ratio = row["ratio"]
    figures.append(f"{ratio[0]:.1f} ({ratio[1]:.1f}–{ratio[2]:.1f})" if ratio else "–")
    gains = [nats(row[key]) for key in ("gain_a", "gain_b")]
    told = row["verdict"]
    if told in ("less", "more"):
        told = f"{row['b']} leaks {told}"
    if row["early"]:
        told += f"; {' and '.join(row['early'])} there within the first round, not measured"
    return [*head, *figures, *gains, told]


def points(value: tuple[float, float, float] | None) -> str:
    """A share of notes in points, as in "44 (23 to 67)"."""
    if value is None:
        return "–"
    point, low, high = (f"{round(100 * part) + 0:d}".replace("-", "−") for part in value)
    return f"{point} ({low} to {high}) points"


def nats(value: tuple[float, float, float] | None) -> str:
    """A gain, as in "0.25 (0.21 to 0.29)"."""
    if value is None:
        return "–"
    return f"{number(value[0], 2)} ({number(value[1], 2)} to {number(value[2], 2)})"
