"""Questions to token ids, the same ids in training and in scoring.

A record is tokenised in three pieces, prompt, answer and newline, each alone and without special
tokens, and the ids are put together. Tokenising the joined text could merge characters across the
seam (a prompt's colon with an answer's space, an answer's stop with the newline), and then an
option's log-likelihood behind the prompt would be measured on tokens that training never showed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from itertools import chain
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

from fedmem.data import prompts
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
        self.end: list[int] = self.encode(prompts.END)

    @property
    def fingerprint(self) -> str:
        """Digest of all that the ids depend on: of the same texts and digest, the same ids."""
        rules = self._plain().to_str()
        return sha256(f"{tokenizers.__version__} {rules}".encode()).hexdigest()

    def _plain(self) -> tokenizers.Tokenizer:
        """What does the work, set as each call of the tokenizer sets it anew: to encode whole."""
        backend: tokenizers.Tokenizer = self._tokenizer.backend_tokenizer
        backend.encode_special_tokens = True
        backend.no_truncation()
        backend.no_padding()
        return backend

    @property
    def dtype(self) -> np.dtype[Any]:
        """The smallest type that holds every id."""
        return np.dtype(np.uint16 if len(self._tokenizer) <= 2**16 else np.int32)

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

    def encode_all(self, texts: Iterable[str]) -> list[list[int]]:
        """As `encode`, of many texts: twice as fast, for nobody asks for offsets."""
        texts = list(texts)
        distinct = list(dict.fromkeys(texts))  # options are often the same few letters
        encoded = self._plain().encode_batch_fast(distinct, add_special_tokens=False)
        ids = {text: found.ids for text, found in zip(distinct, encoded, strict=True)}
        if not self._special_ids.isdisjoint(chain.from_iterable(ids.values())):
            raise DataError("the tokenizer turns a text into a special token; use another base")
        return [ids[text] for text in texts]

    def special_text(self, text: str) -> str | None:
        """The first special token's string that the text holds, or None."""
        return next((s for s in sorted(self.special_texts) if s in text), None)


def array(ids: Sequence[int]) -> Ids:
    """Token ids as int32 [T]."""
    return np.asarray(ids, dtype=np.int32)
