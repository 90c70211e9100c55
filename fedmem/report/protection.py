"""The page's section "What protects whom", and what the protection costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from fedmem.metrics.summary import read_json, read_table
from fedmem.metrics.utility import paired
from fedmem.report.view import Arm, Table, flat, number, seconds, size

HEAD = ["defence", "where it acts", "protects whom", "guarantee", "whom one must trust", "figures"]
# keys in which a defended arm may differ from its undefended twin and still be one
OWN: tuple[str, ...] = ("name", "output", "defences", "aggregation.secure")
OWN += ("training.dp", "training.objective", "training.neftune")
NAMES = {
    "norm": "update norm",
    "clipped": "share clipped",
    "snr": "signal-to-noise ratio",
    "zero": "share of zeros",
    "dropped": "share of tokens dropped",
    "grad_norm": "gradient norm",
    "grad_clipped": "share of gradients clipped",
    "max_grad_norm": "norm at most",
    "mean_norm": "mean gradient norm",
    "mean_clipped": "share of gradients clipped",
}
PAIRS = {"accuracy": "scored", "nll": "n"}  # what each measure's pairs are counted under
EQUALS = "\u00a0=\u00a0"  # no line breaks there, nor at a minus sign
FEW = 10  # paired questions below which no interval is drawn
ALONE = "No undefended arm in this report to compare with: what the defences cost is not known."


@dataclass(frozen=True)
class Protection:
    """An arm's claims as a table, and what stays open."""

    arm: Arm
    table: Table
    open: Sequence[str]


@dataclass(frozen=True)
class Panel:
    """The section: one part an arm, then what the defences cost."""

    parts: list[Protection] = field(default_factory=list)
    cost: list[Table] = field(default_factory=list)
    said: list[str] = field(default_factory=list)


def protection(arms: Sequence[Arm]) -> Panel:
    """Claims arm by arm; the defended arms' cost beside an undefended one, where there is one."""
    panel = Panel([_part(arm) for arm in arms])
    defended = [arm for arm in arms if arm.summary["defended"]]
    if not defended:
        return panel
    beside = {arm.name: reference(arm, arms) for arm in defended}
    if not any(beside.values()):
        panel.said.append(ALONE)
    utility = [line for arm in defended for line in _utility(arm, beside[arm.name])]
    if utility:
        panel.cost.append(Table("Cost in utility, question by question", UTILITY, utility))
    panel.cost.append(Table("Cost in time and bytes", EFFORT, _effort(arms, beside)))
    return panel


def _part(arm: Arm) -> Protection:
    what = (
        "Defences and settings that bear on leakage"
        if arm.summary["defended"]
        else "No defences; settings that bear on leakage"
    )
    rows = [_cells(row) for row in arm.summary["protection"]]
    return Protection(arm, Table(f"{what}: {arm.name}", HEAD, rows), arm.summary["unprotected"])


def _cells(row: Mapping[str, Any]) -> list[str]:
    told = " ".join(map(sentence, [guarantee(row), *row["notes"]]))
    return [row["what"], row["where"], row["protects"], told, row["trust"], figures(row) or "–"]


def guarantee(row: Mapping[str, Any]) -> str:
    """The guarantee of a row of privacy.json in words: an epsilon never without all it needs."""
    if row["epsilon"] is None:
        return str(row["guarantee"])
    beside = "" if row["epsilon_rdp"] is None else f" (by RDP {up(row['epsilon_rdp'])})"
    figure = f"ε = {up(row['epsilon'])}{beside} at δ = {row['delta']:g}".replace(
        " = ", EQUALS
    ).replace("-", "−")
    return (
        f"{row['guarantee']}: {figure}, unit: {row['unit']}, adjacency: {row['adjacency']}, "
        f"sampling: {row['sampling']}"
    )


def sentence(text: str) -> str:
    """With a capital letter and a full stop; "ε" begins as it is."""
    return text[:1].upper() + text[1:].rstrip(".") + "."


def up(epsilon: float) -> str:
    """Two decimals, three significant digits below 0.1; rounded up, never to a better epsilon."""
    digits = 2 if epsilon >= 0.1 or epsilon <= 0 else 2 - math.floor(math.log10(epsilon))
    # 7.92 is 7.9200000000000001 or so: less than a millionth of the last digit is no more
    return f"{math.ceil(round(epsilon * 10**digits, 6)) / 10**digits:.{digits}f}"


def figures(row: Mapping[str, Any]) -> str:
    """As in "sigma 0.01, signal-to-noise ratio 0.4"; an epsilon has its place in the guarantee."""
    shown = {n: v for n, v in row["figures"].items() if not n.startswith("epsilon")}
    said = {NAMES.get(n, n.replace("_", " ")): value for n, value in shown.items()}
    return ", ".join(f"{n} {'–' if v is None else format(v, '.3g')}" for n, v in said.items())


# --- cost ----------------------------------------------------------------------------------


def reference(arm: Arm, arms: Sequence[Arm]) -> Arm | None:
    """The undefended arm that differs from `arm` in the fewest other settings; the first such."""
    plain = [other for other in arms if not other.summary["defended"]]
    return min(plain, key=lambda other: len(elsewhere(arm, other)), default=None)


def elsewhere(arm: Arm, other: Arm) -> list[str]:
    """The config keys besides the defences' own in which two arms differ."""
    ours, theirs = dict(flat(arm.config)), dict(flat(other.config))
    return [
        key
        for key in dict.fromkeys([*ours, *theirs])
        if ours.get(key) != theirs.get(key)
        if not any(key == own or key.startswith(f"{own}.") for own in OWN)
    ]


