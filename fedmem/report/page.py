"""Writes the page: figures from the runs' files, one template, one style sheet, nothing else."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from fedmem.errors import DataError
from fedmem.metrics.summary import read_config, read_json, read_table, summarise
from fedmem.report import attacks, clients, heat, panels, phi, ranked, svg, tail, view
from fedmem.report.matched import INTRO, grouped, matched_arms
from fedmem.report.protection import protection
from fedmem.report.utility import compare, utility
from fedmem.report.view import Arm, Table

HERE = Path(__file__).parent
MOST = 8  # so many runs side by side can still be told apart on one page


def write_report(run_dirs: list[Path], out: Path, tasks: Sequence[str] = ()) -> Path:
    """One self-contained HTML file of one or several runs; returns `out`.

    More than `MOST` runs are shown by arm: what each gives back, at what utility.

    Figures are computed from the runs' files alone. Texts of notes are shown only where the run
    kept them (it does not unless every note is synthetic, or privacy.redact is off).
    `tasks`: whose NLL is the utility at which arms are compared; none: all.
    Fails with DataError on a folder that is no run.
    """
    if not run_dirs:
        raise DataError("a report needs at least one run directory")
    if len(run_dirs) > MOST:
        text = render_many(run_dirs, tasks)
    else:
        text = render(load_arms(run_dirs), tasks)
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(f".{out.name}.{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    aside.replace(out)
    return out


def load_arms(run_dirs: Sequence[Path]) -> list[Arm]:
    """The runs in the order given, each with a short name of its own."""
    summaries = [summarise(path) for path in run_dirs]
    names = short_names([summary["name"] for summary in summaries])
    arms = []
    for look, (path, summary, name) in enumerate(zip(run_dirs, summaries, names, strict=True)):
        config = read_config(path).model_dump(mode="json")
        arms.append(Arm(name, look, summary, config, _texts(path, summary), path))
    return arms


def short_names(names: list[str]) -> list[str]:
    """Names without what all begin with ("quickstart-full" -> "full"); repeated ones numbered."""
    found = list(names)
    while len(set(found)) > 1 and all("-" in name for name in found):
        if len({name.split("-", 1)[0] for name in found}) > 1:
            break
        if any(name.split("-", 1)[1][:1].isdigit() for name in found):
            break  # not lr1e-3, lr1e-4 to 3, 4
        found = [name.split("-", 1)[1] for name in found]
    return [
        f"{name} ({found[:i].count(name) + 1})" if found.count(name) > 1 else name
        for i, name in enumerate(found)
    ]


def _texts(path: Path, summary: dict[str, Any]) -> dict[str, tuple[str, list[str]]]:
    if summary["redacted"]:
        return {}
    rows = read_table(path / "canaries.parquet").select(["canary", "text", "phi_values"])
    return {
        row["canary"]: (row["text"], row["phi_values"] or [])
        for row in rows.to_pylist()
        if row["text"]
    }


def render(arms: Sequence[Arm], tasks: Sequence[str] = ()) -> str:
    """The page as text."""
    said, matched = compare(arms)
    against = matched_arms([arm.path for arm in arms], [arm.name for arm in arms], tasks)
    return template("template.html").render(
        style=style(),
        arms=arms,
        several=len(arms) > 1,
        glance=phi.glance,
        swatch=svg.swatch,
        level=view.level,
        verdicts=[(arm, clients.verdicts(arm)) for arm in arms],
        sections=[
            *(("clients", "Client by client", clients.by_client(arms)),),
            *(("rounds", "Leakage, round by round", panels.by_round(arms)),),
            *(("pairs", "Who could read whom", heat.pairs(arms)),),
            *(("copies", "How often a note was written", panels.by_level(arms)),),
            *(("prompts", "How much of the note was given", panels.by_prefix(arms)),),
            *(("phi", "Which kinds of PHI", phi.categories(arms)),),
            *(("price", "At what price", clients.price(arms)),),
            *(("ranked", "By sampling, and among candidates", ranked.ranked(arms)),),
            *(("attacks", "Attack against attack", attacks.against(arms)),),
            *(("tail", "The worst case", tail.tails(arms)),),
            *(("audit", "Accounted, and shown by the audit", attacks.audited(arms)),),
            *(("utility", "What the model learned", utility(arms)),),
            *(("matched", "Arm against arm, at the same utility", replace(against, said=[])),),
        ],
        said=said,
        matched=matched,
        against=against,
        against_intro=INTRO,
        protection=protection(arms),
        leaks=[(arm, leaks(arm)) for arm in arms],
        differs=differences(arms),
        configs=[(arm, yaml.safe_dump(arm.config, sort_keys=False)) for arm in arms],
        data=data_tables(arms),
        time=time_tables(arms),
        versions=versions(arms),
        canaries_differ=_canaries_differ(arms),
        one_each=all(lv["patients"] == lv["notes"] for arm in arms for lv in arm.summary["levels"]),
        ties=sum(arm.summary["ties"] for arm in arms),
    )


def template(name: str) -> Template:
    """A page's template, beside this file."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # No line may begin with a per cent sign.
    environment.filters["tidy"] = lambda text: text.replace(" %", "\u00a0%")
    return environment.get_template(name)


