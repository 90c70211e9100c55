"""Utility by task, with intervals, from the answers to single questions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from fedmem.metrics.intervals import Interval, bootstrap_mean, paired_share, wilson

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


Answers = Sequence[dict[str, Any]]


def paired(ours: Answers, theirs: Answers) -> list[dict[str, Any]]:
    """Change from `theirs` to `ours` on the questions that both answered, a row a task.

    Both: rows of `ANSWERS` of one round and model. A row: task, n (pairs), nll and accuracy (of
    ours), nll_was and accuracy_was (of theirs), nll_change and accuracy_change as (point, low,
    high), 95 %: a bootstrap over the pairs' differences, and Bonett and Price's interval for paired
    shares. Accuracy is that of the `scored` pairs, which have options; None where there are none.
    Over all tasks first, where there are several.
    """
    before = dict(_numbered(theirs))
    pairs = [(row, before[key]) for key, row in _numbered(ours) if key in before]
    tasks = sorted({row["task"] for row, _ in pairs})
    return [
        _changed(task, [pair for pair in pairs if task in (ALL, pair[0]["task"])])
        for task in ([ALL, *tasks] if len(tasks) > 1 else tasks)
    ]


def _numbered(rows: Answers) -> list[tuple[tuple[str, str, int], dict[str, Any]]]:
    """Each row by task, id and how often that id was there before: two clients may share one."""
    seen: Counter[tuple[str, str]] = Counter()
    found = []
    for row in rows:
        key = (row["task"], row["question"])
        found.append(((*key, seen[key]), row))
        seen[key] += 1
    return found


def _changed(task: str, pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, Any]:
    nll = bootstrap_mean([a["nll"] - b["nll"] for a, b in pairs])
    found: dict[str, Any] = {"task": task, "n": len(pairs), "nll_change": _three(nll)}
    for name, side in (("nll", 0), ("nll_was", 1)):
        found[name] = math.fsum(pair[side]["nll"] for pair in pairs) / len(pairs)
    found |= {"accuracy": None, "accuracy_was": None, "accuracy_change": None}
    picked = [(a["right"], b["right"]) for a, b in pairs if None not in (a["right"], b["right"])]
    found["scored"] = n = len(picked)
    if picked:
        change = paired_share(picked.count((True, False)), picked.count((False, True)), n)
        found |= {"accuracy": sum(a for a, _ in picked) / n, "accuracy_change": _three(change)}
        found["accuracy_was"] = sum(b for _, b in picked) / n
    return found


def _three(found: Interval) -> tuple[float, float, float]:
    return found.point, found.low, found.high
