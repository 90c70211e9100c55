"""Utility by task, with intervals, from the answers to single questions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from fedmem.metrics.intervals import bootstrap_mean, wilson

ALL = "all"


def by_task(answers: pa.Table) -> list[dict[str, Any]]:
    """For every round and model one row a task, and one over all tasks where there are more.

    nll: mean over questions, in nats a token, with a bootstrap interval over questions. accuracy:
    share of right picks with a Wilson interval. chance: accuracy of guessing among the options.
    """
    groups: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for row in answers.to_pylist():
        groups.setdefault((row["round"], row["model"]), []).append(row)
    return [
        {"round": round_, "model": model, **line}
        for (round_, model), rows in groups.items()
        for line in _tasks(rows)
    ]


def _tasks(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    tasks = sorted({row["task"] for row in rows})
    found = {task: [row for row in rows if row["task"] == task] for task in tasks}
    if len(tasks) > 1:
        found = {ALL: list(rows), **found}
    return [_row(task, members) for task, members in found.items()]


def _row(task: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    nll = bootstrap_mean([row["nll"] for row in rows])
    out: dict[str, Any] = {
        "task": task,
        "n": len(rows),
        "nll": nll.point,
        "nll_low": nll.low,
        "nll_high": nll.high,
        "scored": 0,
        "accuracy": None,
        "low": None,
        "high": None,
        "chance": None,
    }
    picked = [row for row in rows if row["right"] is not None]
    if picked:
        share = wilson(sum(row["right"] for row in picked), len(picked))
        out |= {
            "scored": len(picked),
            "accuracy": share.point,
            "low": share.low,
            "high": share.high,
            "chance": math.fsum(row["chance"] for row in picked) / len(picked),
        }
    return out