def style() -> Markup:
    """The style sheet, for within a page."""
    return Markup((HERE / "style.css").read_text(encoding="utf-8"))


def render_many(run_dirs: Sequence[Path], tasks: Sequence[str] = ()) -> str:
    """The page of more runs than can be told apart one by one: their arms, against the first."""
    names = [read_config(path).name for path in run_dirs]
    found = grouped(run_dirs, short_names(names))
    rows = [[name, path.name] for name, paths in found.items() for path in paths]
    return template("arms.html").render(
        style=style(),
        runs=len(run_dirs),
        names=list(found),
        panel=matched_arms(run_dirs, short_names(names), tasks),
        intro=INTRO,
        swatch=svg.swatch,
        members=Table("The runs", ["arm", "run"], rows),
        most=MOST,
    )


def leaks(arm: Arm) -> list[tuple[dict[str, Any], list[tuple[str, str]] | None]]:
    """Each worst leak with its text in parts, or None where texts are not shown.

    Only notes that leaked, and the worst twin for scale; where none did, the three closest.
    """
    found = []
    rows = arm.summary["worst"]
    shown = [row for row in rows if row["leaked"] and not row["twin"]] or rows[:3]
    for row in shown + [row for row in rows if row["twin"] and row not in shown]:
        text = arm.texts.get(row["canary"])
        found.append((row, marked(*text, set(row["phi_hits"])) if text else None))
    return found


def marked(text: str, values: Sequence[str], hits: set[int]) -> list[tuple[str, str]]:
    """`text` in parts: ("leak", ...) a value given back, ("kept", ...) one that was not, ("", ...).

    Values are tried at their first mention, which is where they are marked.
    """
    spans = sorted(
        (text.find(value), text.find(value) + len(value), "leak" if i in hits else "kept")
        for i, value in enumerate(values)
        if value and value in text
    )
    # Of two values at one place (one holds the other) the leaked one is drawn.
    spans = sorted(spans, key=lambda span: (span[2] != "leak", span[0]))
    taken: list[tuple[int, int, str]] = []
    for start, end, kind in spans:
        if all(end <= a or start >= b for a, b, _ in taken):
            taken.append((start, end, kind))
    parts, at = [], 0
    for start, end, kind in sorted(taken):
        parts += [("", text[at:start]), (kind, text[start:end])]
        at = end
    return [(kind, part) for kind, part in [*parts, ("", text[at:])] if part]


