"""ROUGE-L and edit distance over tokens: against rouge-score, brute force, and decoding's bound."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmem.attacks.approximate import (
    CommonBound,
    Thresholds,
    Watch,
    edit_distance,
    rouge_l,
    token_bleu,
)

tokens = st.lists(st.integers(0, 5), max_size=12)
same_length = st.integers(1, 20).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(0, 3), min_size=n, max_size=n)] * 2)
)


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest common subsequence, by its definition."""

    @cache
    def of(i: int, j: int) -> int:
        if i == len(a) or j == len(b):
            return 0
        return 1 + of(i + 1, j + 1) if a[i] == b[j] else max(of(i + 1, j), of(i, j + 1))

    return of(0, 0)


def edits(a: Sequence[int], b: Sequence[int]) -> int:
    """Levenshtein distance, by its definition."""

    @cache
    def of(i: int, j: int) -> int:
        if i == len(a) or j == len(b):
            return len(a) - i + len(b) - j
        if a[i] == b[j]:
            return of(i + 1, j + 1)
        return 1 + min(of(i + 1, j + 1), of(i + 1, j), of(i, j + 1))

    return of(0, 0)


@given(tokens, tokens)
def test_by_definition(guess: list[int], truth: list[int]) -> None:
    if guess and truth:
        p, r = common(guess, truth) / len(guess), common(guess, truth) / len(truth)
        assert rouge_l(guess, truth) == pytest.approx(2 * p * r / (p + r) if p + r else 0.0)
        longer = max(len(guess), len(truth))
        assert edit_distance(guess, truth) == pytest.approx(edits(guess, truth) / longer)
    else:
        assert rouge_l(guess, truth) == 0


@given(tokens, tokens)
def test_rouge_score_says_the_same_of_tokens_as_words(guess: list[int], truth: list[int]) -> None:
    scorers = pytest.importorskip("rouge_score.rouge_scorer", reason="rouge-score is not installed")

    class Words:
        def tokenize(self, text: str) -> list[str]:
            return text.split()

    scorer = scorers.RougeScorer(["rougeL"], tokenizer=Words())
    texts = (" ".join(map(str, ids)) for ids in (truth, guess))
    theirs = scorer.score(*texts)["rougeL"].fmeasure
    assert rouge_l(guess, truth) == pytest.approx(theirs, abs=1e-9)


@given(same_length)
def test_the_bound_never_lies_below_the_end_and_is_it_there(
    pair: tuple[list[int], list[int]],
) -> None:
    guess, truth = pair
    bound = CommonBound(truth)
    steps = [bound.add(token) for token in guess]
    assert steps[-1] == pytest.approx(common(guess, truth) / len(truth))
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise([1.0, *steps]))


@given(same_length, st.sampled_from([0.5, 0.8, 1.0]), st.sampled_from([0.0, 0.1, 0.3]))
def test_nothing_that_is_near_by_any_measure_is_given_up(
    pair: tuple[list[int], list[int]], rouge: float, edit: float
) -> None:
    guess, truth = pair
    watch = Watch([truth], Thresholds(0.75, edit, rouge))
    said: list[int] = []
    for token in guess:
        said.append(token)
        if not watch.keep(0, said):
            break
    found = watch.result(0, said)
    near = (
        token_bleu(guess, truth) >= 0.75 + 1e-9
        or rouge_l(guess, truth) >= rouge
        or edits(guess, truth) <= edit * len(truth)
    )
    if near:
        assert found is not None and said == guess
        assert found.rouge_l == pytest.approx(rouge_l(guess, truth))
        assert found.edit == pytest.approx(edit_distance(guess, truth))
        assert found.bleu == pytest.approx(token_bleu(guess, truth))


def test_far_ones_are_given_up_early() -> None:
    watch = Watch([list(range(50))], Thresholds(0.75, 0.1, 0.8))
    said: list[int] = []
    for token in range(100, 150):
        said.append(token)
        if not watch.keep(0, said):
            break
    assert len(said) < 15 and watch.result(0, said) is None
