"""The study's tables and figure, from the arms' result files alone: RESULTS.md and figure.svg."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import claims
import draw
from claims import Row, span

from fedmem.comparison import draws, matched, observations, sheets
from fedmem.comparison.draws import Axis
from fedmem.comparison.matched import compare
from fedmem.comparison.sheets import Arm, only
from fedmem.comparison.sides import Case
from fedmem.errors import DataError

FACTS = Axis("facts", "nll", ("mcq", "open"))
BESIDE = (
    Axis("accuracy on facts", "accuracy", ("mcq", "open")),
    Axis("new skill", "nll", ("closed",)),
    Axis("accuracy in the new skill", "accuracy", ("closed",)),
)
RANKS = ("r1", "r4", "r16", "r64")
SHARE = 0.75  # of the smaller best gain: the protocol's utility
SHARES = (0.5, SHARE, 0.9)
PLAIN = {"full": 1e-3, "r16-all": 3e-3, "r16-dp": 1e-2}  # the plain arm's rate for each defence
Parts = Mapping[str, Mapping[str, Arm]]


def show(results: Path) -> None:
    """Write RESULTS.md and figure.svg beside `results`, and print the former."""
    parts = load(results)
    text = "\n".join(document(parts)) + "\n"
    (results.parent / "RESULTS.md").write_text(text, encoding="utf-8")
    (results.parent / "figure.svg").write_text(draw.drawing(parts, case), encoding="utf-8")
    print(text)


def load(results: Path) -> dict[str, dict[str, Arm]]:
    """part -> arm's name -> arm. Raises DataError where there are no results."""
    found: dict[str, dict[str, Arm]] = {}
    for file in sorted(results.glob("*.parquet")):
        table, about = observations.read(file)
        name = about["arm"]
        found.setdefault(about["part"], {})[name] = sheets.arm(name, table)
    if not found:
        raise DataError(
            f"{results}: holds no results; give the folder that `study.py run` wrote to"
        )
    return found


def case(attack: str = "phi", copies: int = 10, part: str = "federated") -> Case:
    """What is compared; the protocol's primary one by default.

    Real records ask for nothing that the base was told, so there all answers are the utility.
    """
    return Case(Axis("all answers") if part == "real" else FACTS, attack, copies, BESIDE)


def document(parts: Parts) -> Iterator[str]:
    """RESULTS.md, line by line."""
    yield "<!-- made by `python experiments/lora_vs_full/study.py show` -->"
    rows = {
        part: {
            name: compare(arms["full"], arms[name], case(part=part), SHARES, fixed=True)
            for name in RANKS
            if "full" in arms and name in arms
        }
        for part, arms in parts.items()
        if part != "defended"
    }
    if "federated" in rows and "r16" in rows["federated"]:
        yield from verdicts(parts, rows)
    if "confirm" in rows:
        yield from confirmation(parts["confirm"])
    for part, arms in parts.items():
        if part == "defended":
            continue
        yield from _heading(f"{part}: each arm at its own best", best_rows(part, arms))
        text = f"{part}: LoRA against full fine-tuning, by the protocol"
        yield from _heading(text, comparisons(rows[part].values()))
        loose = [anew(arms, name, part) for name in rows[part]]
        what = "" if part == "confirm" else "exploratory, "
        yield from _heading(f"{part}: {what}the utility set anew in each draw", comparisons(loose))
    if "defended" in parts and "federated" in parts:
        yield from _heading("Defences against the plain arm, same rate", defences(parts))


def verdicts(parts: Parts, rows: Mapping[str, Mapping[str, list[Row]]]) -> Iterator[str]:
    """The claims by the rule."""
    federated = rows["federated"]
    best, same = federated["r16"][0], at_share(federated["r16"])
    found = {
        "1. LoRA r 16 memorizes less, federated, same utility": claims.less_at_same_utility(same),
        "2. up to 10 times less": claims.up_to_ten_times([r[0] for r in federated.values()]),
        "3. no significant cost in performance (r 16)": claims.no_cost(best),
    }
    if "r16" in rows.get("centralized", {}):
        told = claims.less_at_same_utility(at_share(rows["centralized"]["r16"]))
        found["4. the same in centralized training"] = told
    if "r16-all" in parts.get("defended", {}):
        plain = only(parts["federated"]["r16"], PLAIN["r16-all"])
        row = compare(plain, parts["defended"]["r16-all"], case())[0]
        found["5. LoRA combines with the defences"] = claims.combines(row)
    gains = {name: _best_gain(arm) for name, arm in parts["federated"].items()}
    fair = claims.fair(gains)
    yield from _heading("The claims, by the protocol's rule", [])
    told = ", ".join(f"{name} {gain:.3f}" for name, gain in gains.items())
    yield (
        f"Best validation gain on facts, nats: {told}. The base is "
        f"{'good enough' if fair else 'NOT good enough: claims 1 to 4 are inconclusive'}."
    )
    yield ""
    yield "| claim | verdict | why |"
    yield "|---|---|---|"
    for claim, (verdict, why) in found.items():
        said = verdict if fair or claim.startswith("5") else claims.OPEN
        yield f"| {claim} | **{said}** | {why} |"


