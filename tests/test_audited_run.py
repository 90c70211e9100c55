"""Whole runs with an audit and with the server's view: files, verdicts, resumption."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tiny import config

from fedmem import protection
from fedmem.claims import Claim
from fedmem.config import Config
from fedmem.errors import RunError
from fedmem.metrics.audit import AUDIT, BUG, SCHEMA
from fedmem.progress import Event
from fedmem.simulation import Run, run

ATTACK = {"audit": {"canaries": 60}, "views": ["client", "server"]}


def plan(base: Path, output: Path, **sections: Any) -> Config:
    # long enough that notes written once leave a mark
    sections = {"rounds": {"count": 2, "local_epochs": 6}, "attack": ATTACK, **sections}
    return config(base, output=str(output), model={"method": "full"}, **sections)


def load(path: Path, name: str) -> Any:
    return json.loads((path / name).read_text())


@pytest.fixture(scope="module")
def audited(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(plan(base_folder, tmp_path_factory.mktemp("audited")))


def test_an_audited_run_says_what_it_found_everywhere(audited: Run) -> None:
    table = pq.read_table(audited.path / AUDIT)
    assert table.schema.remove_metadata() == SCHEMA and table.num_rows == 60
    found = load(audited.path, "audit.json")
    assert found == load(audited.path, "summary.json")["audit"]
    assert found == load(audited.path, "privacy.json")["audited"]
    assert [row["level"] for row in found] == [0.95, 0.999]
    # notes written once, trained on twelve times, leave a mark that coins can show
    assert found[0]["epsilon"] > 0 and found[0]["correct"] > 36
    members = [row["final"] - row["base"] for row in table.to_pylist() if row["included"]]
    others = [row["final"] - row["base"] for row in table.to_pylist() if not row["included"]]
    assert sum(members) / len(members) > sum(others) / len(others)


def test_no_other_file_knows_the_audits_notes(audited: Run) -> None:
    for name in ("canaries.parquet", "scores.parquet", "tokens.parquet", "server.parquet"):
        names = set(pq.read_table(audited.path / name).column("canary").to_pylist())
        assert names and not any(name.startswith("audit-") for name in names)
    assert "audit-0" not in (audited.path / "summary.json").read_text()


def test_the_server_names_owners_in_the_clear_and_nobody_under_secure_aggregation(
    audited: Run, base_folder: Path, tmp_path: Path
) -> None:
    summary = load(audited.path, "summary.json")
    server = {(row["round"], row["copies"]): row for row in summary["server"]}
    assert server[None, 4]["hits"] == server[None, 4]["n"] == 2
    assert {row["view"]: row["updates"] for row in summary["seats"]} == {
        "client": False,
        "server": True,
    }
    secure = {"secure": {"enabled": True}}
    clients = [{"name": n, "source": SOURCE} for n in ("a", "b", "c")]
    canaries = {"source": {**SOURCE, "adapter": "notes", "records": 12}, "twins": 3}
    data = {"clients": clients, "canaries": canaries | {"levels": [{"copies": 4, "notes": 3}]}}
    sections = {
        "aggregation": secure,
        "attack": {"views": ["server", "public"], "queries": 4},
        "data": data,
    }
    done = run(plan(base_folder, tmp_path, rounds={"count": 1}, **sections))
    summary = load(done.path, "summary.json")
    assert summary["server"] == [] and summary["audit"] == []
    assert summary["seats"][0]["sees"] == "the sum of a round's updates"
    assert not (done.path / AUDIT).exists()
    # the public's draws stand apart, beside the auditor's bound on the same model
    told = {(row["knowledge"], row["round"]) for row in summary["public"]}
    assert told == {("none", 1), ("true_prefix", 1)}
    assert all(row["view"] == "public" and row["n"] == 3 for row in summary["public"])
    assert "none" not in summary["knowledge"]
    assert not any(row["knowledge"] == "none" for row in summary["leakage"])


SOURCE = {"kind": "synthetic", "adapter": "flashcards", "records": 6}


def claimed(epsilon: float) -> Claim:
    """What an accountant with a bug would say."""
    return Claim(
        *("DP-SGD", "training", "each record", "each client"),
        guarantee="differential privacy of a record",
        epsilon=epsilon,
        delta=1e-5,
        unit="record",
        adjacency="one record added or removed",
        sampling="Poisson",
    )


def test_a_claim_that_is_refuted_fails_the_run_once_everything_is_written(
    base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protection, "claims", lambda config, history: [claimed(0.01)])
    told: list[Event] = []
    made = plan(base_folder, tmp_path)
    with pytest.raises(RunError) as caught:
        run(made, told.append)
    (path,) = tmp_path.iterdir()
    said = str(caught.value)
    assert str(path) in said and "DP-SGD claims 0.01 for one record" in said and "\n" not in said
    assert any("audit: " in event.stage and event.lasting for event in told)
    assert load(path, "audit.json")[-1]["verdict"] == BUG
    assert load(path, "manifest.json")["status"] == "failed"
    files = ("report.html", "MODEL_CARD.md", "privacy.json", "summary.json")
    assert all((path / name).is_file() for name in files)
    # taken up again it is the same bug; once mended, the run is finished
    with pytest.raises(RunError, match="bug"):
        run(made, resume=True)
    monkeypatch.setattr(protection, "claims", lambda config, history: [claimed(20.0)])
    assert run(made, resume=True).path == path
    assert load(path, "manifest.json")["status"] == "finished"


class Stop(Exception):
    """Raised in the middle of a run."""


@pytest.mark.parametrize("topology", ["federated", "local"])
def test_a_stopped_audit_ends_with_the_same_bytes(
    base_folder: Path, tmp_path: Path, topology: str
) -> None:
    attack = ATTACK if topology == "federated" else {"audit": {"canaries": 20}}
    sections = {"rounds": {"count": 2, "topology": topology}, "attack": attack}
    whole = run(plan(base_folder, tmp_path / "whole", **sections)).path

    def stop(event: Event) -> None:
        if event.round == 2 and event.stage == "attack":
            raise Stop

    broken = plan(base_folder, tmp_path / "broken", **sections)
    with pytest.raises(Stop):
        run(broken, stop)
    path = run(broken, resume=True).path
    names = [AUDIT, "audit.json", "scores.parquet"] + ["server.parquet"] * (topology == "federated")
    for name in names:
        assert (path / name).read_bytes() == (whole / name).read_bytes()


def test_an_audit_needs_a_simulation(base_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"attack\.audit: needs a simulation"):
        config(base_folder, attack={"audit": {}}, engine={"kind": "deployment"})
    with pytest.raises(ValueError, match=r"attack\.views: public needs a simulation"):
        config(base_folder, attack={"views": ["public"]}, engine={"kind": "deployment"})
