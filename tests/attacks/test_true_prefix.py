"""The bound on planted truth: a note known by heart is found, its twin is not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import Memorised

from fedmem.attacks import true_prefix
from fedmem.attacks.scoring import TokenScores, score
from fedmem.attacks.true_prefix import cut, prompt, whole_notes, windows
from fedmem.config import Attack
from fedmem.data.records import Canary

ATTACK = Attack(prefix_lengths=[100, 40, 40, 10], continuation=20)


def of(rows: Iterable[dict[str, Any]], canary: Canary, attack: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["canary"] == canary.id and row["attack"] == attack]


@pytest.fixture(scope="module")
def rows(memorised: Memorised) -> list[dict[str, Any]]:
    both = [memorised.canary, memorised.twin]
    return whole_notes(both, score(memorised.model, [one.ids for one in both]))


def test_a_note_known_by_heart_is_given_back_whole(
    memorised: Memorised, rows: list[dict[str, Any]]
) -> None:
    (known,), (twin,) = (of(rows, c, "loss") for c in (memorised.canary, memorised.twin))
    tokens = len(memorised.canary.ids) - 1
    assert known["hit"] and known["matched"] == known["longest"] == known["tokens"] == tokens
    assert not twin["hit"] and twin["longest"] < 15  # common phrases
    assert known["logprob"] / tokens > -0.3
    assert twin["logprob"] / twin["tokens"] < -3
    assert known["margin"] > 0 > twin["margin"]


def test_every_value_of_it_is_found_and_none_of_its_twin(
    memorised: Memorised, rows: list[dict[str, Any]]
) -> None:
    known, twin = (of(rows, c, "phi") for c in (memorised.canary, memorised.twin))
    assert known and all(row["hit"] for row in known)
    assert twin and not any(row["hit"] for row in twin)
    for row in known:
        span = memorised.canary.phi[row["target"]]
        assert row["tokens"] == row["matched"] == span.end - span.start
        assert (row["category"], row["type"]) == (span.category, span.type)
        # the prompt is all that stands before the value
        assert row["prefix_tokens"] == span.start - 1
        before = memorised.canary.text.index(span.value)
        assert abs(row["prefix_chars"] - before) <= 1  # the space may belong to the value's token


def test_only_first_mentions_count(memorised: Memorised) -> None:
    one = memorised.canary
    spans = tuple(replace(s, first=index % 2 == 0) for index, s in enumerate(one.phi))
    changed = replace(one, phi=spans)
    found = of(whole_notes([changed], score(memorised.model, [one.ids])), one, "phi")
    assert [row["target"] for row in found] == list(range(0, len(spans), 2))


def test_windows_of_it_are_extracted_with_the_context_it_was_learned_in(
    memorised: Memorised,
) -> None:
    # the longest prefix that fits: all text from the beginning of the note
    one, twin = memorised.canary, memorised.twin
    whole = len(one.ids) - 1 - ATTACK.continuation
    attack = ATTACK.model_copy(update={"prefix_lengths": [whole, 10]})
    cuts = [found for c in (one, twin) if (found := cut(c, attack, seed=0)) is not None]
    rows = windows(memorised.model, cuts, attack)
    known = {row["target"]: row for row in of(rows, one, "extraction")}
    assert known[whole]["hit"] and known[whole]["matched"] == 20
    assert (known[whole]["bleu"], known[whole]["edit"]) == (1.0, 0.0)
    assert known[whole]["prefix_chars"] <= len(one.text)
    others = of(rows, twin, "extraction")
    assert others and not any(row["hit"] for row in others)
    assert all(row["bleu"] is None for row in others)
    assert {row["queries"] for row in rows} == {1} and {row["attacker"] for row in rows} == {"*"}


def test_the_split_is_one_a_note_and_leaves_room(memorised: Memorised) -> None:
    one = memorised.canary
    splits = set()
    for seed in range(60):
        found = cut(one, ATTACK, seed)
        assert found is not None and found.lengths == (10, 40, 100)
        assert 101 <= found.split <= len(one.ids) - 20
        splits.add(found.split)
        assert cut(one, ATTACK, seed) == found
    assert len(splits) > 15
    # lengths that do not fit are left out; none fits: no cut
    short = replace(one, ids=one.ids[:70])
    found = cut(short, ATTACK, 0)
    assert found is not None and found.lengths == (10, 40)
    assert cut(replace(one, ids=one.ids[:30]), ATTACK, 0) is None
    tight = cut(replace(one, ids=one.ids[:31]), ATTACK, 0)
    assert tight is not None and (tight.split, tight.lengths) == (11, (10,))


def test_a_prompt_is_bos_and_the_tokens_before_the_split(memorised: Memorised) -> None:
    ids = memorised.canary.ids
    made = prompt(memorised.canary, 50, 10)
    assert made.tolist() == [ids[0], *ids[40:50]]
    assert prompt(memorised.canary, 11, 10).tolist() == ids[:11].tolist()  # BOS stands once


def test_no_canaries_no_rows(memorised: Memorised) -> None:
    assert windows(memorised.model, [], ATTACK) == []
    assert whole_notes([], []) == []


def scores_of(ok: list[bool]) -> TokenScores:
    n = len(ok)
    return TokenScores(np.array(ok, bool), np.zeros(n), np.ones(n, np.float32))


@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_matched_and_longest(ok: list[bool]) -> None:
    text = "".join("x" if one else "." for one in ok)
    found = scores_of(ok)
    assert found.matched() == len(text) - len(text.lstrip("x"))
    assert found.longest() == max(map(len, text.split(".")))


def test_batches_change_no_verdict(memorised: Memorised) -> None:
    # sequences of many lengths at once: each as if it were alone
    ids = memorised.canary.ids
    sequences = [ids[:n] for n in (2, 150, 40, 41, 90, 150)] * 4
    together = score(memorised.model, sequences)
    for sequence, one in zip(sequences, together, strict=True):
        (alone,) = score(memorised.model, [sequence])
        assert len(one.ok) == len(sequence) - 1
        assert (one.ok == alone.ok).all()
        assert np.allclose(one.logprob, alone.logprob, atol=1e-4)
    # a causal model: a prefix has the scores that the whole note has there
    whole, part = together[1], together[4]
    assert np.allclose(whole.logprob[:89], part.logprob, atol=1e-4)
    assert all(np.isfinite(one.logprob).all() for one in together)


def test_without_bos_a_prompt_is_text_alone(memorised: Memorised) -> None:
    # as a tokenizer without BOS gives it: the note's own tokens, everything one place earlier
    one = memorised.canary
    bare = replace(
        one,
        ids=one.ids[1:],
        offsets=one.offsets[1:],
        phi=tuple(replace(s, start=s.start - 1, end=s.end - 1) for s in one.phi),
    )
    assert prompt(bare, 50, 10, bos=0).tolist() == bare.ids[40:50].tolist()
    tight = cut(replace(bare, ids=bare.ids[:30]), ATTACK, 0, bos=0)
    assert tight is not None and (tight.split, tight.lengths) == (10, (10,))
    attack = ATTACK.model_copy(update={"prefix_lengths": [1, 10]})
    found = cut(bare, attack, 0, bos=0)
    assert found is not None
    rows = windows(memorised.model, [found], attack)
    assert [row["target"] for row in rows] == [1, 10]
    whole = whole_notes([bare], score(memorised.model, [bare.ids]), bos=0)
    phi = of(whole, bare, "phi")
    with_bos = of(whole_notes([one], score(memorised.model, [one.ids])), one, "phi")
    # the tokens of text before a value are as many, with BOS or without
    assert [row["prefix_tokens"] for row in phi] == [row["prefix_tokens"] for row in with_bos]


def test_a_large_vocabulary_makes_smaller_batches_and_the_same_rows(
    memorised: Memorised, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuts = [found for c in (memorised.canary, memorised.twin) if (found := cut(c, ATTACK, 0))]
    together = windows(memorised.model, cuts, ATTACK)
    monkeypatch.setattr(true_prefix, "LOGITS_A_BATCH", 1)  # one row at a time
    alone = windows(memorised.model, cuts, ATTACK)
    keys = ("canary", "target", "matched", "hit", "bleu", "edit")
    assert [[r[k] for k in keys] for r in alone] == [[r[k] for k in keys] for r in together]
