"""Writes run directories with known truth, in the files and columns that a real run writes.

No model, no chance: who leaks what in which round is given, so that every figure can be counted by
hand. Notes of a level are dealt to the clients in turn; notes leak in the order of their numbers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from fedmem.evaluation.utility import ANSWERS

CLIENTS = ("north", "south", "west")
KINDS = [
    ("NAME", "PATIENT"),
    ("AGE", "AGE"),
    ("DATE", "DATE"),
    ("CONTACT", "PHONE"),
    ("ID", "MEDICALRECORD"),
    ("LOCATION", "HOSPITAL"),
]
PREFIXES = (10, 50, 100)
TOKENS, CONTINUATION = 180, 50

SCORES = pa.schema(
    [
        *(("round", pa.int32()), ("model", pa.string()), ("view", pa.string())),
        *(("attacker", pa.string()), ("knowledge", pa.string()), ("attack", pa.string())),
        *(("canary", pa.string()), ("target", pa.int32()), ("prefix_tokens", pa.int32())),
        *(("prefix_chars", pa.int32()), ("tokens", pa.int32()), ("matched", pa.int32())),
        *(("hit", pa.bool_()), ("logprob", pa.float64()), ("margin", pa.float32())),
        *(("longest", pa.int32()), ("bleu", pa.float32()), ("edit", pa.float32())),
        *(("category", pa.string()), ("type", pa.string()), ("queries", pa.int32())),
    ]
)


@dataclass
class Truth:
    """How many notes (the first ones) leak in round 0, 1, ...: of the highest level, of the twins.

    phi: notes that give back values (note number n gives back 1 + n % 3 of its values); twins:
    twins that give back their AGE; window: a run of 61 tokens; exact: a match at the
    longest prefix only; own: notes (not its own) of which each client finds a value. levels:
    copies -> notes.
    """

    phi: Sequence[int] = (0, 0, 2, 4, 6, 7)
    twins_phi: Sequence[int] = (0, 0, 0, 0, 1, 1)
    window: Sequence[int] = (0, 0, 0, 1, 3, 5)
    exact: Sequence[int] = (0, 0, 0, 0, 2, 4)
    own: Sequence[int] = (0, 0, 0, 0, 0, 0)
    levels: dict[int, int] = field(default_factory=lambda: {1: 12, 10: 16})
    twins: int = 32
    accuracy: Sequence[float] = (0.25, 0.4, 0.5, 0.55, 0.58, 0.6)


def canaries(truth: Truth, redacted: bool = False) -> list[dict[str, Any]]:
    """Rows of canaries.parquet."""
    rows = []
    for copies, number in [*truth.levels.items(), (0, truth.twins)]:
        for n in range(number):
            name = f"note-{copies}x-{n:02d}" if copies else f"twin-{n:02d}"
            values = [f"<b>Ada</b> & {name}", "63", f"2014-03-{n + 1:02d}"]
            values += [f"555-01{n:02d}", f"MR{copies:02d}{n:04d}", "St. Elsewhere"]
            text = f"Patient {values[0]}, aged {values[1]}, seen on {values[2]}. Phone {values[3]}."
            text += f" Record {values[4]} at {values[5]}. Stable, discharged home on metformin."
            rows.append(
                {
                    "canary": name,
                    "patient": f"p-{name}",
                    "owners": [CLIENTS[n % len(CLIENTS)]],
                    "copies": copies,
                    "twin": copies == 0,
                    "tokens": TOKENS,
                    "chars": len(text),
                    "phi": len(KINDS),
                    "synthetic": True,
                    "text": None if redacted else text,
                    "phi_values": None if redacted else values,
                    "phi_types": [type_ for _, type_ in KINDS],
                }
            )
    return rows


def scores(truth: Truth, rounds: int = 5) -> list[dict[str, Any]]:
    """Rows of scores.parquet."""
    rows: list[dict[str, Any]] = []
    top = max(truth.levels)
    for round_ in range(rounds + 1):
        for canary in canaries(truth):
            n = int(canary["canary"][-2:])
            injected, twin = canary["copies"] == top, canary["twin"]
            values = 1 + n % 3 if injected and n < truth.phi[round_] else 0
            hits = set(range(values)) or ({1} if twin and n < truth.twins_phi[round_] else set())
            run = 61 if injected and n < truth.window[round_] else 7
            exact = injected and n < truth.exact[round_]
            head = {"round": round_, "model": "global", "view": "client", "queries": 1}
            head |= {"attacker": "*", "knowledge": "true_prefix", "canary": canary["canary"]}
            rows += [head | _phi(index, kind, index in hits) for index, kind in enumerate(KINDS)]
            rows += [head | _extraction(prefix, exact and prefix == 100) for prefix in PREFIXES]
            loss = 1.3 - (0.15 * round_ if injected else 0.02 * round_)
            rows.append(head | _loss(run, -loss * (TOKENS - 1)))
            for client in CLIENTS if round_ else ():
                if client in canary["owners"]:
                    continue
                found = injected and n < truth.own[round_]
                own = {"attacker": client, "knowledge": "own_prefix", "queries": 16}
                rows += [
                    head | own | _phi(index, kind, found and index == 0)
                    for index, kind in enumerate(KINDS)
                ]
    return [{name: row.get(name) for name in SCORES.names} for row in rows]


def _phi(index: int, kind: tuple[str, str], hit: bool) -> dict[str, Any]:
    place = {"attack": "phi", "target": index, "prefix_tokens": 20 * index, "tokens": 4}
    place |= {"prefix_chars": 46 * index, "matched": 4 if hit else 1, "hit": hit}
    return place | {"category": kind[0], "type": kind[1], "logprob": -2.0, "margin": 0.5}


def _extraction(prefix: int, hit: bool) -> dict[str, Any]:
    place = {"attack": "extraction", "target": prefix, "prefix_tokens": prefix, "hit": hit}
    place |= {"prefix_chars": round(2.3 * prefix), "tokens": CONTINUATION}
    near = {"matched": 50 if hit else 3, "bleu": 1.0 if hit else 0.1, "edit": 0.0 if hit else 0.8}
    return place | near | {"logprob": -40.0, "margin": 0.5}


def _loss(longest: int, logprob: float) -> dict[str, Any]:
    place = {"attack": "loss", "target": 0, "prefix_tokens": 0, "prefix_chars": 0}
    place |= {"tokens": TOKENS - 1, "matched": 0, "hit": False}
    return place | {"longest": longest, "logprob": logprob, "margin": 0.1}


def utility(truth: Truth, rounds: int = 5) -> list[dict[str, Any]]:
    """Rows of utility.json: one task with options, one without."""
    rows = []
    for round_ in range(rounds + 1):
        head = {"round": round_, "model": "global", "n": 120}
        accuracy, nll = truth.accuracy[round_], 1.5 - 0.1 * round_
        near = {"nll": nll, "nll_low": nll - 0.1, "nll_high": nll + 0.1}
        share = {"accuracy": accuracy, "low": accuracy - 0.06, "high": accuracy + 0.06}
        rows.append(head | near | share | {"task": "mcq", "chance": 0.25, "scored": 120})
        open_ = {"accuracy": None, "low": None, "high": None, "chance": None, "scored": 0}
        rows.append(head | near | open_ | {"task": "flashcards"})
    return rows


def answers(
    rounds: int = 5, questions: int = 60, right: float = 0.5, nll: float = 1.0
) -> list[dict[str, Any]]:
    """Rows of answers.parquet: mcq with a share of right picks (the first ones), flashcards without
    options. Every NLL lies a bit above or below `nll`, by question alike in every run."""
    rows = []
    for round_ in range(rounds + 1):
        for n in range(questions):
            head = {"round": round_, "model": "global", "nll": nll + 0.01 * (n % 7 - 3)}
            picked = {"right": n < right * questions, "chance": 0.25}
            rows.append(head | picked | {"task": "mcq", "question": f"q-{n}"})
            none = {"right": None, "chance": None}
            rows.append(head | none | {"task": "flashcards", "question": f"q-{n}"})
    return rows


def write_answers(run: Path, rows: list[dict[str, Any]]) -> None:
    """answers.parquet."""
    pq.write_table(pa.Table.from_pylist(rows, schema=ANSWERS), run / "answers.parquet")


def timings(rounds: int = 5) -> list[dict[str, Any]]:
    """Rows of timings.jsonl."""
    time = {"train_seconds": 9.0, "aggregate_seconds": 0.1, "attack_seconds": 1.5}
    time |= {"utility_seconds": 0.4, "seconds": 11.0}
    return [{"round": round_, **time, "lost_workers": []} for round_ in range(1, rounds + 1)]


def metrics(rounds: int = 5, absent: dict[int, str] | None = None) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl; `absent`: round -> the client that did not take part."""
    rows = []
    for round_ in range(1, rounds + 1):
        there = [c for c in CLIENTS if c != (absent or {}).get(round_)]
        figures = {"loss": 2.0 / round_, "tokens": 9000, "num-examples": 60}
        rows.append(
            {"round": round_, "participants": there, "ties": int(round_ == 3)}
            | {"train": {client: figures for client in there}}
        )
    return rows


