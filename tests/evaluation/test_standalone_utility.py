"""Utility of models that are trained already: a run's own figures, and any file's."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from tiny import config

from fedmem.data.adapters import read_records
from fedmem.data.files import source_of
from fedmem.data.records import QARecord
from fedmem.errors import ConfigError, DataError
from fedmem.evaluation.standalone import encode, evaluate, lines
from fedmem.progress import silent
from fedmem.simulation import run
from fedmem.trained import Trained, find


def closed(number: int, words: int = 5) -> dict[str, Any]:
    return {
        "pubid": number,
        "question": f"Does drug {number} help?",
        "context": {"contexts": ["It was tried in many. " * words]},
        "final_decision": ("yes", "no", "maybe")[number % 3],
    }


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    rows = [closed(number, 1 + 4 * (number % 7)) for number in range(40)]
    file = tmp_path / "closed.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.mark.parametrize(("topology", "method"), [("federated", "lora"), ("local", "full")])
def test_a_runs_own_figures_come_out_again(
    base_folder: Path, tmp_path: Path, topology: str, method: str
) -> None:
    rounds = {"count": 2, "topology": topology}
    made = run(config(base_folder, output=str(tmp_path), rounds=rounds, model={"method": method}))
    out = tmp_path / "again.json"
    done = evaluate(str(made.path), out=out)
    held = json.loads((made.path / "utility.json").read_text())
    assert done.rows == held
    assert json.loads(out.read_text()) == held
    answers = pq.read_table(made.path / "answers.parquet")
    assert pq.read_table(tmp_path / "again.answers.parquet").equals(answers)
    table = list(lines(done))
    assert len(table) == 1 + len(held)
    one = evaluate(str(made.path), round_=1)
    assert one.rows == [row for row in held if row["round"] in (0, 1)]


def test_a_files_questions_are_asked_as_a_run_asks_its_own(
    base_folder: Path, questions: Path, tmp_path: Path
) -> None:
    tree = config(base_folder).model_dump(mode="json")["data"]
    source = {"kind": "jsonl", "adapter": "pubmedqa", "path": str(questions)}
    tree["clients"][0]["source"], tree["validation"] = source, 0.5
    tree["cache"] = str(tmp_path / "cache")
    made = run(config(base_folder, output=str(tmp_path), data=tree, rounds={"count": 1}))
    trained = Trained(find(str(made.path)), silent)
    heldout = [one for one in trained.own_data().heldout if one.task == "closed"]
    theirs = {one.id.rpartition(":")[2]: one for one in heldout}  # FILE:ID
    records = read_records(source_of(questions, "pubmedqa"), None, "error", Counter())
    counts: Counter[str] = Counter()
    asked = [one for one in records if isinstance(one, QARecord)]
    ours = {one.id: one for _, one in encode(trained, asked, counts)}
    assert theirs.keys() <= ours.keys()
    assert len(theirs) > 2
    assert counts["cut"] > 5
    for id, question in theirs.items():
        np.testing.assert_array_equal(question.prompt, ours[id].prompt)
        for one, other in zip(question.options, ours[id].options, strict=True):
            np.testing.assert_array_equal(one, other)
        assert (question.correct, question.scored) == (ours[id].correct, ours[id].scored)


def test_columns_of_ones_own(base_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "q.csv"
    file.write_text("ask,say\nWhat is it?,a fever\nAnd now?,nothing\n")
    changes = ["questions.prompt=ask", "questions.completion=say", "training.max_length=100"]
    done = evaluate(str(base_folder), file, "generic", changes=changes)
    assert [(row["task"], row["n"], row["scored"]) for row in done.rows] == [("generic", 2, 0)]


def test_what_is_wrong_is_said_in_a_line(
    base_folder: Path, questions: Path, tmp_path: Path
) -> None:
    model = str(base_folder)
    long = tmp_path / "long.jsonl"
    long.write_text(json.dumps({"prompt": "What?", "completion": "much to say " * 9}) + "\n")
    made = run(config(base_folder, output=str(tmp_path / "runs"), rounds={"count": 1}))
    with pytest.raises(ConfigError, match="give --questions FILE"):
        evaluate(model)
    with pytest.raises(ConfigError, match="--adapter NAME together"):
        evaluate(model, questions)
    with pytest.raises(ConfigError, match="--harness: compares on a file"):
        evaluate(str(made.path), harness=True)
    with pytest.raises(ConfigError, match=r"--adapter pubmedq: .*did you mean `pubmedqa`"):
        evaluate(model, questions, "pubmedq")
    with pytest.raises(DataError, match=r"closed.jsonl:1: the column 'cop' is missing"):
        evaluate(model, questions, "medmcqa")
    with pytest.raises(DataError, match=r"none.jsonl: no such file"):
        evaluate(model, tmp_path / "none.jsonl", "medmcqa")
    with pytest.raises(DataError, match=r"no question fits training.max_length"):
        evaluate(model, long, "generic", changes=["training.max_length=16"])
    with pytest.raises(ConfigError, match=r"questions.prompt, .completion and .id name columns"):
        evaluate(model, questions, "generic", changes=["questions.answer=x"])
    with pytest.raises(DataError, match=r"--out .*give a .json file in a folder that exists"):
        evaluate(model, questions, "pubmedqa", out=tmp_path / "none" / "x.json")
    with pytest.raises(DataError, match=r"--out .*is already there"):
        evaluate(model, questions, "pubmedqa", out=questions)
