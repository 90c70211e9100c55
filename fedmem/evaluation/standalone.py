"""Utility of models that are trained already: on a run's own held-out questions, or on a file's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from fedmem.data.adapters import read_records
from fedmem.data.encoding import Coder, array
from fedmem.data.files import source_of
from fedmem.data.records import EncodedQA, QARecord
from fedmem.errors import ConfigError, DataError
from fedmem.evaluation.utility import ANSWERS, answer
from fedmem.folder import Folder
from fedmem.metrics import utility
from fedmem.metrics.headline import percent
from fedmem.progress import Event, Progress, silent
from fedmem.trained import Trained, find


@dataclass(frozen=True)
class Evaluated:
    """`rows` as in utility.json, `answers` a row a question and model, `compared` by the harness.

    `notes` says what of the questions was not used, or not in full.
    """

    rows: list[dict[str, Any]]
    answers: pa.Table
    compared: list[dict[str, Any]]
    notes: list[str]


def evaluate(
    where: str,
    questions: Path | None = None,
    adapter: str | None = None,
    round_: int | None = None,
    out: Path | None = None,
    harness: bool = False,
    changes: Sequence[str] = (),
    progress: Progress = silent,
) -> Evaluated:
    """Ask the models that `where` names: NLL of the right answer, and accuracy, by task.

    questions: a file that `adapter` reads; without it a run's own held-out questions are asked,
    which gives the figures of its utility.json. `out`: a JSON file for the rows; the answers go
    beside it. `harness`: also by lm-evaluation-harness (needs `questions`).

    Raises ConfigError or DataError naming the file, row, key or round.
    """
    columns, others = _columns(changes)
    origin = find(where, round_, others)
    name = origin.settings.name
    if questions is None and origin.run is None:
        raise ConfigError(f"{where}: is no run with questions of its own; give --questions FILE")
    if (questions is None) != (adapter is None):
        raise ConfigError("give --questions FILE and --adapter NAME together")
    if harness and questions is None:
        raise ConfigError("--harness: compares on a file of questions; give --questions FILE")
    if out is not None:
        _check_out(out)
    if harness:
        from fedmem.evaluation import harness as other

        other.check_installed()
    counts: Counter[str] = Counter()
    records: list[QARecord] = []
    if questions is not None and adapter is not None:
        progress(Event(name, f"reading {questions}"))
        source = source_of(questions, adapter, **columns)
        on_bad_row = origin.settings.data.on_bad_row
        read = read_records(source, None, on_bad_row, counts)
        records = [one for one in read if isinstance(one, QARecord)]
        if not records:
            raise DataError(f"{questions}: holds notes, not questions; use another --adapter")
    trained = Trained(origin, progress)
    pairs: list[tuple[QARecord, EncodedQA]] = []
    if questions is None:
        progress(Event(name, "building the run's held-out questions again"))
        asked: Sequence[EncodedQA] = trained.own_data().heldout
    else:
        pairs = list(encode(trained, records, counts))
        asked = [encoded for _, encoded in pairs]
    if not asked:
        raise DataError(f"{questions or where}: no question fits training.max_length; raise it")
    answers, compared = ANSWERS.empty_table(), []
    for state in origin.states:
        text = f"{len(asked)} questions" + (f", round {state.round}" if origin.run else "")
        progress(Event(name, f"{text}, {state.name}" if state.name != "global" else text))
        model = trained.load(state)
        table = answer(model, asked, state.round, state.name)
        answers = pa.concat_tables([answers, table])
        if harness:
            progress(Event(name, f"{text}, by lm-evaluation-harness"))
            rows = other.compare(model, trained.tokenizer, pairs, trained.bos)
            compared += [{"round": state.round, "model": state.name, **row} for row in rows]
    done = Evaluated(utility.by_task(answers), answers, compared, _said(counts))
    if out is not None:
        write(done, out)
    return done


def _columns(changes: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """`questions.prompt=...` and the like, apart from the other changes."""
    known = ("prompt", "completion", "id")
    columns, others = {}, []
    for text in changes:
        key, _, value = text.partition("=")
        if not key.startswith("questions."):
            others.append(text)
        elif (column := key.removeprefix("questions.")) in known and value:
            columns[column] = value
        else:
            raise ConfigError(f"{text}: questions.prompt, .completion and .id name columns")
    return columns, others


def _check_out(out: Path) -> None:
    for file in (out, answers_file(out)):
        if file.exists():
            raise DataError(f"--out {out}: {file} is already there; give a new file")
    if out.suffix != ".json" or not out.parent.is_dir():
        raise DataError(f"--out {out}: give a .json file in a folder that exists")


def encode(
    trained: Trained, records: Sequence[QARecord], counts: Counter[str]
) -> Iterator[tuple[QARecord, EncodedQA]]:
    """The questions that fit training.max_length, cut from the left as a run's own are."""
    coder = Coder(trained.tokenizer)
    end = len(coder.end) + len(coder.bos)
    for record in records:
        options = [coder.encode(text) for text in record.options or (record.answer,)]
        room = trained.settings.training.max_length - end - max(map(len, options))
        if room < 1:
            counts["dropped"] += 1
            continue
        prompt = coder.encode(record.prompt)
        counts["cut"] += len(prompt) > room
        yield (
            record,
            EncodedQA(
                id=record.id,
                task=record.task,
                prompt=array(coder.bos + prompt[-room:]),
                options=tuple(map(array, options)),
                correct=record.correct or 0,
                scored=len(options) > 1,
            ),
        )


