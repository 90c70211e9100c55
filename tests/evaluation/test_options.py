"""Options in one row against each option behind its prompt alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import Memorised

from fedmem.data.records import EncodedQA
from fedmem.evaluation.options import option_logprobs

token_ids = st.integers(3, 380)


def encoded(prompt: list[int], options: list[list[int]], correct: int = 0) -> EncodedQA:
    ids = [np.array(option, dtype=np.int32) for option in options]
    return EncodedQA(
        "q", "task", np.array(prompt, dtype=np.int32), tuple(ids), correct, len(ids) > 1
    )


def alone(model: Any, question: EncodedQA) -> list[list[float]]:
    """Each option behind the prompt, in a pass of its own."""
    out = []
    for option in question.options:
        ids = torch.from_numpy(np.concatenate((question.prompt, option))).long()
        with torch.inference_mode():
            logprobs = model(input_ids=ids[None]).logits[0].double().log_softmax(-1)
        start = len(question.prompt)
        out.append([float(logprobs[t - 1, ids[t]]) for t in range(start, len(ids))])
    return out


def check(model: Any, questions: list[EncodedQA]) -> None:
    found = option_logprobs(model, questions)
    assert len(found) == len(questions)
    for question, one in zip(questions, found, strict=True):
        for mine, truth in zip(one, alone(model, question), strict=True):
            assert mine.dtype == np.float64
            assert mine.tolist() == pytest.approx(truth, abs=1e-5)


questions = st.lists(
    st.builds(
        encoded,
        st.lists(token_ids, min_size=1, max_size=30),
        st.lists(st.lists(token_ids, min_size=1, max_size=9), min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=20)
@given(questions)
def test_options_are_scored_as_if_alone(memorised: Memorised, questions: list[EncodedQA]) -> None:
    check(memorised.model, questions)


def test_many_questions_over_several_batches(memorised: Memorised) -> None:
    rng = np.random.default_rng(0)
    made = [
        encoded(
            rng.integers(3, 380, rng.integers(5, 150)).tolist(),
            [rng.integers(3, 380, rng.integers(1, 12)).tolist() for _ in range(4)],
        )
        for _ in range(24)
    ]
    check(memorised.model, made)
    assert option_logprobs(memorised.model, []) == []


def test_options_do_not_see_each_other(memorised: Memorised) -> None:
    a, b, c = [5, 6, 7], [8, 9], [300, 301, 302]
    first = option_logprobs(memorised.model, [encoded([3, 4], [a, b])])[0]
    swapped = option_logprobs(memorised.model, [encoded([3, 4], [b, a])])[0]
    other = option_logprobs(memorised.model, [encoded([3, 4], [c, b])])[0]
    assert np.allclose(first[0], swapped[1], atol=1e-5)
    assert np.allclose(first[1], other[1], atol=1e-5)
