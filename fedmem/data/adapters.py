"""Rows in the columns of the Hugging Face hub, turned into records.

An adapter takes (row, line, source) and gives a record, or raises ValueError saying what is wrong
with the row; `read_records` puts file and line before it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

from fedmem.config.sources import StoredSource
from fedmem.data import prompts, sources
from fedmem.data.ids import SeenIds
from fedmem.data.phi import CATEGORIES
from fedmem.data.records import Note, PhiSpan, QARecord
from fedmem.data.rows import Cell, Row
from fedmem.errors import DataError

Adapter = Callable[[Row, str, StoredSource], QARecord | Note]
OnBadRow = Literal["error", "skip"]


class Fault(NamedTuple):
    """What is wrong with a row, by the name under which it is counted; `id` where it is the id."""

    kind: Literal["bad_rows", "duplicate_ids"]
    text: str
    id: str | None = None


def _column(row: Row, name: str) -> Any:
    if name not in row:
        # the row's own keys are not told: in a broken file they may be text of a note
        raise ValueError(f"the column {name!r} is missing")
    return row[name]


def _checked(value: Any, name: str, kind: type) -> Any:
    if isinstance(value, Cell) and kind is not str:
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError(f"{name!r} must be {kind.__name__}, as JSON in its cell") from None
    # bool is an int to Python, and never what a column of numbers means
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        found = "null" if value is None else type(value).__name__
        raise ValueError(f"{name!r} must be {kind.__name__}, not {found}")
    return value


def _raw_text(value: Any, name: str) -> str:
    text = str(_checked(value, name, str))
    if not text.strip():
        raise ValueError(f"{name!r} is empty")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"{name!r} holds half a character (a lone surrogate)") from None
    return text


def _text(row: Row, name: str) -> str:
    return _raw_text(_column(row, name), name).strip()


def _key(row: Row, name: str) -> str:
    """The text of a column that identifies: text, or a whole number."""
    value = _column(row, name)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _raw_text(value, name).strip()


def _id(row: Row, default: str, source: StoredSource, *names: str) -> str:
    """The id column that the source names, else the first of `names` there is, else `default`."""
    column = source.id or next((name for name in names if name in row), None)
    return default if column is None else _key(row, column)


def medmcqa(row: Row, name: str, source: StoredSource) -> QARecord:
    """openlifescienceai/medmcqa: opa..opd, and cop, the right one's index from 0."""
    correct = _checked(_column(row, "cop"), "cop", int)
    if not 0 <= correct <= 3:
        raise ValueError(f"'cop' must be 0 to 3, not {correct} (-1 marks unlabelled test rows)")
    options = [_text(row, f"op{letter}") for letter in "abcd"]
    return prompts.mcq(_id(row, name, source, "id"), _text(row, "question"), options, correct)


def medqa(row: Row, name: str, source: StoredSource) -> QARecord:
    """GBaker/MedQA-USMLE-4-options: options by letter, answer_idx (a letter), answer (its text)."""
    options = _checked(_column(row, "options"), "options", dict)
    if sorted(options) != list(prompts.LETTERS):
        raise ValueError("'options' must have the keys A, B, C and D, and no others")
    letter = _text(row, "answer_idx")
    if letter not in options:
        raise ValueError("'answer_idx' must be A, B, C or D")
    if row.get("answer") not in (None, options[letter]):
        raise ValueError(f"'answer' is not the option {letter}, which 'answer_idx' names")
    texts = [_text(options, key) for key in prompts.LETTERS]
    correct = prompts.LETTERS.index(letter)
    return prompts.mcq(_id(row, name, source, "id"), _text(row, "question"), texts, correct)


def mmlu(row: Row, name: str, source: StoredSource) -> QARecord:
    """cais/mmlu: choices, a list, and answer, the right one's index from 0."""
    choices = _checked(_column(row, "choices"), "choices", list)
    correct = _checked(_column(row, "answer"), "answer", int)
    if not 0 <= correct <= 3:
        raise ValueError(f"'answer' must be 0 to 3, not {correct}")
    texts = [_raw_text(choice, "choices").strip() for choice in choices]
    return prompts.mcq(_id(row, name, source, "id"), _text(row, "question"), texts, correct)


def pubmedqa(row: Row, name: str, source: StoredSource) -> QARecord:
    """qiaojin/PubMedQA: context.contexts (joined by spaces), question, final_decision."""
    context = _checked(_column(row, "context"), "context", dict)
    parts = _checked(_column(context, "contexts"), "context.contexts", list)
    if not parts:
        raise ValueError("'context.contexts' is empty")
    joined = " ".join(_raw_text(part, "context.contexts").strip() for part in parts)
    decision = _text(row, "final_decision")
    if decision not in prompts.DECISIONS:
        raise ValueError("'final_decision' must be yes, no or maybe")
    id = _id(row, name, source, "pubid", "id")
    return prompts.closed(id, joined, _text(row, "question"), decision)


def medical_meadow(row: Row, name: str, source: StoredSource) -> QARecord:
    """medalpaca/medical_meadow_*: the question is `input`, or `instruction` where input is empty.

    The instruction is one fixed sentence in these sets, and the paper's form has no place for it.
    """
    given = row.get("input")
    asked = given if given is not None and given != "" else _column(row, "instruction")
    question = _raw_text(asked, "input" if asked is given else "instruction").strip()
    return prompts.open_question(_id(row, name, source, "id"), question, _text(row, "output"))


