"""A client's ledger: written before the update leaves, restored in a simulation, or an error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from test_resume import Stop, results, stop_when
from tiny import config

from clients.privacy import account, read
from fedmem.accounting import Step
from fedmem.config import Config
from fedmem.engine.inline import InlineGrid
from fedmem.engine.records import CONFIG, ROUND, TRAINED, only_metrics, to_record
from fedmem.errors import DataError, RunError
from fedmem.simulation import run
from fedmem.workspace import Workspace, keep

DP = {"noise_multiplier": 1.0}


def settings(base: Path, **sections: Any) -> Config:
    return config(base, training={"dp": DP, "lr": 1e-2, "max_length": 160}, **sections)


def context() -> Context:
    return Context(
        run_id=1, node_id=2, node_config={"partition-id": 0}, state=RecordDict(), run_config={}
    )


def message(trained: list[int]) -> RecordDict:
    return RecordDict({"config": ConfigRecord({TRAINED: trained})})


def in_deployment(base: Path) -> Any:
    """A workspace that says that it is a hospital's own; what it holds is the same."""
    simulated = Workspace(settings(base))
    engine = simulated.config.engine.model_copy(update={"kind": "deployment"})
    simulated.config = simulated.config.model_copy(update={"engine": engine})
    return simulated


def test_the_ledger_is_written_and_agrees_with_the_metrics(base_folder: Path) -> None:
    workspace = Workspace(settings(base_folder))
    keep(workspace)
    from clients.app import app

    grid = InlineGrid(app, workspace.clients)
    node = grid.get_node_ids()[0]
    for round_ in (1, 2):
        record = ConfigRecord(
            {
                ROUND: round_,
                CONFIG: workspace.config.model_dump_json(),
                TRAINED: list(range(1, round_)),
            }
        )
        content = RecordDict({"arrays": to_record(workspace.initial_arrays()), "config": record})
        (reply,) = grid.send_and_receive([Message(content, node, MessageType.TRAIN)])
        told = only_metrics(reply.content)
        ledger = read(grid._contexts[node])
        assert list(ledger) == list(range(1, round_ + 1))
        assert ledger[round_] == Step(
            told["dp_noise_multiplier"], told["dp_sample_rate"], int(told["dp_steps"])
        )


def test_a_simulation_writes_the_ledger_anew(base_folder: Path) -> None:
    workspace, node = Workspace(settings(base_folder)), context()
    account(workspace, "a", 3, message([1, 2]), node)
    assert list(read(node)) == [1, 2, 3]
    assert len(set(read(node).values())) == 1
    account(workspace, "a", 3, message([1, 2]), node)  # sent again after a lost worker: the same
    assert list(read(node)) == [1, 2, 3]
    with pytest.raises(RunError, match=r"round 5, client a: accountant state lost: .* round 4"):
        account(workspace, "a", 5, message([1, 2, 3, 4]), node)


def test_in_deployment_only_the_nodes_own_ledger_counts(base_folder: Path) -> None:
    workspace, node = in_deployment(base_folder), context()
    with pytest.raises(RunError, match="accountant state lost"):
        account(workspace, "a", 3, message([1, 2]), node)
    account(workspace, "a", 1, message([]), node)
    account(workspace, "a", 2, message([1]), node)
    with pytest.raises(RunError, match="trained before; refused"):
        account(workspace, "a", 2, message([1]), node)
    assert list(read(node)) == [1, 2]


def test_without_dp_nothing_is_kept(base_folder: Path) -> None:
    node = context()
    account(Workspace(config(base_folder)), "a", 1, message([]), node)
    assert not node.state


@pytest.fixture(scope="module")
def finished(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dp") / "whole"
    return run(settings(base_folder, rounds={"count": 3}, output=str(folder))).path


def test_a_run_ends_with_its_claim(finished: Path) -> None:
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    told = [metrics for line in lines for metrics in line["train"].values()]
    assert len(told) == 6 and all(metrics["dp_steps"] >= 1 for metrics in told)
    (claim,) = [
        one
        for one in json.loads((finished / "privacy.json").read_text())["claims"]
        if one["what"] == "DP-SGD"
    ]
    assert claim["epsilon"] > 0 and claim["epsilon_rdp"] > claim["epsilon"]
    assert claim["delta"] == 1e-5 and "record" in claim["unit"]


def test_a_stopped_run_is_taken_up_to_the_same_bytes(
    base_folder: Path, finished: Path, tmp_path: Path
) -> None:
    again = settings(base_folder, rounds={"count": 3}, output=str(tmp_path))
    with pytest.raises(Stop):
        run(again, stop_when(2, "attack"))
    done = run(again, resume=True).path
    assert results(done) == results(finished)


def test_a_run_whose_figures_are_gone_is_not_taken_up(base_folder: Path, tmp_path: Path) -> None:
    stopped = settings(base_folder, rounds={"count": 3}, output=str(tmp_path))
    with pytest.raises(Stop):
        run(stopped, stop_when(3, "training"))
    (file,) = tmp_path.glob("*/metrics.jsonl")
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    del lines[1]["train"]["b"]["dp_steps"]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    with pytest.raises(DataError, match="round 1, client b: accountant state lost"):
        run(stopped, resume=True)
