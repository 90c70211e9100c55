"""EleutherAI's lm-evaluation-harness on the same questions: the same numbers, by other code."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from fedmem.data import prompts
from fedmem.data.adapters import read_records
from fedmem.data.files import source_of
from fedmem.data.records import QARecord
from fedmem.data.synthetic.qa import generate
from fedmem.evaluation import harness
from fedmem.evaluation.options import option_logprobs
from fedmem.evaluation.standalone import encode
from fedmem.progress import silent
from fedmem.trained import Trained, find

pytest.importorskip("lm_eval", reason="the extra `eval` is not installed")

REAL = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "medmcqa.jsonl"
ROOM = ["training.max_length=460"]


def open_tiny(base_folder: Path) -> Trained:
    trained = Trained(find(str(base_folder), None, ROOM), silent)
    trained.load(trained.origin.states[0])
    return trained


def some(count: int = 12) -> list[QARecord]:
    """Questions with options of one token and of several, one of them not of ASCII."""
    first = [one for one in generate("mcq", count, 0, "a")[0]]
    options = ("a fever", "a fièvre that lasts for days", "no", "an itch of the skin")
    own = [
        prompts.mcq_text(f"own-{number}", f"What is seen in case {number}?", options, number % 4)
        for number in range(count)
    ]
    letters = prompts.mcq("letters", "Which one?", ["a", "b", "c", "d"], 2)
    return [*first, *own, letters, prompts.closed("c", "It was tried.", "Does it help?", "no")]


def agree(trained: Trained, records: list[QARecord]) -> list[dict[str, Any]]:
    pairs = list(encode(trained, records, Counter()))
    assert len(pairs) == len(records)
    rows = harness.compare(trained.model, trained.tokenizer, pairs, trained.bos)
    for row in rows:
        assert row["same_tokens"] == 1.0
        assert row["gap"] == row["gap_all"] < 1e-4
        for norm in harness.NORMS:
            assert row[norm] == pytest.approx(row[f"{norm}_ours"])
            assert row[f"{norm}_agree"] == 1.0
    return rows


def test_log_likelihoods_and_accuracy_are_the_harnesss(base_folder: Path) -> None:
    trained, records = open_tiny(base_folder), some()
    rows = agree(trained, records)
    assert sum(row["n"] for row in rows) == len(records)
    pairs = list(encode(trained, records, Counter()))
    theirs, _ = harness.likelihoods(trained.model, trained.tokenizer, records, "<s>")
    for sums, tokens in zip(
        theirs, option_logprobs(trained.model, [q for _, q in pairs]), strict=True
    ):
        np.testing.assert_allclose(sums, [option.sum() for option in tokens], atol=1e-4)


def test_the_norms_tell_options_apart(base_folder: Path) -> None:
    # a random model finds every token alike likely: the sum picks the shortest option, and the
    # means do not always
    row = next(row for row in agree(open_tiny(base_folder), some(30)) if row["task"] == "mcq")
    assert row["agree"] < 1.0
    assert row["acc"] != row["acc_norm"]


@pytest.mark.skipif(not REAL.is_file(), reason="../shared/data/medmcqa.jsonl is not here")
def test_the_bundled_base_on_real_questions() -> None:
    trained = Trained(find("bundled", None, ROOM), silent)
    read = read_records(source_of(REAL, "medmcqa"), None, "error", Counter())
    (row,) = agree(trained, [one for one in islice(read, 60) if isinstance(one, QARecord)])
    assert row["n"] == 60


def test_a_cut_prompt_is_left_out(base_folder: Path) -> None:
    trained = open_tiny(base_folder)
    long = prompts.closed("long", "It was tried in many. " * 60, "Does it help?", "no")
    short = prompts.closed("short", "It was tried.", "Does it help?", "no")
    pairs = list(encode(trained, [long, short], Counter()))
    (row,) = harness.compare(trained.model, trained.tokenizer, pairs, trained.bos)
    assert (row["n"], row["cut"]) == (1, 1)
    only = harness.compare(trained.model, trained.tokenizer, pairs[:1], trained.bos)
    assert only == [{"task": "closed", "n": 0, "cut": 1, "merged": 0}]


def test_a_seam_that_merges_is_told(base_folder: Path) -> None:
    """A tokenizer without word limits makes one token of `is:` and an answer's start, ` n`."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([" a"] * 200 + ["is:"] * 100 + ["is: n"] * 50, trainer)
    trained = open_tiny(base_folder)
    merging = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    trained.tokenizer = merging
    options = ("a fever", "an itch", "no", "a rash")
    own = prompts.mcq_text("own", "What is seen?", options, 1)
    melting = prompts.mcq_text("melting", "What is seen?", ("n", "an itch", "no", "a rash"), 1)
    pairs = list(encode(trained, [own, melting], Counter()))
    (row,) = harness.compare(trained.model, merging, pairs, trained.bos)
    assert (row["n"], row["merged"]) == (1, 1)  # ` n` melts into the colon: no token is left to ask
    assert row["same_tokens"] == 0.75  # all but ` no`
    assert row["gap"] < 1e-4
    assert row["gap_all"] > 1e-2
