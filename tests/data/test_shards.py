"""Stored examples: the same tokens as encoding each record by itself, in the same order."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmem.config import Training
from fedmem.config.sources import SyntheticSource
from fedmem.data import prompts, tokens
from fedmem.data.cache import Cache
from fedmem.data.corpus import Corpus
from fedmem.data.records import Example, QARecord, Shard
from fedmem.data.shards import Listed, Stored, mixed, pack, question, room

RECORD = prompts.mcq("q", "Which drug treats fever?", ["one", "two", "three", "four"], 1)
LONG = QARecord("q", "open", "word " * 100 + "The answer is:", " short")


def corpus(records, key=None):
    return Corpus(
        source=SyntheticSource(kind="synthetic", adapter="mcq"),
        clients=(),
        records=lambda: iter(records),
        index={"question": np.zeros(len(records), dtype=np.uint64)},
        tasks=[],
        counts=Counter(),
        key=key,
    )


def encoded(coder, records, folder=None, wanted=None):
    places = np.arange(len(records)) if wanted is None else np.array(wanted)
    key = {"files": {}} if folder else None
    return tokens.encode(coder, Cache(folder, lambda text: None), corpus(records, key), places)


def stored(coder, records, max_length=200, loss_on="all", **training):
    found = encoded(coder, records)
    settings = Training(max_length=max_length, loss_on=loss_on, **training)
    return Stored(coder, found, np.arange(len(records)), settings)


def asked(coder, record, max_length):
    found = encoded(coder, [record])
    if room(coder, found, np.array([0]), max_length)[0] < 1:
        return None
    return question(coder, found, 0, max_length, record.id, record.task)


def test_text_gives_its_tokens_back(coder, tokenizer):
    made = stored(coder, [RECORD])
    assert (made.cut, made.dropped) == (0, 0)
    assert made[0].ids.dtype == np.int32
    assert made[0].ids[0] == tokenizer.bos_token_id
    assert made[0].supervised == 1
    assert tokenizer.decode(made[0].ids[1:]) == prompts.text(RECORD)


def test_loss_on_answers_starts_at_the_answer(coder, tokenizer):
    (one,) = stored(coder, [RECORD], loss_on="answer")
    assert tokenizer.decode(one.ids[one.supervised :]) == " B\n"


@given(st.text(min_size=1, max_size=40), st.text(min_size=1, max_size=20), st.integers(16, 60))
def test_scoring_sees_the_tokens_of_training(coder, prompt, answer, max_length):
    record = QARecord("q", "t", f"{prompt}\nThe answer is:", f" {answer}")
    made = stored(coder, [record], max_length, "answer")
    held = asked(coder, record, max_length)
    assert made.dropped == (held is None)
    if held is None:
        return
    # as if each piece had been encoded by itself
    tail = coder.encode(record.answer) + coder.encode("\n")
    kept = coder.encode(record.prompt)[-(max_length - len(coder.bos) - len(tail)) :]
    assert made[0].ids.tolist() == coder.bos + kept + tail
    assert made[0].ids.tolist() == [*held.prompt, *held.options[0], *coder.end]
    assert made[0].supervised == len(held.prompt)
    assert len(made[0].ids) == made.lengths[0] <= max_length


def test_a_long_prompt_is_cut_from_the_left(coder, tokenizer):
    made = stored(coder, [LONG], 32, "answer")
    assert made.cut == 1
    assert len(made[0].ids) == 32
    assert made[0].ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(made[0].ids).endswith("The answer is: short\n")


def test_an_answer_that_does_not_fit_is_dropped_never_cut(coder):
    record = QARecord("q", "open", "Why? The answer is:", " because" * 40)
    made = stored(coder, [record, LONG, record], 40)
    assert (made.dropped, made.cut, len(made)) == (2, 1, 1)
    assert asked(coder, record, 40) is None


def test_options_share_a_prompt_cut_for_the_longest(coder):
    options = (" a", " " + "b" * 20)
    record = QARecord("q", "mcq", LONG.prompt, " a", options, 0)
    held = asked(coder, record, 40)
    longest = max(map(len, held.options))
    assert len(held.prompt) + longest + len(coder.encode("\n")) == 40
    assert (held.id, held.task, held.correct, held.scored) == ("q", "mcq", 0, True)
    assert all(option.dtype == np.int32 for option in (held.prompt, *held.options))


def test_an_open_question_has_its_answer_as_the_one_option(coder):
    held = asked(coder, LONG, 64)
    assert len(held.options) == 1
    assert not held.scored


def test_a_tokenizer_without_bos(tokenizer):
    from transformers import PreTrainedTokenizerFast

    from fedmem.data.encoding import Coder

    bare = Coder(PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer))
    assert stored(bare, [RECORD])[0].ids.tolist() == [
        *bare.encode(RECORD.prompt),
        *bare.encode(RECORD.answer),
        *bare.encode("\n"),
    ]


def cards(count):
    texts = [f"Question {i} " + "and more " * (i % 7) for i in range(count)]
    return [prompts.open_question(f"id-{i}", text, f"{i}") for i, text in enumerate(texts)]


def test_records_are_found_by_their_place_whether_all_are_encoded_or_few(coder, tmp_path):
    records = cards(1500)  # more than a batch
    every = encoded(coder, records, tmp_path)
    few = encoded(coder, records, tmp_path, wanted=[7, 1400, 3, 7])
    assert (every.positions, few.positions.tolist()) == (None, [3, 7, 1400])
    places = np.array([1400, 3])
    for one, other in zip(every.slots(places), few.slots(places), strict=True):
        assert every.name(one) == few.name(other)
        assert every.record(one)[0].tolist() == few.record(other)[0].tolist()
        assert every.record(one)[1][0].tolist() == few.record(other)[1][0].tolist()
    assert every.name(1400) == "id-1400"


def test_tokens_are_encoded_once(coder, tmp_path):
    records = cards(40)
    first, again = (encoded(coder, records, tmp_path) for _ in range(2))
    assert (first.made, again.made) == (True, False)
    assert again.ids.tolist() == first.ids.tolist()
    # nearly all is all: another seed holds out others, and finds the same tokens
    assert not encoded(coder, records, tmp_path, wanted=range(36)).made
    assert encoded(coder, records, tmp_path, wanted=range(20)).made


@given(st.lists(st.integers(1, 16), min_size=1, max_size=30))
def test_packs_keep_every_record_in_order_and_fit(lengths):
    starts = pack(np.array(lengths, dtype=np.int32), 16)
    assert (starts[0], starts[-1]) == (0, len(lengths))
    assert np.all(np.diff(starts) > 0)
    sums = [sum(lengths[a:b]) for a, b in pairwise(starts)]
    assert max(sums) <= 16
    # a pack ends only where the next record would not have fitted
    for total, start in zip(sums, starts[1:-1], strict=False):
        assert total + lengths[start] > 16


def test_a_pack_is_its_records_in_a_row(coder):
    records = cards(30)
    alone = stored(coder, records)
    packed = stored(coder, records, packing=True)
    assert 1 < len(packed) < len(alone)
    assert np.concatenate([p.ids for p in packed]).tolist() == (
        np.concatenate([a.ids for a in alone]).tolist()
    )
    assert [len(example.ids) for example in packed] == packed.lengths.tolist()
    assert {example.supervised for example in packed} == {1}


def test_a_shard_mixes_stored_records_and_canaries(coder):
    own = stored(coder, cards(20))
    canary = Example(np.arange(5, dtype=np.int32), canary="note")
    examples = mixed([own, Listed([canary] * 3)], "seed")
    shard = Shard("a", examples, ("note",))
    assert len(shard.examples) == 23
    assert shard.lengths.tolist() == [len(example.ids) for example in shard.examples]
    assert sum(example.canary == "note" for example in shard.examples) == 3
    assert sorted(example.ids.tolist() for example in shard.examples) == sorted(
        [*(example.ids.tolist() for example in own), *[[0, 1, 2, 3, 4]] * 3]
    )
    assert [e.ids.tolist() for e in shard.examples[1:3]] == [
        shard.examples[i].ids.tolist() for i in (1, 2)
    ]
    assert shard.examples[-1].ids.tolist() == shard.examples[22].ids.tolist()
    with pytest.raises(IndexError):
        shard.examples[23]
    nested = mixed([examples, own], "other")
    assert sorted(nested.lengths) == sorted([*examples.lengths, *own.lengths])
    assert [len(example.ids) for example in nested] == nested.lengths.tolist()
    assert Shard("b", (canary,), ()).lengths.tolist() == [5]
