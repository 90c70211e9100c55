"""A process's workspace: one model for all clients, and whose turn sees what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import config

from fedmem import workspace as workspaces
from fedmem.attacks.rows import from_bytes
from fedmem.config import Config
from fedmem.errors import RunError
from fedmem.model.state import Arrays, get_arrays
from fedmem.workspace import Workspace


@pytest.fixture(scope="module")
def workspace(base_folder: Path) -> Workspace:
    return Workspace(config(base_folder))


def same(a: Arrays, b: Arrays) -> bool:
    return list(a) == list(b) and all(a[name].tobytes() == b[name].tobytes() for name in a)


def test_clients_stand_in_the_configs_order(base_folder: Path, workspace: Workspace) -> None:
    assert workspace.clients == ["a", "b"]
    pooled = Workspace(config(base_folder, rounds={"topology": "centralized"}))
    assert pooled.clients == ["all"]
    sizes = [len(shard.examples) for shard in workspace.data.shards.values()]
    assert len(pooled.data.shards["all"].examples) == sum(sizes)


def test_all_clients_train_one_model_object_and_arrays_alone_travel(workspace: Workspace) -> None:
    model, parameters = workspace.model, [id(p) for p in workspace.model.parameters()]
    start = workspace.initial_arrays()
    before = {name: array.copy() for name, array in start.items()}
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    updates = []
    for client in workspace.clients:
        update, metrics = workspace.train(client, 1, start)
        updates.append(update)
        assert all(type(array) is np.ndarray for array in update.values())
        assert all(type(value) is float for value in metrics.values())
        assert {"num-examples", "loss", "tokens", "seconds"} <= set(metrics)
        assert metrics["num-examples"] == len(workspace.data.shards[client].examples)
    assert workspace.model is model
    assert [id(p) for p in model.parameters()] == parameters
    assert not same(*updates)
    # no base weight is among what travels, none has moved, and what was sent is as it was
    assert all(".lora_" in name for name in updates[0])
    assert all(torch.equal(p, dict(model.named_parameters())[n]) for n, p in frozen.items())
    assert same(start, before)


def test_a_client_starts_from_what_it_is_sent_whoever_was_before(workspace: Workspace) -> None:
    start = workspace.initial_arrays()
    alone, _ = workspace.train("b", 1, start)
    workspace.train("a", 1, start)
    workspace.observe("a", 1, start)
    again, _ = workspace.train("b", 1, start)
    assert same(alone, again)
    assert same(get_arrays(workspace.load(start)), start)
    assert not workspace.model.training


def test_a_client_may_have_its_own_rate(base_folder: Path) -> None:
    source = {"kind": "synthetic", "adapter": "flashcards", "records": 6}
    changes = []
    for lr in (None, 1e-5):
        clients = [{"name": "a", "source": source, "lr": lr}, {"name": "b", "source": source}]
        canaries = config(base_folder).data.canaries.model_dump()
        workspace = Workspace(config(base_folder, data={"clients": clients, "canaries": canaries}))
        update, _ = workspace.train("a", 1, workspace.initial_arrays())
        start = workspace.initial_arrays()
        changes.append(max(float(np.abs(update[n] - start[n]).max()) for n in start))
    assert changes[1] < changes[0] / 100


def test_an_update_with_nan_is_not_reached_in_silence(workspace: Workspace) -> None:
    start = {name: array.copy() for name, array in workspace.initial_arrays().items()}
    next(iter(start.values()))[:] = np.nan
    with pytest.raises(RunError, match="client b, round 2"):
        workspace.train("b", 2, start)
    # the workspace is as good as before
    update, _ = workspace.train("b", 1, workspace.initial_arrays())
    assert all(np.isfinite(array).all() for array in update.values())


def test_the_curious_turn_is_graded_on_others_notes_only(workspace: Workspace) -> None:
    owned = {c.id: set(c.owners) for c in workspace.data.canaries}  # a twin's would-be owner too
    for client in workspace.clients:
        rows = from_bytes(workspace.observe(client, 1, workspace.initial_arrays())).to_pylist()
        assert {row["attacker"] for row in rows} == {client}
        assert {row["knowledge"] for row in rows} == {"own_prefix"}
        others = {name for name, owners in owned.items() if client not in owners}
        assert {row["canary"] for row in rows} == others
    assert workspace.observe("a", 1, workspace.initial_arrays()) == workspace.observe(
        "a", 1, workspace.initial_arrays()
    )


@pytest.mark.parametrize("topology", ["local", "centralized"])
def test_alone_or_pooled_nobody_is_curious(base_folder: Path, topology: str) -> None:
    workspace = Workspace(config(base_folder, rounds={"topology": topology}))
    for client in workspace.clients:
        assert workspace.observe(client, 1, workspace.initial_arrays()) == b""


def test_only_the_attackers_that_are_named_attack(base_folder: Path) -> None:
    workspace = Workspace(config(base_folder, attack={"attackers": ["b"]}))
    assert workspace.observe("a", 1, workspace.initial_arrays()) == b""
    assert workspace.observe("b", 1, workspace.initial_arrays()) != b""


def test_under_local_a_model_is_tried_on_its_owners_notes_only(base_folder: Path) -> None:
    workspace = Workspace(config(base_folder, rounds={"topology": "local"}))
    seen: dict[str, set[str]] = {}
    for client in workspace.clients:
        rows = workspace.audit(1, workspace.initial_arrays(), client).scores
        assert {row["model"] for row in rows} == {client}
        seen[client] = {row["canary"] for row in rows}
        # a twin belongs to the shard that it would have entered
        assert seen[client] == {c.id for c in workspace.data.canaries if client in c.owners}
    assert seen["a"].isdisjoint(seen["b"])
    assert len(seen["a"] | seen["b"]) == len(workspace.data.canaries)


def test_the_global_model_is_tried_on_all(workspace: Workspace) -> None:
    rows = workspace.audit(0, workspace.initial_arrays(), "global").scores
    assert {row["canary"] for row in rows} == {c.id for c in workspace.data.canaries}


def test_no_twin_stands_in_a_shard(workspace: Workspace) -> None:
    twins = [c for c in workspace.data.canaries if c.twin]
    assert len(twins) == 3
    for shard in workspace.data.shards.values():
        assert {c.id for c in twins}.isdisjoint(shard.canaries)
        texts = [example.ids.tobytes() for example in shard.examples]
        assert not any(twin.ids.tobytes() in text for twin in twins for text in texts)
        # while the canaries do, as often as planned
        for canary in workspace.data.canaries:
            assert texts.count(canary.ids.tobytes()) == canary.owners.get(shard.client, 0)


def test_a_process_keeps_one_workspace(base_folder: Path) -> None:
    first, second = config(base_folder), config(base_folder, seed=1)
    made = workspaces.get(first.model_dump_json())
    assert workspaces.get(first.model_dump_json()) is made
    other: Any = workspaces.get(second.model_dump_json())
    assert other is not made and other.config == second
    assert workspaces.get(first.model_dump_json()) is not made  # it was let go
    workspaces.keep(made)
    assert workspaces.get(first.model_dump_json()) is made


def test_what_travels_as_json_is_the_config(base_folder: Path) -> None:
    plan = config(base_folder)
    assert Config.model_validate_json(plan.model_dump_json()) == plan