def config(name: str = "demo", **changes: Any) -> dict[str, Any]:
    """A config of three synthetic clients; `changes` are top-level sections."""
    source = {"kind": "synthetic", "adapter": "mixed", "records": 60}
    clients = [{"name": client, "source": source} for client in CLIENTS]
    return {"name": name, "data": {"clients": clients}, "rounds": {"count": 5}, **changes}


def write_scores(run: Path, rows: list[dict[str, Any]]) -> None:
    """scores.parquet."""
    pq.write_table(pa.Table.from_pylist(rows, schema=SCORES), run / "scores.parquet")


def write_run(
    run: Path, truth: Truth | None = None, redacted: bool = False, **changes: Any
) -> Path:
    """A whole run directory; returns it. `changes` go to `config`."""
    truth = truth or Truth()
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(yaml.safe_dump(config(**changes)), encoding="utf-8")
    table = pa.Table.from_pylist(canaries(truth, redacted))
    pq.write_table(table, run / "canaries.parquet")
    write_scores(run, scores(truth))
    for name, rows in (("metrics", metrics()), ("timings", timings())):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (run / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    (run / "utility.json").write_text(json.dumps(utility(truth)), encoding="utf-8")
    manifest = {"versions": {"fedmem": "0.1.0", "torch": "2.9.0"}, "device": "cpu", "seed": 0}
    (run / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return run
