"""Notes to token windows: what of a note is written into a shard, and where its PHI stands.

One window a note: a note's windows would rise and fall together, so more of them would feign more
evidence. The window is the one with most PHI values, and begins at a line or sentence.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedmem.data import prompts
from fedmem.data.encoding import Coder, Ids, array
from fedmem.data.records import Note, PhiSpan, TokenSpan
from fedmem.errors import DataError

_SENTENCE = re.compile(r"\n\s*|(?<=[.!?])\s+")
_WORD = re.compile(r"(?<=\s)(?=\S)")


@dataclass(frozen=True)
class Window:
    """A note's window, encoded. ids: int32 [T], BOS first; offsets: int32 [T, 2] into `text`."""

    text: str
    ids: Ids
    offsets: NDArray[np.int32]
    phi: tuple[TokenSpan, ...]
    cut: bool


def window(
    coder: Coder, note: Note, max_length: int, long: Literal["window", "error", "skip"]
) -> Window | None:
    """The note in the paper's form, of at most `max_length` tokens, BOS counted.

    A longer note: its window with most PHI values, the earliest of equals (`window`), a DataError
    (`error`), or None (`skip`). A note that holds a special token's string is a DataError.
    """
    special = coder.special_text(note.text)
    if special is not None:
        raise DataError(
            f"note {note.id}: holds {special!r}, a special token of the model's tokenizer; "
            "take it out of the note"
        )
    whole = _encode(coder, note, 0, len(note.text))
    if len(whole.ids) <= max_length:
        return whole
    if long == "skip":
        return None
    if long == "error":
        raise DataError(
            f"note {note.id}: {len(whole.ids)} tokens, training.max_length is {max_length}; raise "
            "it, or set data.canaries.long to window or skip"
        )
    return _best(coder, note, whole, max_length)


def _best(coder: Coder, note: Note, whole: Window, max_length: int) -> Window:
    form = len(coder.bos) + len(coder.encode(prompts.note_text("")))
    # characters [start, end) of the note's tokens; the form's own stand at -1
    tokens = whole.offsets[whole.offsets[:, 0] >= 0]
    starts, ends = tokens[:, 0].tolist(), tokens[:, 1].tolist()
    room = max_length - form
    text, spans = note.text, note.phi
    candidates: list[tuple[int, int, int]] = []  # (-PHI values, start, end)
    # words are cut only where no window ends with a whole one, as in a value glued to a long word
    for begins, whole_words in ((_SENTENCE, True), (_WORD, True), (_WORD, False)):
        for start in _begins(begins, text, spans):
            first = bisect_left(starts, start)
            end = ends[min(first + room, len(ends)) - 1] if room > 0 else start
            candidates.append((-_count(spans, start, end), start, end))
        if begins is _SENTENCE and spans and not min(candidates)[0]:
            continue  # starts within sentences for PHI that is not to be had otherwise
        for _, start, end in sorted(candidates):
            fitting = _shrink(coder, note, start, end, max_length, whole_words)
            if fitting is not None:
                return fitting
    raise DataError(
        f"note {note.id}: no window of it fits training.max_length {max_length}; raise it"
    )


def _begins(pattern: re.Pattern[str], text: str, spans: tuple[PhiSpan, ...]) -> Iterator[int]:
    yield 0
    for match in pattern.finditer(text):
        at = match.end()
        span = _inside(spans, at)
        if at < len(text) and span is None:
            yield at


def _inside(spans: tuple[PhiSpan, ...], at: int) -> PhiSpan | None:
    """The PHI that a cut before the character `at` would split."""
    index = bisect_left(spans, at, key=lambda span: span.start) - 1
    return spans[index] if index >= 0 and spans[index].end > at else None


def _count(spans: tuple[PhiSpan, ...], start: int, end: int) -> int:
    first = bisect_left(spans, start, key=lambda span: span.start)
    return max(0, bisect_right(spans, end, key=lambda span: span.end) - first)


def _shrink(
    coder: Coder, note: Note, start: int, end: int, max_length: int, whole_words: bool
) -> Window | None:
    """The window from `start`, ended at a word at or before `end` so that it fits; None if empty.

    A text's tokens can change where it is cut, so the length is measured, never computed.
    """
    text = note.text
    while end > start:
        inside = end < len(text) and not text[end].isspace() and not text[end - 1].isspace()
        if whole_words and inside:
            words = text[start:end].rsplit(None, 1)
            if len(words) > 1:  # else one long word, which must be cut
                end = start + len(words[0])
        span = _inside(note.phi, end)
        if span is not None:
            end = span.start
        end = start + len(text[start:end].rstrip())
        if end <= start:
            return None
        found = _encode(coder, note, start, end)
        if len(found.ids) <= max_length:
            return found
        end -= 1
    return None


def _encode(coder: Coder, note: Note, start: int, end: int) -> Window:
    text = note.text[start:end]
    ids, raw = coder.encode_with_offsets(prompts.note_text(text))
    offsets = np.full((len(coder.bos) + len(ids), 2), -1, dtype=np.int32)
    lead = len(prompts.NOTE)
    for row, (a, b) in enumerate(raw, start=len(coder.bos)):
        # a token may hold the form's last space and the note's first letter: it counts as note
        a, b = max(a - lead, 0), min(b - lead, len(text))
        if a < b:
            offsets[row] = a, b
    phi = [_token_span(note, span, text, start, offsets) for span in _within(note, start, end)]
    return Window(
        text=text,
        ids=array(coder.bos + ids),
        offsets=offsets,
        phi=tuple(phi),
        cut=len(text) < len(note.text),
    )


def _within(note: Note, start: int, end: int) -> list[PhiSpan]:
    return [span for span in note.phi if start <= span.start and span.end <= end]


def _token_span(
    note: Note, span: PhiSpan, text: str, start: int, offsets: NDArray[np.int32]
) -> TokenSpan:
    a, b = span.start - start, span.end - start
    touching = np.flatnonzero((offsets[:, 0] < b) & (offsets[:, 1] > a))
    if not len(touching):
        raise DataError(f"note {note.id}: the tokenizer gives no token for characters {a} to {b}")
    value = text[a:b]
    first = value.casefold() not in text[:a].casefold()
    return TokenSpan(
        int(touching[0]), int(touching[-1]) + 1, span.category, span.type, value, first
    )
