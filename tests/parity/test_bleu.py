"""Token BLEU-4 and its bound against a BLEU written here, and against sacrebleu over words."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU

from fedmem.attacks.approximate import BleuBound, Thresholds, Watch, edit_distance, token_bleu

# few different tokens, so that n-grams repeat and clipping matters
tokens = st.integers(0, 5)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """(guess, truth) of one length; the guess is the truth with some tokens changed."""
    truth = draw(st.lists(tokens, min_size=4, max_size=40))
    changes = draw(st.lists(st.tuples(st.integers(0, len(truth) - 1), tokens), max_size=12))
    guess = list(truth)
    for at, token in changes:
        guess[at] = token
    return guess, truth


def own_bleu(guess: Sequence[int], truth: Sequence[int]) -> float:
    """BLEU-4 of Papineni et al. (2002), one reference, exact until the last root."""
    product = Fraction(1)
    for n in range(1, 5):
        said = [tuple(guess[i : i + n]) for i in range(len(guess) - n + 1)]
        held = [tuple(truth[i : i + n]) for i in range(len(truth) - n + 1)]
        clipped = sum(min(said.count(gram), held.count(gram)) for gram in set(said))
        if not said or not clipped:
            return 0.0
        product *= Fraction(clipped, len(said))
    brevity = min(1.0, math.exp(1 - len(truth) / len(guess)))
    return brevity * float(product) ** 0.25


@given(pairs())
def test_it_is_bleu_4(pair: tuple[list[int], list[int]]) -> None:
    guess, truth = pair
    assert token_bleu(guess, truth) == pytest.approx(own_bleu(guess, truth), abs=1e-9)
    assert token_bleu(truth, truth) == pytest.approx(1.0)


@given(st.lists(tokens, min_size=1, max_size=12), st.lists(tokens, min_size=4, max_size=12))
def test_shorter_guesses_pay_for_brevity(guess: list[int], truth: list[int]) -> None:
    assert token_bleu(guess, truth) == pytest.approx(own_bleu(guess, truth), abs=1e-9)


@given(pairs())
def test_it_is_sacrebleu_over_words(pair: tuple[list[int], list[int]]) -> None:
    words = ["fever", "cough", "pulse", "sleep", "walks", "well"]
    guess, truth = (" ".join(words[token] for token in one) for one in pair)
    plain = BLEU(tokenize="13a", smooth_method="none", lowercase=False)
    assert token_bleu(*pair) * 100 == pytest.approx(plain.corpus_score([guess], [[truth]]).score)


@given(pairs())
def test_the_bound_never_lies_below_the_end_and_is_it_there(
    pair: tuple[list[int], list[int]],
) -> None:
    guess, truth = pair
    bound = BleuBound(truth)
    steps = [bound.add(guess[:n]) for n in range(1, len(guess) + 1)]
    final = token_bleu(guess, truth)
    assert all(step >= final - 1e-9 for step in steps)
    assert all(later <= earlier + 1e-9 for earlier, later in pairwise(steps))
    assert steps[-1] == pytest.approx(final, abs=1e-9)


@given(pairs(), st.sampled_from([0.3, 0.5, 0.75, 1.0]))
def test_watching_finds_just_the_near_ones(
    pair: tuple[list[int], list[int]], threshold: float
) -> None:
    guess, truth = pair
    final = own_bleu(guess, truth)
    if abs(final - threshold) < 1e-9 and final < 1:
        return  # on the threshold to the last bit: either verdict is right
    watch = Watch([truth], Thresholds(threshold, -1.0, 2.0))  # the others out of reach
    said: list[int] = []
    for token in guess:
        said.append(token)
        if not watch.keep(0, said):
            break
    result = watch.result(0, said)
    if final < threshold:
        assert result is None
    else:
        assert result is not None and len(said) == len(truth)
        assert result.bleu == pytest.approx(final)
        assert result.edit == pytest.approx(edit_distance(guess, truth))


def test_truths_too_short_for_4_grams_have_no_bleu() -> None:
    watch = Watch([[1, 2, 3]], Thresholds(0.5, -1.0, 2.0))
    assert not watch.keep(0, [1])
    assert watch.result(0, [1, 2, 3]) is None


def test_edit_distance_by_hand() -> None:
    assert edit_distance([1, 2, 3, 4], [1, 2, 3, 4]) == 0
    assert edit_distance([1, 2, 9, 4], [1, 2, 3, 4]) == 0.25
    assert edit_distance([9, 1, 2, 3], [1, 2, 3, 4]) == 0.5  # one put in, one left out
    assert edit_distance([7, 7], [8, 8]) == 1


def test_it_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        token_bleu([1, 2, 3, 4, 5], [1, 2, 3, 4, 6])
    assert not caplog.records
