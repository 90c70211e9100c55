"""Utility of a model, question by question: NLL of the held-out answer, and the option it picks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from fedmem.data.records import EncodedQA
from fedmem.evaluation.options import option_logprobs

# One row a question: what paired tests between runs need. `right`, `chance`: null where a question
# has no options to choose from.
ANSWERS = pa.schema(
    [
        ("round", pa.int32()),  # 0 is the untouched base
        ("model", pa.string()),
        ("task", pa.string()),
        ("question", pa.string()),
        ("nll", pa.float64()),  # of the right answer, nats a token
        ("right", pa.bool_()),  # the option with the highest mean log-probability a token is right
        ("chance", pa.float64()),  # of guessing among the options
    ]
)


def answer(model: Any, questions: Sequence[EncodedQA], round_: int, name: str) -> pa.Table:
    """A row of `ANSWERS` for every question, in their order."""
    rows = []
    for question, scores in zip(questions, option_logprobs(model, questions), strict=True):
        means = [float(np.mean(option)) for option in scores]
        rows.append(
            {
                "round": round_,
                "model": name,
                "task": question.task,
                "question": question.id,
                "nll": -means[question.correct],
                "right": int(np.argmax(means)) == question.correct if question.scored else None,
                "chance": 1 / len(question.options) if question.scored else None,
            }
        )
    return pa.Table.from_pylist(rows, schema=ANSWERS)
