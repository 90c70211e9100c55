"""Ranking true values among others: the lists, the scores, and what a model that knows says."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
from tiny import Memorised, canary, make_tokenizer

from fedmem.attacks.audit import bound
from fedmem.attacks.candidates import Lists, behind, lists, rank
from fedmem.attacks.scoring import score
from fedmem.config import Attack
from fedmem.data.records import Canary
from fedmem.data.synthetic import notes
from fedmem.data.synthetic.identity import SPACES

SIZES: dict[str, Any] = {
    "vocab_size": 384,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
KINDS = {
    "llama": tf.LlamaConfig(**SIZES),
    "mistral": tf.MistralConfig(**SIZES, sliding_window=64),
    "gemma2": tf.Gemma2Config(**SIZES, head_dim=8, sliding_window=64),
    "gpt2": tf.GPT2Config(vocab_size=384, n_embd=32, n_layer=2, n_head=4, n_positions=512),
    "phi": tf.PhiConfig(**SIZES),
}
VALUES = [[5, 6, 7], [5, 6, 8], [5], [9], [5, 6, 7, 8, 9, 10], [11, 6, 7]]


@pytest.fixture(scope="module")
def chosen(memorised: Memorised) -> Lists:
    all_ = [memorised.canary, memorised.twin, memorised.other]
    return lists(all_, all_, memorised.tokenizer, 12, 0)


def test_candidates_are_of_the_slot_and_no_notes(memorised: Memorised, chosen: Lists) -> None:
    all_ = (memorised.canary, memorised.twin, memorised.other)
    taken = {span.value for one in all_ for span in one.phi}
    for one in (memorised.canary, memorised.twin):
        assert [listed.target for listed in chosen[one.id]] == [
            index for index, span in enumerate(one.phi) if span.first
        ]
        for listed in chosen[one.id]:
            span = one.phi[listed.target]
            assert span.start - 2 <= listed.start <= span.start
            assert (listed.ids[0] == one.ids[listed.start : span.end]).all()
            said = [memorised.tokenizer.decode(ids).strip(" .,;:()") for ids in listed.ids]
            assert len(said) == 13 and len(set(said)) == 13
            assert taken.isdisjoint(said[1:])
    days = [x for x in chosen[memorised.canary.id] if x.space == SPACES["admitted"][0]]
    said = [memorised.tokenizer.decode(ids).strip() for x in days for ids in x.ids]
    assert said and all(re.search(r"\d+ [A-Z][a-z]+ 20\d\d$", day) for day in said)


def test_lists_are_the_seeds(memorised: Memorised, chosen: Lists) -> None:
    all_ = [memorised.canary, memorised.twin, memorised.other]
    given = memorised.tokenizer, 12

    def same(a: Lists, b: Lists) -> bool:
        flat = [
            [ids.tolist() for one in of[memorised.canary.id] for ids in one.ids] for of in (a, b)
        ]
        return flat[0] == flat[1]

    assert same(chosen, lists([memorised.canary], all_, *given, 0))  # whoever is asked beside it
    assert not same(chosen, lists(all_, all_, memorised.tokenizer, 12, 1))
    assert lists([], all_, *given, 0) == {}


def test_a_small_space_is_gone_through_whole(memorised: Memorised) -> None:
    (index, span), *_ = [
        (i, s) for i, s in enumerate(memorised.twin.phi) if s.type == "PROFESSION" and s.first
    ]
    one = replace(memorised.twin, phi=(span,))
    (some,) = lists([one], [one], memorised.tokenizer, 20, 0)[one.id]
    assert some.space == SPACES["profession"][0] and len(some.ids) == 21
    (whole,) = lists([one], [one], memorised.tokenizer, 1000, 0)[one.id]
    pool = SPACES["profession"][0] / 2  # one of two pools
    assert whole.space == len(whole.ids) and 0.9 * pool < whole.space < 1.1 * pool
    said = {memorised.tokenizer.decode(ids).strip() for ids in whole.ids}
    assert len(said) == whole.space and span.value in said and index >= 0


def test_values_of_no_slot_are_ranked_among_other_notes_twins_first(memorised: Memorised) -> None:
    def foreign(one: Canary, *values: str, twin: bool) -> Canary:
        """The note with values that no word list holds in place of its names."""
        text, spans = "Seen today.", []
        for value in values:
            text += f" Patient {value}."
        from fedmem.data.records import Note, PhiSpan

        for value in values:
            at = text.index(value)
            spans.append(PhiSpan(at, at + len(value), "NAME", "PATIENT"))
        note = Note(one.id, one.patient, text, tuple(spans))
        return canary(memorised.tokenizer, note, owners=None if twin else {"a": 3})

    mine = foreign(memorised.canary, "Zoe Quist", twin=False)
    twin = foreign(memorised.twin, "Ulf Ek", "Bo Ng", "Zoe Quist", twin=True)
    other = foreign(memorised.other, "Ann Oh", twin=False)
    (listed,) = lists([mine], [mine, twin, other], memorised.tokenizer, 2, 0)[mine.id]
    said = {memorised.tokenizer.decode(ids).strip() for ids in listed.ids[1:]}
    assert said == {"Ulf Ek", "Bo Ng"} and listed.space is None
    (more,) = lists([mine], [mine, twin, other], memorised.tokenizer, 9, 0)[mine.id]
    assert memorised.tokenizer.decode(more.ids[-1]).strip() == "Ann Oh" and len(more.ids) == 4
    assert lists([other], [other], memorised.tokenizer, 9, 0)[other.id] == []  # nothing to compare


@pytest.mark.parametrize("kind", KINDS)
def test_trees_score_as_each_value_alone(kind: str) -> None:
    torch.manual_seed(0)
    model = tf.AutoModelForCausalLM.from_config(KINDS[kind]).eval()
    ids = np.random.default_rng(0).integers(3, 380, 24).astype(np.int32)
    values = [np.array(value, np.int32) for value in VALUES]
    asked = [(20, values), (7, values[:3]), (24, values[::-1]), (1, values)]
    found = behind(model, ids, asked)
    for (start, of), scores in zip(asked, found, strict=True):
        for value, mine in zip(of, scores, strict=True):
            (alone,) = score(model, [np.concatenate((ids[:start], value))])
            assert mine == pytest.approx(float(alone.logprob[-len(value) :].sum()), abs=2e-4)
    with pytest.MonkeyPatch.context() as patch:  # whatever goes together
        patch.setattr("fedmem.attacks.candidates.TOKENS_A_BATCH", 9)
        for one, other in zip(found, behind(model, ids, asked), strict=True):
            assert one == pytest.approx(other, abs=2e-4)


def test_a_known_note_stands_first_and_a_twin_as_it_happens(
    memorised: Memorised, chosen: Lists
) -> None:
    both = [memorised.canary, memorised.twin]
    found = rank(memorised.model, both, chosen)
    first: dict[str, list[bool]] = {one.id: [] for one in both}
    for (name, _), row in found.items():
        first[name].append(row["candidates"][0] > max(row["candidates"][1:]))
    assert all(first[memorised.canary.id])
    assert np.mean(first[memorised.twin.id]) < 0.5  # chance is 1 in 13
    # the true value's score is that of the scoring pass
    attack = Attack(prefix_lengths=[10], continuation=8)
    rows = bound(memorised.model, both, attack, 0, 1, None, chosen).scores
    ranked = [row for row in rows if "candidates" in row]
    assert len(ranked) == len(found) == sum(row["attack"] == "phi" for row in rows)
    for row in ranked:
        listed = next(x for x in chosen[row["canary"]] if x.target == row["target"])
        if listed.start == row["start"]:
            assert row["candidates"][0] == pytest.approx(row["logprob"], abs=1e-3)


def test_the_untouched_model_guesses(memorised: Memorised, base_folder: Any) -> None:
    from tiny import config

    from fedmem.model.base import load

    fresh, tokenizer = load(config(base_folder, model={"method": "full"}).model, 0)
    # whole notes: a window with most values in it is one with short values, and short is likelier
    drawn = [canary(tokenizer, note, 450) for note in notes.generate(12, 0)]
    found = rank(fresh.eval(), drawn, lists(drawn, drawn, tokenizer, 9, 0))
    firsts = [row["candidates"][0] > max(row["candidates"][1:]) for row in found.values()]
    assert len(firsts) > 80 and abs(np.mean(firsts) - 0.1) < 0.09


def test_a_value_at_the_very_start_has_no_prompt(memorised: Memorised) -> None:
    bare = replace(
        memorised.canary,
        ids=memorised.canary.ids[memorised.canary.phi[0].start :],
        offsets=memorised.canary.offsets[memorised.canary.phi[0].start :],
        phi=(replace(memorised.canary.phi[0], start=0, end=3),),
    )
    assert lists([bare], [bare], memorised.tokenizer, 5, 0)[bare.id] == []


def test_another_tokenizer_gives_no_list(memorised: Memorised) -> None:
    # its tokens are not the canary's: nothing is ranked rather than something else
    longer = make_tokenizer()
    longer.add_tokens(["Patient", "MRN", "Record", "Born", "born", "Name"])
    of = lists([memorised.canary], [memorised.canary, memorised.twin], longer, 5, 0)
    for one in of[memorised.canary.id]:
        assert (one.ids[0] == memorised.canary.ids[one.start : one.start + len(one.ids[0])]).all()
