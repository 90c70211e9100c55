import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmem.data import encoding, prompts
from fedmem.data.encoding import Coder
from fedmem.data.records import Example, QARecord
from fedmem.errors import DataError

RECORD = prompts.mcq("q", "Which drug treats fever?", ["one", "two", "three", "four"], 1)
LONG = QARecord("q", "open", "word " * 100 + "The answer is:", " short")


def test_text_gives_its_tokens_back(coder, tokenizer):
    made = encoding.example(coder, RECORD, 200, "all")
    assert made is not None
    assert not made.cut
    assert made.example.ids.dtype == np.int32
    assert made.example.ids[0] == tokenizer.bos_token_id
    assert made.example.supervised == 1
    assert tokenizer.decode(made.example.ids[1:]) == prompts.text(RECORD)


def test_loss_on_answers_starts_at_the_answer(coder, tokenizer):
    made = encoding.example(coder, RECORD, 200, "answer")
    assert tokenizer.decode(made.example.ids[made.example.supervised :]) == " B\n"


@given(st.text(min_size=1, max_size=40), st.text(min_size=1, max_size=20), st.integers(16, 60))
def test_scoring_sees_the_tokens_of_training(coder, prompt, answer, max_length):
    record = QARecord("q", "t", f"{prompt}\nThe answer is:", f" {answer}")
    made = encoding.example(coder, record, max_length, "answer")
    asked = encoding.question(coder, record, max_length)
    assert (made is None) == (asked is None)
    if made is None:
        return
    end = coder.encode("\n")
    joined = np.concatenate([asked.prompt, asked.options[0], end])
    assert np.array_equal(made.example.ids, joined)
    assert made.example.supervised == len(asked.prompt)
    assert len(joined) <= max_length


def test_a_long_prompt_is_cut_from_the_left(coder, tokenizer):
    made = encoding.example(coder, LONG, 32, "answer")
    assert made.cut
    assert len(made.example.ids) == 32
    assert made.example.ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(made.example.ids).endswith("The answer is: short\n")


def test_an_answer_that_does_not_fit_is_dropped_never_cut(coder):
    record = QARecord("q", "open", "Why? The answer is:", " because" * 40)
    assert encoding.example(coder, record, 40, "all") is None
    assert encoding.question(coder, record, 40) is None


def test_options_share_a_prompt_cut_for_the_longest(coder):
    options = (" a", " " + "b" * 20)
    record = QARecord("q", "mcq", LONG.prompt, " a", options, 0)
    asked = encoding.question(coder, record, 40)
    longest = max(map(len, asked.options))
    assert len(asked.prompt) + longest + len(coder.encode("\n")) == 40
    assert (asked.id, asked.task, asked.correct, asked.scored) == ("q", "mcq", 0, True)


def test_an_open_question_has_its_answer_as_the_one_option(coder):
    asked = encoding.question(coder, LONG, 64)
    assert len(asked.options) == 1
    assert not asked.scored


@pytest.mark.parametrize("text", ["</s>", "a <s> b", "</s></s>"])
def test_text_never_becomes_a_special_token(coder, tokenizer, text):
    ids = coder.encode(text)
    assert not set(ids) & set(tokenizer.all_special_ids)
    assert tokenizer.decode(ids) == text
    assert coder.special_text(text) in {"<s>", "</s>"}


def test_a_tokenizer_without_bos(tokenizer):
    from transformers import PreTrainedTokenizerFast

    bare = Coder(PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer))
    made = encoding.example(bare, RECORD, 200, "all")
    assert made.example.ids.tolist() == [
        *bare.encode(RECORD.prompt),
        *bare.encode(RECORD.answer),
        *bare.encode("\n"),
    ]


class Slow:
    is_fast = False


def test_a_tokenizer_without_offsets_is_refused():
    with pytest.raises(DataError, match=r"a fast one is needed"):
        Coder(Slow())


@given(st.lists(st.tuples(st.integers(1, 16), st.booleans()), max_size=30))
def test_packing_keeps_every_token_in_order_and_canaries_alone(sizes):
    examples, at = [], 0
    for number, (size, canary) in enumerate(sizes):
        ids = np.arange(at, at + size, dtype=np.int32)
        at += size
        examples.append(Example(ids, canary=f"c{number}" if canary else None))
    packs = encoding.pack(examples, 16)
    assert all(len(item.ids) <= 16 for item in packs)
    joined = np.concatenate([item.ids for item in packs]) if packs else np.arange(0)
    assert np.array_equal(joined, np.arange(at))
    alone = {item.canary: item.ids.tolist() for item in packs if item.canary}
    assert alone == {item.canary: item.ids.tolist() for item in examples if item.canary}
