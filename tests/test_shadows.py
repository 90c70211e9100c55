"""Shadows of a small real run: what they share with it, what they tell, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from tiny import config

from fedmem import shadows, simulation
from fedmem.config import Config
from fedmem.errors import ConfigError, DataError
from fedmem.metrics.shadows import FOLDER, finished, rows
from fedmem.metrics.summary import read_config, summarise
from fedmem.rundir import RunDir, open_finished

NOTES = {
    "source": {"kind": "synthetic", "adapter": "notes", "records": 40},
    "levels": [{"copies": 8, "notes": 8}],
    "twins": 8,
}


def settings(base: Path, output: Path) -> Config:
    """Two clients learn their canaries well within one round."""
    data = {**config(base).data.model_dump(mode="json"), "canaries": NOTES}
    return config(
        base,
        output=str(output),
        model={"method": "full"},
        data=data,
        rounds={"count": 1, "local_epochs": 5},
        training={"lr": 1e-2, "max_length": 64, "batch_size": 4, "schedule": "constant"},
        attack={"knowledge": ["true_prefix"], "prefix_lengths": [5, 10]},
    )


@pytest.fixture(scope="module")
def run(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with four halves and a run without each client, made one after the other here."""
    done = simulation.run(settings(base_folder, tmp_path_factory.mktemp("runs"))).path
    for made in shadows.configs(read_config(done), 4, True).values():
        simulation.run(made.model_copy(update={"output": done / FOLDER}))
    return done


def test_shadows_find_members_and_what_a_client_adds(run: Path) -> None:
    found = summarise(run)["shadows"]
    attacks = {r["attack"]: r for r in found if r["figure"] == "membership"}
    assert set(attacks) == {"lira_offline", "lira_online", "rmia_offline", "rmia_online"}
    for row in attacks.values():
        assert (row["members"], row["twins"], row["shadows"]) == (8, 8, 4)
        assert row["auc"] > 0.9 and row["clear"]
    added = [r for r in found if r["figure"] == "counterfactual" and r["client"] is None]
    assert all(row["low"] > 0 and row["n"] == 16 for row in added if row["measure"] == "nats")
    without = {(r["client"], r["copies"]): r for r in found if r["figure"] == "without_client"}
    for client in ("a", "b"):
        row = without[client, 8]
        assert row["n"] == 4 and row["nats"] > 0.3 and row["auc"] > 0.8
        assert without[client, 0]["nats"] < row["nats"] / 2  # less is learned from half the data
    assert json.dumps(found, allow_nan=False)


def test_all_else_is_equal(run: Path) -> None:
    paths = finished(run)
    assert len(paths) == 6
    ids = pq.read_table(run / "canaries.parquet")["canary"].to_pylist()
    base = pq.read_table(run / "tokens.parquet", filters=[("round", "==", 0)])
    written = []
    for path in paths:
        plan = pq.read_table(path / "canaries.parquet").to_pylist()
        assert [row["canary"] for row in plan] == ids
        before = pq.read_table(path / "tokens.parquet", filters=[("round", "==", 0)])
        assert before["logprob"].to_pylist() == base["logprob"].to_pylist()
        lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        left = read_config(path).rounds.left_out
        assert lines[1]["participants"] == [name for name in ("a", "b") if name not in left]
        held = json.loads((path / "data.json").read_text())
        assert held["heldout"] == json.loads((run / "data.json").read_text())["heldout"]
        written += [] if left else [[row["copies"] > 0 for row in plan]]
    assert (np.array(written).sum(axis=0) == 2).all()


def test_what_cannot_be_had_is_one_line(run: Path, tmp_path: Path) -> None:
    whole = open_finished(run)
    read = read_config(run)
    for count in (-2, 3):
        with pytest.raises(ConfigError, match="even number"):
            shadows.check(read, whole, count, True)
    with pytest.raises(ConfigError, match="even number"):
        shadows.check(read, whole, 0, False)
    half = finished(run)[0]
    with pytest.raises(ConfigError, match="is a shadow itself"):
        shadows.train(half, 2)
    older = RunDir(run, {**whole.manifest, "versions": {"torch": "1.0"}})
    with pytest.raises(DataError, match="another versions"):
        shadows.check(read, older, 4, False)
    with pytest.raises(DataError, match="no such run directory"):
        shadows.train(tmp_path / "none", 4)
    sole = read.data.model_copy(update={"clients": read.data.clients[:1]})
    with pytest.raises(ConfigError, match="two clients or more"):
        shadows.check(read.model_copy(update={"data": sole}), whole, 4, True)
    for changes, text in (
        ({"left_out": ["nobody"]}, "no client is called 'nobody'"),
        ({"left_out": ["a", "b"]}, "nobody is left"),
        ({"left_out": ["a"], "clients_per_round": 2}, "1 clients are left"),
        ({"left_out": ["a"], "topology": "local"}, "needs rounds.topology federated"),
    ):
        tree = read.model_dump(mode="json")
        tree["rounds"] |= changes
        with pytest.raises(ValueError, match=text):
            Config.model_validate(tree)


def test_sampled_clients_and_secure_sums_count_on_those_left(base_folder: Path) -> None:
    sampled = config(base_folder, rounds={"count": 2, "clients_per_round": 2})
    made = shadows.configs(sampled, 0, True)
    assert [*made] == ["without-00-a", "without-01-b"]
    assert {one.rounds.clients_per_round for one in made.values()} == {1}
    everybody = shadows.configs(config(base_folder), 2, True)
    assert {one.rounds.clients_per_round for one in everybody.values()} == {"all"}
    assert everybody["half-001"].data.canaries.shadow == 1
    assert all(one.attack.every == 2 and not one.attack.sampling for one in everybody.values())


@pytest.mark.heavy
def test_side_by_side_kept_and_not_made_twice(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / run.name
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns(FOLDER))
    done = shadows.train(copy, 2)
    assert set(done.runs) == {"half-000", "half-001"}
    times = {path: path.stat().st_mtime_ns for path in finished(copy)}
    more = shadows.train(copy, 4, jobs=2)
    assert len(more.runs) == 4 and set(times) < set(finished(copy))
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    assert json.loads((copy / "summary.json").read_text())["shadows"]
    plan = {n: None for n in pq.read_table(copy / "canaries.parquet")["canary"].to_pylist()}
    assert plan and rows(tmp_path, {}) == []
