"""A small byte-level BPE for tests, and helpers to write files of records."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from fedmem.data.encoding import Coder

TEXT = [
    "MCQ: Which drug treats fever?\nOptions:\nA. one\nB. two\nC. three\nD. four\n"
    "The answer is: B\n",
    "Closed Question: The study found that patients did well.\nDoes it help?\nThe answer is: yes\n",
    "Medical Note: PATIENT: John Smith\nMRN: 1234567\nThe patient was seen in the clinic on "
    "4 March 2011 and discharged the day after.\n",
]


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """BPE of 600 tokens over bytes, with BOS `<s>` and EOS `</s>`."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(TEXT * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="session")
def coder(tokenizer: PreTrainedTokenizerFast) -> Coder:
    return Coder(tokenizer)


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[[str, Iterable[Any]], Path]:
    """(name, rows) -> path of a JSONL file; a row that is text is written as it is."""

    def write(name: str, rows: Iterable[Any]) -> Path:
        path = tmp_path / name
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real records, beside the project where there is one."""
    folder = Path(__file__).parents[3] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no ../shared/data beside the project: real records are not part of it")
    return folder
