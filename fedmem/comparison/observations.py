"""What one run showed of every single question and note: the rows from which arms are compared.

An *arm* is a config less seed and learning rate: its runs differ in those two alone. One parquet
file an arm holds all that a comparison needs; no model and no text.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2s
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fedmem.config import Config
from fedmem.errors import DataError
from fedmem.files import part
from fedmem.metrics.leakage import passes
from fedmem.metrics.outcomes import collect, read_canaries
from fedmem.metrics.summary import read_config, read_lines, read_table

BOUND = "true_prefix"
SCHEMA = pa.schema(
    [
        ("seed", pa.int32()),
        ("lr", pa.float64()),
        ("round", pa.int16()),  # 0 is the untouched base
        ("unit", pa.string()),  # id of the question or note
        ("task", pa.dictionary(pa.int8(), pa.string())),  # null for a note
        ("copies", pa.int16()),  # null for a question; 0 for a twin
        ("nll", pa.float32()),  # nats a token: of the right answer, or of the whole note
        ("right", pa.bool_()),  # null without options, and for a note
        ("phi", pa.bool_()),  # granted the true text: some PHI value came back
        ("window", pa.bool_()),  # `attack.continuation` tokens in a row did
        ("exact", pa.bool_()),  # the tokens behind the split did
    ]
)
ATTACKS = ("phi", "window", "exact")
# what may differ between the runs of an arm: it bears on no figure, or is what an arm varies
VARIES = ("name", "seed", "output", "engine", "tracking", "arms", "sweep")
ABOUT = b"fedmem"  # key of what a file says of its arm


def arm_of(config: Config) -> dict[str, Any]:
    """The config less what the runs of one arm differ in; equal for two runs of the same arm."""
    tree = config.model_dump(mode="json", exclude=set(VARIES))
    del tree["training"]["lr"]
    for key in ("root", "cache"):
        del tree["data"][key]
    return tree


def is_validation(question: str) -> bool:
    """Whether a question belongs to the half that chooses rates and targets and is not reported."""
    return bool(blake2s(question.encode()).digest()[0] & 1)


def observe(run_dir: Path) -> pa.Table:
    """The rows of one finished run, in the order of `SCHEMA`.

    Only the model that all clients share counts. Raises DataError where there is none
    (topology `local`), or where a file is missing or torn.
    """
    config = read_config(run_dir)
    if config.rounds.topology == "local":
        raise DataError(f"{run_dir}: topology local shares no model, so there is no arm to compare")
    canaries = read_canaries(read_table(run_dir / "canaries.parquet"))
    scores = collect(read_table(run_dir / "scores.parquet"), canaries, config.attack.bleu)
    lines = read_lines(run_dir / "metrics.jsonl", "participants")
    found = passes(scores, canaries, {row["round"]: row["participants"] for row in lines})
    head = {"seed": config.seed, "lr": config.training.lr}
    rows: list[dict[str, Any]] = []
    answers = read_table(run_dir / "answers.parquet").to_pylist()
    for answer, unit in zip(answers, _units(answers), strict=True):
        if answer["model"] == "global":
            same = {key: answer[key] for key in ("round", "task", "nll", "right")}
            rows.append(head | same | {"unit": unit})
    for (round_, knowledge, attacker), notes in sorted(found.items()):
        if knowledge != BOUND or attacker != "*":
            continue
        for name, outcomes in sorted(notes.items()):
            canary, outcome = canaries[name], outcomes[0]
            row = head | {"round": round_, "unit": name, "nll": outcome.nll}
            row["copies"] = 0 if canary.twin else canary.copies
            rows.append(row | {a: outcome.hit(a, config.attack.continuation) for a in ATTACKS})
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _units(answers: list[dict[str, Any]]) -> Iterator[str]:
    """Each answer's question: its id; with task and number where several questions share the id."""
    first = answers[0]["round"] if answers else 0
    often = Counter(row["question"] for row in answers if row["round"] == first)
    seen: Counter[tuple[int, str, str]] = Counter()
    for row in answers:
        name, place = row["question"], (row["round"], row["task"], row["question"])
        seen[place] += 1
        yield name if often[name] == 1 else f"{row['task']}/{name}/{seen[place]}"


def by_arm(run_dirs: Iterable[Path]) -> list[tuple[dict[str, Any], list[Path]]]:
    """(an arm's config, its runs), arms in order of their first run."""
    arms: dict[str, tuple[dict[str, Any], list[Path]]] = {}
    for path in run_dirs:
        tree = arm_of(read_config(path))
        arms.setdefault(json.dumps(tree, sort_keys=True), (tree, []))[1].append(path)
    return list(arms.values())


def write(path: Path, table: pa.Table, about: Mapping[str, Any]) -> None:
    """An arm's rows as one small parquet file, with `about` (JSON) in its metadata; never half."""
    text = json.dumps(about, sort_keys=True, default=str).encode()
    ordered = table.sort_by([(name, "ascending") for name in ("lr", "seed", "unit", "round")])
    aside = part(path)
    pq.write_table(
        ordered.replace_schema_metadata({ABOUT: text}), aside, compression="zstd",
        compression_level=19,
    )  # fmt: skip
    aside.replace(path)


def read(path: Path) -> tuple[pa.Table, dict[str, Any]]:
    """(rows, what the file says of its arm). Raises DataError on a file that is no such table."""
    table = read_table(path)
    missing = [name for name in SCHEMA.names if name not in table.column_names]
    if missing:
        raise DataError(f"{path}: lacks the column {missing[0]}; it is no file of an arm's results")
    try:
        return table, json.loads((table.schema.metadata or {})[ABOUT])
    except (KeyError, ValueError):
        raise DataError(f"{path}: does not say what arm it is of") from None