def generic(row: Row, name: str, source: StoredSource) -> QARecord:
    """Any two text columns, named in the source; the prompt is taken as it is written.

    Trailing white space of the prompt goes: the answer brings the one space between them.
    """
    prompt = _raw_text(_column(row, source.prompt), source.prompt).rstrip()
    answer = _text(row, source.completion)
    return QARecord(_id(row, name, source, "id"), "generic", prompt, f" {answer}")


def _phi(tags: Any, text: str) -> tuple[PhiSpan, ...]:
    spans = []
    for tag in _checked(tags, "phi", list):
        tag = _checked(tag, "phi[]", dict)
        start, end = (_checked(_column(tag, key), f"phi.{key}", int) for key in ("start", "end"))
        category, type_ = (_checked(_column(tag, k), f"phi.{k}", str) for k in ("category", "type"))
        if not 0 <= start < end <= len(text):
            raise ValueError(
                f"phi [{start}, {end}) is not inside the note's {len(text)} characters"
            )
        if type_ not in CATEGORIES.get(category, ()):
            raise ValueError(
                f"phi [{start}, {end}): category and type must be of i2b2/n2c2 2014, in capitals, "
                "like NAME and PATIENT (README lists them)"
            )
        if not text[start:end].strip():
            raise ValueError(f"phi [{start}, {end}) tags white space")
        # files that carry the tagged text too can be checked against the offsets
        stated = next((tag[key] for key in ("text", "value") if key in tag), text[start:end])
        if stated != text[start:end]:
            raise ValueError(f"phi [{start}, {end}) does not stand where the offsets say")
        spans.append(PhiSpan(start, end, category, type_))
    spans.sort(key=lambda span: span.start)
    for before, after in pairwise(spans):
        if after.start < before.end:
            raise ValueError(f"phi [{after.start}, {after.end}) overlaps the tag before it")
    return tuple(spans)


def notes(row: Row, name: str, source: StoredSource) -> Note:
    """Clinical notes: `text`; `patient` (else each note is its own); `phi`, a list of tags.

    The text is kept as it is, white space and all: offsets count its characters.
    """
    text = _raw_text(_column(row, "text"), "text")
    id = _id(row, name, source, "id")
    column = source.patient or "patient"
    named = source.patient is not None or row.get(column) is not None
    tags = row.get("phi")
    phi = _phi(tags, text) if tags is not None else ()
    return Note(id, _key(row, column) if named else id, text, phi)


ADAPTERS: dict[str, Adapter] = {
    "medmcqa": medmcqa,
    "medqa": medqa,
    "mmlu": mmlu,
    "pubmedqa": pubmedqa,
    "medical_meadow": medical_meadow,
    "generic": generic,
    "notes": notes,
}


def examine(
    source: StoredSource, root: Path | None, column: str | None = None
) -> Iterator[tuple[str, QARecord | Note | Fault]]:
    """(place, record, or what is wrong there) for every row of a source, one at a time.

    As `read_records`, but that a fault is told and not raised.
    """
    adapter = ADAPTERS[source.adapter]
    seen = SeenIds()
    for place, name, row in sources.read(source, root):
        try:
            if isinstance(row, ValueError):
                raise row
            record = adapter(row, name, source)
            if isinstance(record, QARecord) and (source.patient or column):
                record = replace(
                    record,
                    patient=_key(row, source.patient) if source.patient else None,
                    group=_key(row, column) if column else None,
                )
        except ValueError as error:
            yield place, Fault("bad_rows", str(error))
            continue
        if seen.add(record.id):
            yield place, record
        else:
            yield place, Fault("duplicate_ids", "a row before it has the same id", record.id)


def _with_first(source: StoredSource, root: Path | None, column: str | None, fault: Fault) -> str:
    """The fault's text; of an id seen before, with the place where it stands first.

    No places are kept while reading: they are looked for again, once, where reading ends.
    """
    if fault.id is not None:
        for place, record in examine(source, root, column):
            if not isinstance(record, Fault) and record.id == fault.id:
                return f"{fault.text}, {place}"
    return fault.text


def read_records(
    source: StoredSource,
    root: Path | None,
    on_bad_row: OnBadRow,
    counts: Counter[str],
    column: str | None = None,
) -> Iterator[QARecord | Note]:
    """Records of a source, one at a time; memory grows by about 11 bytes a row, for its id.

    root: the folder that relative paths start at. `column` gives each QARecord its `group`, and
    the source's `patient` its patient: text or whole numbers, neither missing nor empty. A bad row
    or an id seen before is a DataError naming the file and its place there, or with `skip` is left
    out and counted in `counts` under `bad_rows` and `duplicate_ids`. A source without any usable
    row is a DataError always.
    """
    usable = skipped = 0
    for place, record in examine(source, root, column):
        if not isinstance(record, Fault):
            usable += 1
            yield record
        elif on_bad_row == "error":
            text = _with_first(source, root, column, record)
            raise DataError(f"{place}: {text}; mend the row, or set data.on_bad_row=skip")
        else:
            skipped += record.kind == "bad_rows"
            counts[record.kind] += 1
    if not usable:
        raise DataError(
            f"{sources.name(source)}: no usable row, {skipped} skipped as bad; "
            "check the source's `adapter`"
            if skipped
            else f"{sources.name(source)}: holds no rows"
        )
