"""Accuracy and NLL against figures counted by hand, on a model whose probabilities are known."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny import config

from fedmem.data.records import EncodedQA
from fedmem.evaluation.utility import ANSWERS, answer
from fedmem.metrics.intervals import wilson
from fedmem.metrics.utility import by_task
from fedmem.workspace import Workspace

# tokens: 1 the prompt's end; 2 and 3 follow it with 0.6 and 0.3; after 2 comes 4 with 0.1
P = {1: {2: 0.6, 3: 0.3, 4: 0.1}, 2: {4: 0.1, 5: 0.9}, 3: {4: 0.8, 5: 0.2}}


class Bigram(torch.nn.Module):
    """A language model whose next token depends on the last one only, by the table `P`."""

    def __init__(self) -> None:
        super().__init__()
        table = torch.full((6, 6), 1 / 6)
        for before, row in P.items():
            table[before] = 1e-30
            for token, probability in row.items():
                table[before, token] = probability
        self.logits = torch.nn.Parameter(table.log())

    def forward(self, input_ids: torch.Tensor, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(logits=self.logits[input_ids])


def encoded(task: str, options: list[list[int]], correct: int = 0) -> EncodedQA:
    ids = tuple(np.array(option, dtype=np.int32) for option in options)
    return EncodedQA("q", task, np.array([0, 1], dtype=np.int32), ids, correct, len(options) > 1)


QUESTIONS = [
    encoded("mcq", [[2], [3], [4]], correct=0),  # 0.6 wins: right
    encoded("mcq", [[2], [3]], correct=1),  # 0.3 loses: wrong
    # mean a token: sqrt(.6 x .1) = .245, sqrt(.3 x .8) = .490: right, though alone 2 beats 3
    encoded("mcq", [[2, 4], [3, 4]], correct=1),
    # the mean counts, not the sum: .3 x .8 = .24 < .3, but sqrt(.24) = .49 > .3
    encoded("mcq", [[3], [3, 4]], correct=1),
    encoded("open", [[2, 5]]),
]
NLL = [
    -math.log(0.6),
    -math.log(0.3),
    -math.log(0.24) / 2,
    -math.log(0.24) / 2,
    -math.log(0.54) / 2,
]


def test_rows_by_hand() -> None:
    answers = answer(Bigram(), QUESTIONS, 3, "global")
    whole, mcq, open_ = by_task(answers)
    assert [row["task"] for row in (whole, mcq, open_)] == ["all", "mcq", "open"]
    assert {(row["round"], row["model"]) for row in (whole, mcq, open_)} == {(3, "global")}
    assert [row["n"] for row in (whole, mcq, open_)] == [5, 4, 1]
    assert mcq["nll"] == pytest.approx(np.mean(NLL[:4]), abs=1e-6)
    assert open_["nll"] == pytest.approx(NLL[4], abs=1e-6)
    assert whole["nll"] == pytest.approx(np.mean(NLL), abs=1e-6)
    for row in (mcq, whole):
        assert row["scored"] == 4 and row["accuracy"] == 0.75
        share = wilson(3, 4)
        assert (row["low"], row["high"]) == (share.low, share.high)
        assert row["chance"] == pytest.approx((1 / 3 + 3 * 1 / 2) / 4)
        nll = answers["nll"].to_pylist()  # in float32, as the model counts: not NLL to the last bit
        assert min(nll) <= row["nll_low"] <= row["nll"] <= row["nll_high"] <= max(nll)


def test_each_question_has_its_row() -> None:
    table = answer(Bigram(), QUESTIONS, 2, "global")
    assert table.schema == ANSWERS
    assert table["nll"].to_pylist() == pytest.approx(NLL, abs=1e-6)
    assert table["right"].to_pylist() == [True, False, True, True, None]
    assert table["chance"].to_pylist() == [1 / 3, 0.5, 0.5, 0.5, None]


def test_a_task_without_options_has_no_accuracy() -> None:
    (row,) = by_task(answer(Bigram(), [QUESTIONS[4]], 0, "global"))  # one task: no row over all
    assert row["task"] == "open" and row["scored"] == 0
    assert [row[key] for key in ("accuracy", "low", "high", "chance")] == [None] * 4
    assert row["nll_low"] == row["nll"] == row["nll_high"]


def test_no_questions_no_rows() -> None:
    table = answer(Bigram(), [], 0, "global")
    assert table.schema == ANSWERS and by_task(table) == []


def test_the_untouched_base_is_near_chance_and_lora_is_the_base(base_folder: Path) -> None:
    rows = []
    for method in ("lora", "full"):
        plan = config(base_folder, model={"method": method}, utility={"max_records": 40})
        workspace = Workspace(plan)
        rows.append(by_task(workspace.answer(0, workspace.initial_arrays(), "global")))
    (lora,), (full,) = rows
    assert lora == full
    assert lora["n"] == 40 and lora["chance"] == 0.25
    assert lora["nll"] == pytest.approx(math.log(384), abs=0.5)  # a random model: uniform
