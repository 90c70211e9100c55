"""Questions to token ids, the same ids in training and in scoring.

A record is tokenised in three pieces, prompt, answer and newline, each alone and without special
tokens, and the ids are put together. Tokenising the joined text could merge characters across the
seam (a prompt's colon with an answer's space, an answer's stop with the newline), and then an
option's log-likelihood behind the prompt would be measured on tokens that training never showed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedmem.data import prompts
from fedmem.data.records import EncodedQA, Example, QARecord
from fedmem.errors import DataError

Ids = NDArray[np.int32]


class Coder:
    """A Hugging Face fast tokenizer that can be trusted with texts of strangers.

    Text never becomes a special token: a note that holds `</s>` would else end its own example.
    """

    def __init__(self, tokenizer: Any) -> None:
        """Raises DataError for a tokenizer without offsets (a slow one)."""
        if not tokenizer.is_fast:
            raise DataError("the model's tokenizer gives no offsets: a fast one is needed")
        self._tokenizer = tokenizer
        bos = tokenizer.bos_token_id
        self.bos: list[int] = [] if bos is None else [int(bos)]
        added = tokenizer.added_tokens_decoder
        self.special_texts = {token.content for token in added.values() if token.special}
        self.special_texts |= set(tokenizer.all_special_tokens)
        special = {int(id) for id, token in added.items() if token.special}
        special |= {int(id) for id in tokenizer.all_special_ids}
        # an unknown character is no attack: tokenizers with <unk> write it for any such text
        self._special_ids = special - {tokenizer.unk_token_id}

    def encode(self, text: str) -> list[int]:
        """Ids of the text, without BOS. Raises DataError if a special token came out."""
        return self.encode_with_offsets(text)[0]

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids of the text, without BOS, and each token's characters [start, end) in it."""
        coded = self._tokenizer(
            text,
            add_special_tokens=False,
            split_special_tokens=True,
            return_offsets_mapping=True,
            return_attention_mask=False,
            verbose=False,
        )
        ids: list[int] = coded["input_ids"]
        if not self._special_ids.isdisjoint(ids):
            raise DataError("the tokenizer turns a text into a special token; use another base")
        return ids, coded["offset_mapping"]

    def special_text(self, text: str) -> str | None:
        """The first special token's string that the text holds, or None."""
        return next((s for s in sorted(self.special_texts) if s in text), None)


@dataclass(frozen=True)
class EncodedExample:
    """A training example, and whether its prompt had to be cut from the left."""

    example: Example
    cut: bool


def array(ids: Sequence[int]) -> Ids:
    """Token ids as int32 [T]."""
    return np.asarray(ids, dtype=np.int32)


def example(
    coder: Coder, record: QARecord, max_length: int, loss_on: Literal["all", "answer"]
) -> EncodedExample | None:
    """The record's training example of at most `max_length` tokens, BOS and newline counted.

    A prompt too long loses its beginning, for the question stands at its end; an answer is never
    cut. None if the answer does not fit behind a single token of the prompt.
    """
    prompt, answer = coder.encode(record.prompt), coder.encode(record.answer)
    tail = answer + coder.encode(prompts.END)
    room = max_length - len(coder.bos) - len(tail)
    if room < 1:
        return None
    kept = prompt[-room:]
    supervised = len(coder.bos) + len(kept) if loss_on == "answer" else 1
    ids = array(coder.bos + kept + tail)
    return EncodedExample(Example(ids, supervised), cut=len(kept) < len(prompt))


def question(coder: Coder, record: QARecord, max_length: int) -> EncodedQA | None:
    """The record as held-out question: every option behind the same prompt, cut for the longest.

    None if an option does not fit behind a single token of the prompt.
    """
    answers = [coder.encode(option) for option in record.options or (record.answer,)]
    room = max_length - len(coder.bos) - max(map(len, answers)) - len(coder.encode(prompts.END))
    if room < 1:
        return None
    return EncodedQA(
        id=record.id,
        task=record.task,
        prompt=array(coder.bos + coder.encode(record.prompt)[-room:]),
        options=tuple(map(array, answers)),
        correct=record.correct or 0,
        scored=len(answers) > 1,
    )


def pack(examples: Iterable[Example], max_length: int) -> list[Example]:
    """Examples joined, in order, while they fit `max_length`; each keeps its BOS inside the pack.

    Later examples of a pack see earlier ones, as in the paper. Canaries stay alone, so that a
    note's tokens stand where the attack puts them. For loss on all tokens only.
    """
    packs: list[list[Example]] = []
    room = 0
    for item in examples:
        if item.canary is None and packs and len(item.ids) <= room:
            packs[-1].append(item)
            room -= len(item.ids)
            continue
        packs.append([item])
        room = 0 if item.canary is not None else max_length - len(item.ids)
    return [
        parts[0] if len(parts) == 1 else Example(np.concatenate([part.ids for part in parts]))
        for parts in packs
    ]
