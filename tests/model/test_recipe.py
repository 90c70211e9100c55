"""The recipe of the bundled base, on a thousandth of its tokens."""

from __future__ import annotations

import itertools
from pathlib import Path

from transformers import AutoTokenizer

from fedmem.data.synthetic import corpus
from fedmem.model import recipe
from fedmem.model.base import bundled_path


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        recipe.make(tmp_path / name, seed=3, tokens=4000)
    for file in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_the_shipped_tokenizer_is_the_recipes() -> None:
    made = recipe.make_tokenizer(seed=0)
    shipped = AutoTokenizer.from_pretrained(bundled_path())
    assert made.get_vocab() == shipped.get_vocab()
    text = "Medical Note: Ada Birch (MRN 1234567), seen on 3 May 2011."
    assert made(text)["input_ids"] == shipped(text)["input_ids"]
    assert shipped.decode(shipped(text, add_special_tokens=False)["input_ids"]) == text


def test_digits_stand_alone() -> None:
    shipped = AutoTokenizer.from_pretrained(bundled_path())
    pieces = shipped.tokenize("MRN 1234567")
    assert sum(piece.isdigit() for piece in pieces) == 7


def test_the_corpus_states_facts_and_never_asks() -> None:
    texts = list(itertools.islice(corpus.documents(0), 2000))
    assert not any("The answer is:" in text or "Options:" in text for text in texts)
    assert sum("first-line treatment" in text for text in texts) > 50
