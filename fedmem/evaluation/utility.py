"""Utility of a model: NLL of held-out answers, and accuracy where a question has options."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fedmem.data.records import EncodedQA
from fedmem.evaluation.options import option_logprobs
from fedmem.metrics.intervals import bootstrap_mean, wilson

ALL = "all"


def evaluate(
    model: Any, questions: Sequence[EncodedQA], round_: int, name: str
) -> list[dict[str, Any]]:
    """One row a task, and one over all tasks.

    nll: mean over questions of the right answer's NLL, in nats a token, with a bootstrap interval
    over questions. accuracy: the option with the highest mean log-probability a token is right;
    Wilson interval. chance: accuracy of guessing among each question's options.
    """
    scored = option_logprobs(model, questions)
    nll = [-float(np.mean(s[q.correct])) for q, s in zip(questions, scored, strict=True)]
    right = [
        int(np.argmax([float(np.mean(option)) for option in s])) == q.correct
        for q, s in zip(questions, scored, strict=True)
    ]
    tasks = sorted({question.task for question in questions})
    groups = {task: [i for i, q in enumerate(questions) if q.task == task] for task in tasks}
    if len(tasks) > 1:
        groups = {ALL: list(range(len(questions))), **groups}
    rows = []
    for task, members in groups.items():
        answer = bootstrap_mean([nll[i] for i in members])
        row: dict[str, Any] = {
            "round": round_,
            "model": name,
            "task": task,
            "n": len(members),
            "nll": answer.point,
            "nll_low": answer.low,
            "nll_high": answer.high,
            "scored": 0,
            "accuracy": None,
            "low": None,
            "high": None,
            "chance": None,
        }
        choices = [i for i in members if questions[i].scored]
        if choices:
            share = wilson(sum(right[i] for i in choices), len(choices))
            chance = math.fsum(1 / len(questions[i].options) for i in choices) / len(choices)
            row |= {
                "scored": len(choices),
                "accuracy": share.point,
                "low": share.low,
                "high": share.high,
                "chance": chance,
            }
        rows.append(row)
    return rows