def _said(counts: Counter[str]) -> list[str]:
    texts = {
        "bad_rows": "bad rows left out",
        "duplicate_ids": "rows left out, their id was seen before",
        "dropped": "questions left out, their answers do not fit training.max_length",
        "cut": "prompts cut from the left to fit training.max_length",
    }
    return [f"{counts[key]} {text}" for key, text in texts.items() if counts[key]]


def answers_file(out: Path) -> Path:
    """Where the answers to single questions go, beside `out`."""
    return out.with_name(f"{out.stem}.answers.parquet")


def write(done: Evaluated, out: Path) -> None:
    """The rows as JSON, the answers as parquet, and the harness's rows beside them."""
    writer = Folder(out.parent)
    writer.write_table(answers_file(out).name, done.answers)
    if done.compared:
        writer.write_json(f"{out.stem}.harness.json", done.compared)
    writer.write_json(out.name, done.rows)


def lines(done: Evaluated) -> Iterator[str]:
    """The rows as a table for the screen."""
    yield from done.notes
    head = (
        "round",
        "model",
        "task",
        "questions",
        "NLL a token (95 %)",
        "accuracy (95 %)",
        "chance",
    )
    table: list[tuple[str, ...]] = [head]
    for row in done.rows:
        nll = f"{row['nll']:.3f} ({row['nll_low']:.3f} to {row['nll_high']:.3f})"
        accuracy = chance = "-"
        if row["scored"]:
            span = f"{percent(row['low'])}–{percent(row['high'])}"
            accuracy = f"{percent(row['accuracy'])} % ({span})"
            chance = f"{percent(row['chance'])} %"
        first = (str(row["round"]), row["model"], row["task"], str(row["n"]))
        table.append((*first, nll, accuracy, chance))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for cells in table:
        yield "  ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)).rstrip()
    for row in done.compared:
        yield from _compared(row)


def _compared(row: dict[str, Any]) -> Iterator[str]:
    yield ""
    cut = f", {row['cut']} with a cut prompt left out" if row["cut"] else ""
    cut += f", {row['merged']} it cannot tokenise left out" if row["merged"] else ""
    head = f"lm-evaluation-harness, round {row['round']}, {row['model']}, {row['task']}"
    yield f"{head}: {row['n']} questions{cut}"
    if not row["n"]:
        return
    for norm, what in (("acc", "sum"), ("acc_norm", "a character"), ("acc_bytes", "a byte")):
        theirs, ours, agree = (percent(row[key]) for key in (norm, f"{norm}_ours", f"{norm}_agree"))
        yield f"  {norm} ({what}): {theirs} %; ours {ours} %; same option picked in {agree} %"
    agree, same = percent(row["agree"]), percent(row["same_tokens"])
    yield f"  ours, a token: {percent(row['accuracy'])} %; picks as their acc_norm in {agree} %"
    gap = "-" if row["gap"] is None else f"{row['gap']:.1e}"
    yield f"  {same} % of options tokenised alike, log-likelihoods {gap} nats apart at most"
