"""Rows in the columns of the Hugging Face hub, turned into records.

An adapter takes (row, line, source) and gives a record, or raises ValueError saying what is wrong
with the row; `read_records` puts file and line before it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from fedmem.config import JsonlSource
from fedmem.data import prompts, sources
from fedmem.data.phi import CATEGORIES
from fedmem.data.records import Note, PhiSpan, QARecord
from fedmem.data.sources import OnBadRow, Row

Adapter = Callable[[Row, int, JsonlSource], QARecord | Note]


def _column(row: Row, name: str) -> Any:
    if name not in row:
        # the row's own keys are not told: in a broken file they may be text of a note
        raise ValueError(f"the column {name!r} is missing")
    return row[name]


def _checked(value: Any, name: str, kind: type) -> Any:
    # bool is an int to Python, and never what a column of numbers means
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        found = "null" if value is None else type(value).__name__
        raise ValueError(f"{name!r} must be {kind.__name__}, not {found}")
    return value


def _raw_text(value: Any, name: str) -> str:
    text: str = _checked(value, name, str)
    if not text.strip():
        raise ValueError(f"{name!r} is empty")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"{name!r} holds half a character (a lone surrogate)") from None
    return text


def _text(row: Row, name: str) -> str:
    return _raw_text(_column(row, name), name).strip()


def _id(row: Row, line: int, source: JsonlSource, *names: str) -> str:
    """The id column that the source names, else the first of `names` there is, else the line."""
    name = source.id or next((name for name in names if name in row), None)
    if name is None:
        return f"line-{line}"
    value = _column(row, name)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _raw_text(value, name).strip()


def medmcqa(row: Row, line: int, source: JsonlSource) -> QARecord:
    """openlifescienceai/medmcqa: opa..opd, and cop, the right one's index from 0."""
    correct = _checked(_column(row, "cop"), "cop", int)
    if not 0 <= correct <= 3:
        raise ValueError(f"'cop' must be 0 to 3, not {correct} (-1 marks unlabelled test rows)")
    options = [_text(row, f"op{letter}") for letter in "abcd"]
    return prompts.mcq(_id(row, line, source, "id"), _text(row, "question"), options, correct)


def pubmedqa(row: Row, line: int, source: JsonlSource) -> QARecord:
    """qiaojin/PubMedQA: context.contexts (joined by spaces), question, final_decision."""
    context = _checked(_column(row, "context"), "context", dict)
    parts = _checked(_column(context, "contexts"), "context.contexts", list)
    if not parts:
        raise ValueError("'context.contexts' is empty")
    joined = " ".join(_raw_text(part, "context.contexts").strip() for part in parts)
    decision = _text(row, "final_decision")
    if decision not in prompts.DECISIONS:
        raise ValueError(f"'final_decision' must be yes, no or maybe, not {decision!r}")
    id = _id(row, line, source, "pubid", "id")
    return prompts.closed(id, joined, _text(row, "question"), decision)


def medical_meadow(row: Row, line: int, source: JsonlSource) -> QARecord:
    """medalpaca/medical_meadow_*: the question is `input`, or `instruction` where input is empty.

    The instruction is one fixed sentence in these sets, and the paper's form has no place for it.
    """
    given = row.get("input")
    asked = given if given is not None and given != "" else _column(row, "instruction")
    question = _raw_text(asked, "input" if asked is given else "instruction").strip()
    return prompts.open_question(_id(row, line, source, "id"), question, _text(row, "output"))


def generic(row: Row, line: int, source: JsonlSource) -> QARecord:
    """Any two text columns, named in the source; the prompt is taken as it is written.

    Trailing white space of the prompt goes: the answer brings the one space between them.
    """
    prompt = _raw_text(_column(row, source.prompt), source.prompt).rstrip()
    answer = _text(row, source.completion)
    return QARecord(_id(row, line, source, "id"), "generic", prompt, f" {answer}")


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


def notes(row: Row, line: int, source: JsonlSource) -> Note:
    """Clinical notes: `text`; `patient` (else each note is its own); `phi`, a list of tags.

    The text is kept as it is, white space and all: offsets count its characters.
    """
    text = _raw_text(_column(row, "text"), "text")
    id = _id(row, line, source, "id")
    patient = row.get("patient")
    if patient is not None:
        patient = _id({"patient": patient}, line, source.model_copy(update={"id": "patient"}))
    tags = row.get("phi")
    return Note(id, patient or id, text, _phi(tags, text) if tags is not None else ())


ADAPTERS: dict[str, Adapter] = {
    "medmcqa": medmcqa,
    "pubmedqa": pubmedqa,
    "medical_meadow": medical_meadow,
    "generic": generic,
    "notes": notes,
}


def _convert(adapter: Adapter, source: JsonlSource, row: Row, line: int) -> QARecord | Note:
    return adapter(row, line, source)


def read_records(
    path: Path, source: JsonlSource, on_bad_row: OnBadRow, counts: Counter[str]
) -> Iterator[QARecord | Note]:
    """Records of a source's file at `path`, lazily; faults as in `sources.read`."""
    convert = partial(_convert, ADAPTERS[source.adapter], source)
    return sources.read(path, convert, on_bad_row, counts)