UTILITY = ["run", "against", "task", "can one tell?", "questions", "accuracy", "change"]
UTILITY += ["NLL", "change", "differs too in"]


def _utility(arm: Arm, other: Arm | None) -> list[list[str]]:
    """Paired changes after each one's last round, on the questions that both answered."""
    if other is None:
        return []
    too = ", ".join(elsewhere(arm, other)) or "nothing"
    head = [arm.name, other.name]
    if not _same_questions(arm, other):
        return [[*head, "–", "cannot tell: the questions are not the same", *("–",) * 5, too]]
    found = paired(_answers(arm), _answers(other))
    if not found:
        return [[*head, "–", "cannot tell: no question was answered by both", *("–",) * 5, too]]
    return [
        [
            *(*head, row["task"], verdict(row), str(row["n"])),
            *(_pair(row, "accuracy"), _change(row, "accuracy")),
            *(_pair(row, "nll"), _change(row, "nll"), too),
        ]
        for row in found
    ]


def _answers(arm: Arm) -> list[dict[str, Any]]:
    """The last round's answers of the model that all share; none where no file holds them."""
    if not (arm.path / "answers.parquet").is_file():
        return []
    rows = read_table(arm.path / "answers.parquet").to_pylist()
    rows = [row for row in rows if row["model"] == "global"]
    last = max((row["round"] for row in rows), default=0)
    return [row for row in rows if row["round"] == last and last]


def _same_questions(arm: Arm, other: Arm) -> bool:
    """Ids name the same questions only where the sources and the seed are the same."""
    return _sources(arm) == _sources(other)


def _sources(arm: Arm) -> list[Any]:
    """What decides which question an id names: seed, sources, and the files' hashes if told."""
    kept = arm.path / "data.json"
    files = read_json(kept).get("files") if kept.is_file() else None
    sources = {key: value for key, value in arm.config["data"].items() if key != "canaries"}
    return [arm.config["seed"], sources, files]


def _pair(row: Mapping[str, Any], measure: str) -> str:
    """As in "0.58, was 0.60"."""
    if row[measure] is None:
        return "–"
    return f"{number(row[measure])}, was {number(row[f'{measure}_was'])}"


def _change(row: Mapping[str, Any], measure: str) -> str:
    """As in "−0.020 (−0.051 to +0.011)"."""
    change = row[f"{measure}_change"]
    if change is None:
        return "–"
    point, low, high = (f"{value:+.3f}".replace("-", "−") for value in change)
    return point if row[PAIRS[measure]] < FEW else f"{point} ({low} to {high})"


def verdict(row: Mapping[str, Any]) -> str:
    """What the paired intervals show; one that holds 0 is no proof of no cost."""
    said = []
    for measure, name in (("accuracy", "accuracy"), ("nll", "NLL")):
        if row[f"{measure}_change"] is None:
            continue
        _, low, high = row[f"{measure}_change"]
        if row[PAIRS[measure]] < FEW:
            word = f"cannot tell (fewer than {FEW} questions)"
        elif low <= 0 <= high:
            word = "cannot tell"
        else:
            word = "better" if (low > 0) == (measure == "accuracy") else "worse"
        said.append(f"{name}: {word}")
    return "; ".join(said)


EFFORT = ["run", "against", "training and aggregation of a round", "change"]
EFFORT += ["sent to a client a round", "change", "sent back", "change"]


def _effort(arms: Sequence[Arm], beside: Mapping[str, Arm | None]) -> list[list[str]]:
    """Every arm's time and bytes, the defended ones against their undefended one."""
    found = []
    for arm in arms:
        other = beside.get(arm.name)
        cells = [arm.name, other.name if other else "–"]
        times = _times(arm)
        cells += [_span(times), _slower(times, _times(other)) if other else "–"]
        for key in ("bytes_down", "bytes_up"):
            ours = _bytes(arm, key)
            cells += [size(ours), _ratio(ours, _bytes(other, key)) if other else "–"]
        found.append(cells)
    return found


def _times(arm: Arm) -> list[float]:
    rounds = [row for row in arm.summary["time"]["rounds"] if row["round"]]
    return [row["train"] + row["aggregate"] for row in rounds]


def _span(times: Sequence[float]) -> str:
    """Mean, and the shortest and longest round."""
    if not times:
        return "–"
    return f"{seconds(fmean(times))} ({seconds(min(times))} to {seconds(max(times))})"


def _slower(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """The ratio of the means, where the slowest round of one is faster than any of the other."""
    if not ours or not theirs or min(theirs) <= 0:
        return "–"
    ratio = f"×{fmean(ours) / fmean(theirs):.2f}"
    apart = min(ours) > max(theirs) or min(theirs) > max(ours)
    return ratio if apart and len(ours) > 1 < len(theirs) else f"{ratio}, cannot tell"


def _bytes(arm: Arm, key: str) -> float | None:
    """Mean over clients and rounds, of those who told."""
    told = [
        figures[key]
        for row in arm.summary["training"]
        for figures in row["clients"].values()
        if figures.get(key) is not None
    ]
    return fmean(told) if told else None


def _ratio(ours: float | None, theirs: float | None) -> str:
    return f"×{ours / theirs:.2f}" if ours is not None and theirs else "–"