def differences(arms: Sequence[Arm]) -> Table | None:
    """The config keys in which the arms differ."""
    flat = [dict(view.flat(arm.config)) for arm in arms]
    keys = list(dict.fromkeys(key for config in flat for key in config))
    rows = [
        [key, *(config.get(key, "–") for config in flat)]
        for key in keys
        if len({config.get(key) for config in flat}) > 1 and key != "name"
    ]
    head = ["key", *(arm.name for arm in arms)]
    return Table("Where the configs differ", head, rows) if rows else None


def _canaries_differ(arms: Sequence[Arm]) -> bool:
    plans = {tuple(map(str, (arm.summary["levels"], arm.summary["owners"]))) for arm in arms}
    return len(plans) > 1


def data_tables(arms: Sequence[Arm]) -> list[Table]:
    """Canaries by level and by owner; what each client trained on in its first round."""
    levels = [
        [
            *(arm.name, view.level(lv["copies"]), str(lv["notes"]), str(lv["patients"])),
            *(str(lv["phi_values"]), view.number(lv["mean_tokens"], 0)),
        ]
        for arm in arms
        for lv in arm.summary["levels"]
    ]
    head = ["run", "written", "notes", "patients", "PHI values", "mean tokens"]
    owners = [
        [arm.name, row["client"], view.level(row["copies"]), str(row["notes"])]
        for arm in arms
        for row in arm.summary["owners"]
    ]
    training = [
        [
            *(arm.name, client),
            *(
                f"{figures[key]:,.0f}" if key in figures else "–"
                for key in ("num-examples", "tokens")
            ),
            *(view.size(figures.get(key)) for key in ("bytes_down", "bytes_up")),
        ]
        for arm in arms
        for client, figures in _first_training(arm).items()
    ]
    return [
        Table("Notes", head, levels),
        Table("Notes by owner", ["run", "client", "written", "notes"], owners),
        Table(
            "One round of training",
            ["run", "client", "examples", "tokens", "sent to it", "sent back"],
            training,
        ),
    ]


def _first_training(arm: Arm) -> dict[str, dict[str, float]]:
    """Each client's figures in the first round it took part in."""
    found: dict[str, dict[str, float]] = {}
    for row in arm.summary["training"]:
        for client, figures in row["clients"].items():
            found.setdefault(client, figures)
    return found


def time_tables(arms: Sequence[Arm]) -> list[Table]:
    """Time by stage, of the run and of each round."""
    stages = ["train", "aggregate", "attack", "utility", "seconds"]
    head = ["training", "aggregation", "attack", "utility", "total"]
    totals, rounds = [], []
    for arm in arms:
        time = arm.summary["time"]
        share = time["attack_share"]
        cells = [view.seconds(time["total"][stage]) for stage in stages]
        totals.append([arm.name, *cells, "–" if share is None else f"{100 * share:.0f} %"])
        for row in time["rounds"]:
            cells = [view.seconds(row[stage]) for stage in stages]
            rounds.append([arm.name, str(row["round"] or "base"), *cells])
    return [
        Table("Time by stage", ["run", *head, "attack's share of a round"], totals),
        Table("Time by round", ["run", "round", *head], rounds),
    ]


def versions(arms: Sequence[Arm]) -> Table | None:
    """The manifests, flattened; runs without one are left out."""
    flat = {arm.name: dict(view.flat(found)) for arm in arms if (found := manifest(arm.path))}
    keys = list(dict.fromkeys(key for found in flat.values() for key in found))
    rows = [[key, *(found.get(key, "–") for found in flat.values())] for key in keys]
    return Table("Manifest", ["", *flat], rows) if rows else None


def manifest(run_dir: Path) -> dict[str, Any]:
    """What manifest.json says by now, less what is still to come; empty if there is none.

    A run's page is written just before its manifest is finished: "running" would be out of date
    at once.
    """
    path = run_dir / "manifest.json"
    found = read_json(path) if path.is_file() else {}
    if not isinstance(found, dict):
        raise DataError(f"{path} must hold an object")
    return {
        key: value
        for key, value in found.items()
        if value is not None and (key, value) != ("status", "running")
    }
