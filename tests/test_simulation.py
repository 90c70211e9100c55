"""Whole runs with a tiny base: every file is there, and a run that fails says so."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from peft import PeftModel
from safetensors.numpy import load_file, save_file
from tiny import config
from transformers import AutoModelForCausalLM

from fedmem import workspace as workspaces
from fedmem.attacks.rows import SCHEMA
from fedmem.config import Config
from fedmem.data.synthetic import notes
from fedmem.errors import DataError, RunError
from fedmem.metrics.tokens import read_tokens
from fedmem.progress import Event, describe
from fedmem.simulation import run

FILES = {
    *("config.yaml", "manifest.json", "metrics.jsonl", "canaries.parquet", "scores.parquet"),
    "tokens.parquet",
    *("answers.parquet", "utility.json", "data.json", "timings.jsonl", "summary.json"),
    *("report.html", "privacy.json", "MODEL_CARD.md", ".lock"),
}


def manifest(path: Path) -> dict[str, Any]:
    return dict(json.loads((path / "manifest.json").read_text()))


def scores(path: Path) -> list[dict[str, Any]]:
    table = pq.read_table(path / "scores.parquet")
    assert table.schema.remove_metadata() == SCHEMA
    return list(table.to_pylist())


def plan(base: Path, output: Path, **sections: Any) -> Config:
    return config(base, output=str(output), **sections)


@pytest.fixture(scope="module")
def federated(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(plan(base_folder, tmp_path_factory.mktemp("runs"))).path


CASES = [
    ("federated", "lora"),
    ("federated", "full"),
    ("centralized", "lora"),
    ("local", "lora"),
    ("local", "full"),
]


@pytest.mark.parametrize(("topology", "method"), CASES)
def test_a_run_leaves_every_file(
    base_folder: Path, tmp_path: Path, topology: str, method: str
) -> None:
    made = plan(base_folder, tmp_path, model={"method": method}, rounds={"topology": topology})
    done = run(made)
    assert {file.name for file in done.path.iterdir()} == FILES | {"adapters"}
    assert manifest(done.path)["status"] == "finished"
    assert done.report == done.path / "report.html"
    assert "</html>" in done.report.read_text()

    shards = workspaces.get(made.model_dump_json()).data.shards
    models = ["a", "b"] if topology == "local" else ["global"]
    lines = [json.loads(line) for line in (done.path / "metrics.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines] == [0, 1, 2]
    for line in lines:
        assert line["participants"] == (["all"] if topology == "centralized" else ["a", "b"])
        assert line["ties"] >= 0
        for client, metrics in line["train"].items():
            assert metrics["num-examples"] == len(shards[client].examples)
            assert math.isfinite(metrics["loss"]) and metrics["tokens"] > 0
    assert [len(line["train"]) for line in lines] == [0] + [len(shards)] * 2

    found = scores(done.path)
    assert {row["round"] for row in found} == {0, 1, 2}
    assert {row["model"] for row in found} == set(models)
    assert {row["view"] for row in found} == {"client"}
    knowledge = {"true_prefix", "own_prefix"} if topology == "federated" else {"true_prefix"}
    assert {row["knowledge"] for row in found} == knowledge
    canaries = pq.read_table(done.path / "canaries.parquet").to_pylist()
    assert {row["canary"] for row in found} == {row["canary"] for row in canaries}
    assert [row["copies"] for row in canaries] == [1, 1, 4, 4, 0, 0, 0]
    # whichever the round, the same things are tried
    counts = [sum(row["round"] == round_ for row in found) for round_ in (0, 1, 2)]
    assert len(set(counts)) == 1

    utility = json.loads((done.path / "utility.json").read_text())
    assert {(row["round"], row["model"]) for row in utility} == {
        (round_, model) for round_ in (0, 1, 2) for model in models
    }
    assert all(row["n"] == 8 and 0 <= row["accuracy"] <= 1 for row in utility)

    rounds = sorted(folder.name for folder in (done.path / "adapters").iterdir())
    assert rounds == ["round_001", "round_002"]
    weights = "adapter_model.safetensors" if method == "lora" else "model.safetensors"
    for round_ in rounds:
        for model in models:
            folder = done.path / "adapters" / round_ / ("" if model == "global" else model)
            assert (folder / weights).is_file()
    assert not [file for file in done.path.rglob("*") if file.suffix in {".bin", ".pt", ".part"}]


def test_round_0_is_the_untouched_base(federated: Path) -> None:
    rows = [row for row in scores(federated) if row["attack"] == "loss"]
    first = {row["canary"]: row["logprob"] for row in rows if row["round"] == 0}
    last = {row["canary"]: row["logprob"] for row in rows if row["round"] == 2}
    tokens = {row["canary"]: row["tokens"] for row in rows}
    for canary, logprob in first.items():  # a random model: all tokens alike
        assert -logprob / tokens[canary] == pytest.approx(math.log(384), abs=0.5)
        assert last[canary] > logprob
    utility = json.loads((federated / "utility.json").read_text())
    assert utility[0]["round"] == 0
    assert utility[0]["nll"] == pytest.approx(math.log(384), abs=0.5)


def test_figures_of_single_tokens_are_those_of_the_scores(federated: Path) -> None:
    found = read_tokens(federated)
    loss = [row for row in scores(federated) if row["attack"] == "loss"]
    assert len(found) == len(loss) == 3 * 7
    for row in loss:
        one = found[row["round"], row["model"], row["canary"]]
        assert len(one.ok) == row["tokens"] and int(one.ok.sum()) == row["matched"]
        assert float(one.logprob.sum()) == pytest.approx(row["logprob"], rel=1e-5)
        assert one.sampled.shape == (1, row["tokens"])
        assert ((one.sampled[0] > -np.inf) == (one.rank < 40)).all()
    rows = json.loads((federated / "summary.json").read_text())["membership"]
    assert {(row["round"], row["copies"]) for row in rows} == {
        (round_, copies) for round_ in (0, 1, 2) for copies in (None, 1, 4)
    }
    assert {row["twins"] for row in rows if row["attack"] == "loss"} == {3}


def test_the_same_seed_gives_the_same_scores_to_the_byte(
    federated: Path, base_folder: Path, tmp_path: Path
) -> None:
    torch.manual_seed(4321)  # what went before must not matter
    again = run(plan(base_folder, tmp_path)).path
    for name in (
        "scores.parquet",
        "tokens.parquet",
        "canaries.parquet",
        "utility.json",
        "data.json",
    ):
        assert (again / name).read_bytes() == (federated / name).read_bytes(), name
    for file in sorted((federated / "adapters").rglob("*.safetensors")):
        assert (again / file.relative_to(federated)).read_bytes() == file.read_bytes()


def test_another_seed_gives_others(federated: Path, base_folder: Path, tmp_path: Path) -> None:
    other = run(plan(base_folder, tmp_path, seed=1, rounds={"count": 1})).path
    assert (other / "canaries.parquet").read_bytes() != (
        federated / "canaries.parquet"
    ).read_bytes()


def test_the_saved_adapter_is_the_model_that_was_scored(federated: Path, base_folder: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(base_folder, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, federated / "adapters" / "round_002").eval()
    data = workspaces.Workspace(plan(base_folder, federated.parent)).data
    rows = {
        row["canary"]: row["logprob"]
        for row in scores(federated)
        if row["attack"] == "loss" and row["round"] == 2
    }
    for canary in data.canaries:
        ids = torch.from_numpy(canary.ids).long()
        with torch.inference_mode():
            logprobs = model(input_ids=ids[None]).logits[0, :-1].double().log_softmax(-1)
        total = float(logprobs.gather(-1, ids[1:, None]).sum())
        assert rows[canary.id] == pytest.approx(total, rel=1e-5)


def test_progress_is_told_round_by_round(base_folder: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    run(plan(base_folder, tmp_path, rounds={"count": 1}), events.append)
    assert {event.run for event in events} == {"tiny"}
    assert [(event.stage, event.round) for event in events if event.stage] == [
        ("loading", 0),
        ("loaded", 0),
        ("attack", 0),
        ("untouched base scored", 0),
        ("training", 1),
        ("attack", 1),
    ]
    ended = [event.round for event in events if event.seconds is not None]
    assert ended == [0, 1]
    assert all(describe(event) for event in events)


def test_attack_and_utility_may_be_rarer_but_never_miss_the_end(
    base_folder: Path, tmp_path: Path
) -> None:
    made = run(
        plan(
            base_folder,
            tmp_path,
            rounds={"count": 3},
            attack={"every": 2, "knowledge": ["true_prefix"]},
            utility={"every": 10},
        )
    )
    assert {row["round"] for row in scores(made.path)} == {0, 2, 3}
    utility = json.loads((made.path / "utility.json").read_text())
    assert {row["round"] for row in utility} == {0, 3}


# --- runs that fail ------------------------------------------------------------------------


def the_one_run(output: Path) -> Path:
    (path,) = output.iterdir()
    return path


def test_a_loss_that_explodes_fails_the_run(base_folder: Path, tmp_path: Path) -> None:
    made = plan(
        base_folder,
        tmp_path,
        model={"method": "full"},
        rounds={"count": 3, "local_steps": 8},
        training={"optimizer": "sgd", "lr": 10, "momentum": 0.99, "max_grad_norm": None},
        attack={"knowledge": ["true_prefix"]},
    )
    with pytest.raises(RunError, match=r"client a, round 1|round 1, client a") as raised:
        run(made)
    assert "\n" not in str(raised.value)
    path = the_one_run(tmp_path)
    said = manifest(path)
    assert said["status"] == "failed" and said["error"] == str(raised.value)
    # what had been done by then is whole
    assert {row["round"] for row in scores(path)} == {0}
    assert not (path / "report.html").exists()
    assert any("see" in note for note in raised.value.__notes__)


def test_a_loss_that_is_nan_fails_the_run(base_folder: Path, tmp_path: Path) -> None:
    wild = {"optimizer": "adamw", "lr": 10, "max_grad_norm": None, "max_length": 160}
    rounds = {"count": 1, "local_steps": 60}
    with pytest.raises(RunError, match=r"client a, round 1: the loss is (nan|inf) at") as raised:
        run(plan(base_folder, tmp_path / "runs", training=wild, rounds=rounds))
    assert "\n" not in str(raised.value)
    assert manifest(the_one_run(tmp_path / "runs"))["status"] == "failed"


def test_a_config_that_cannot_work_trains_nothing(base_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        run(plan(tmp_path / "nowhere", tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


def test_a_base_too_large_to_compute_with_is_refused(base_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base_folder, tmp_path / "spoilt"))
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][:] = 3e38  # finite
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"model\.base: .* gives NaN or infinity"):
        run(plan(folder, tmp_path / "runs"))


def test_a_base_with_a_nan_is_refused(base_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base_folder, tmp_path / "spoilt"))
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] = np.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"model\.norm\.weight holds NaN"):
        run(plan(folder, tmp_path / "runs"))


# --- redaction -----------------------------------------------------------------------------


def phrases(texts: list[str]) -> set[str]:
    """Every run of three words."""
    out = set()
    for text in texts:
        words = text.split()
        out |= {" ".join(words[i : i + 3]) for i in range(len(words) - 2)}
    return out


def contents(path: Path) -> Iterator[tuple[str, str]]:
    """(name, text) of every file of a run; what a table holds is read out of it."""
    for file in sorted(path.rglob("*")):
        if file.is_file():
            text = file.read_bytes().decode("utf-8", errors="replace")
            if file.suffix == ".parquet":
                text += repr(pq.read_table(file).to_pylist())
            # as JSON or HTML would write it, too
            yield file.name, re.sub(r"\s+", " ", text.replace("\\n", " "))


@pytest.mark.parametrize("redact", [None, False])
def test_a_run_over_real_notes_keeps_no_text_of_them(
    base_folder: Path, tmp_path: Path, redact: bool | None
) -> None:
    drawn = notes.generate(10, seed=77)
    rows = [
        {
            "id": f"n{k}",
            "patient": f"Secret Person {k}",
            "text": note.text,
            "phi": [
                {"start": s.start, "end": s.end, "category": s.category, "type": s.type}
                for s in note.phi
            ],
        }
        for k, note in enumerate(drawn)
    ]
    # and one kind without tags, into which values are filled
    for row in rows[5:]:
        del row["phi"]
    file = tmp_path / "notes.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    base = plan(base_folder, tmp_path / "runs")
    canaries = base.data.canaries.model_dump() | {
        "source": {"kind": "jsonl", "path": str(file), "adapter": "notes"}
    }
    clients = [client.model_dump() for client in base.data.clients]
    made = plan(
        base_folder,
        tmp_path / "runs",
        data={"clients": clients, "canaries": canaries},
        privacy={"redact": redact},
    )
    done = run(made)

    held = workspaces.get(made.model_dump_json()).data.canaries
    secrets = phrases([canary.text for canary in held])
    secrets |= {span.value for canary in held for span in canary.phi if len(span.value) > 6}
    secrets |= {f"Secret Person {k}" for k in range(10)}
    found = {
        (name, secret) for name, text in contents(done.path) for secret in secrets if secret in text
    }
    if redact is None:
        assert found == set()
        plan_rows = pq.read_table(done.path / "canaries.parquet").to_pylist()
        assert all(row["text"] is None and row["phi_values"] is None for row in plan_rows)
        assert "redacted" in done.report.read_text()
    else:  # asked for in so many words: the search does find what is there
        assert {name for name, _ in found} >= {"canaries.parquet"}