def anew(arms: Mapping[str, Arm], name: str, part: str) -> list[Row]:
    """Full against an arm with the utility set anew in each draw, the whole of the gain last."""
    return compare(arms["full"], arms[name], case(part=part), (*SHARES, 1.0))[1:]


def confirmation(arms: Mapping[str, Arm]) -> Iterator[str]:
    """The second pass's one comparison: the whole of the smaller gain, on fresh seeds."""
    verdict, why = claims.confirmed(anew(arms, "r16", "confirm")[-1])
    yield from _heading("The confirmation, by the protocol's second pass", [])
    yield f"At the whole of the smaller best gain, full less LoRA r 16: **{verdict}**; {why}."


def at_share(rows: Sequence[Row]) -> Row:
    """The row at the protocol's utility; where there is none, the one that says why."""
    return next((row for row in rows if row["share"] == SHARE), rows[0])


def _best_gain(arm: Arm) -> float:
    drawn = draws.weights(arm, list(arm.seeds), 0, 0)
    return float(draws.gains(arm, drawn, FACTS, validation=True)[:, 0].max())


def _heading(text: str, lines: Sequence[str] | Iterator[str]) -> Iterator[str]:
    yield ""
    yield f"## {text[0].upper()}{text[1:]}"
    yield ""
    yield from lines


def best_rows(part: str, arms: Mapping[str, Arm]) -> Iterator[str]:
    """A line an arm: where it stands at its best, what it learned, what it gives back by level."""
    levels = sorted({int(c) for a in arms.values() for s in a.seeds.values() for c in s.copies})[1:]
    head = ["arm", "seeds", "rate", "round", "gain", "accuracy on facts", "new skill"]
    head += [*(f"PHI {level}×" for level in levels), "exact 10×"]
    yield _line(head)
    yield _line(["---"] * len(head))
    for name, arm in arms.items():
        told = [matched.at_own_best(arm, case("phi", level, part)) for level in levels]
        one = matched.at_own_best(arm, case(part=part))
        cells = [name, str(len(arm.seeds)), f"{one['rate']:g}", f"{one['round']:g}"]
        cells += [span(one["gain"]), span(one["beside"]["accuracy on facts"], 100, "points")]
        cells += [span(one["beside"]["new skill"])]
        cells += [span(row["leak"], 100, "") for row in told]
        yield _line(
            [*cells, span(matched.at_own_best(arm, case("exact", part=part))["leak"], 100, "")]
        )


def comparisons(found: Iterator[list[Row]] | Sequence[list[Row]]) -> Iterator[str]:
    """A line a comparison: leakage, difference, ratio; what else differs there."""
    head = ["arms", "compared at", "full", "LoRA", "difference", "full / LoRA", "verdict"]
    head += ["rates", "rounds", "gain differs by", "accuracy differs by", "new skill differs by"]
    yield _line(head)
    yield _line(["---"] * len(head))
    for row in (row for rows in found for row in rows):
        way = "own best" if row["share"] is None else f"{100 * row['share']:.0f} % of the gain"
        cells = [f"{row['a']} / {row['b']}", way]
        if "difference" not in row:
            yield _line([*cells, *["–"] * 4, row["verdict"], *["–"] * 5])
            continue
        cells += [span(row[key], 100, "") for key in ("leak_a", "leak_b", "difference")]
        cells += [span(row["ratio"], unit="times"), row["verdict"]]
        cells += [f"{row['rate_a']:g} / {row['rate_b']:g}"]
        cells += [f"{row['round_a']:.1f} / {row['round_b']:.1f}"]
        cells += [span(row["gain_difference"])]
        cells += [span(row["beside"]["accuracy on facts"], 100, "points")]
        yield _line([*cells, span(row["beside"]["new skill"])])


def defences(parts: Parts) -> Iterator[str]:
    """Each defended arm against the plain one at the same rate, on the seeds both have."""
    found = []
    for name, arm in parts["defended"].items():
        key = next(key for key in sorted(PLAIN, key=len, reverse=True) if name.startswith(key))
        plain = only(parts["federated"][key.partition("-")[0]], PLAIN[key])
        found.append(compare(plain, arm, case(), (SHARE, 1.0)))
    for line in comparisons(found):
        yield line.replace("| full | LoRA |", "| plain | defended |").replace(
            "full / LoRA", "ratio"
        )


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.strip() for cell in cells) + " |"
