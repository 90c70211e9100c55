"""Averaging the products BA: against PEFT's own merge, and what a run makes of it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import config

from fedmem import workspace as workspaces
from fedmem.config import Config
from fedmem.engine.inline import run_inline
from fedmem.errors import DataError
from fedmem.model.base import load_base
from fedmem.model.merge import load_deltas, save_deltas
from fedmem.model.state import Arrays
from fedmem.rounds import Round
from fedmem.workspace import Workspace


def plan(base: Path, **sections: Any) -> Config:
    always = {"aggregation": {"rule": "product"}, "rounds": {"count": 2, "local_steps": 3}}
    return config(base, **{**always, **sections})


def rounds_of(made: Config) -> tuple[Workspace, list[Round]]:
    workspace = Workspace(made)
    workspaces.keep(workspace)
    rounds: list[Round] = []
    run_inline(made, rounds.append)
    return workspace, rounds


def logits(model: Any) -> torch.Tensor:
    ids = torch.arange(3, 40).view(1, -1)
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits


def test_a_round_is_the_mean_of_peft_merged_models(base_folder: Path) -> None:
    """The paper's way, by hand: every client merges its LoRA, full weights are averaged."""
    weights = {"a": 70.0, "b": 141.0}
    made = plan(base_folder, aggregation={"rule": "product", "weights": weights})
    workspace, rounds = rounds_of(made)
    start = rounds[1].models["global"]  # deltas after round 1, themselves not zero
    assert any(np.abs(delta).max() > 1e-4 for delta in start.values())
    merged: dict[str, torch.Tensor] = {}
    for client, weight in weights.items():
        workspace.train(client, 2, start)
        whole = copy.deepcopy(workspace.model).merge_and_unload()  # PEFT's own
        for name, parameter in whole.named_parameters():
            share = parameter.detach().double() * weight / 211.0
            merged[name] = merged.get(name, torch.zeros_like(share)) + share
    theirs = load_base(made.model)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            parameter.copy_(merged[name].float())
    ours = workspace.load(rounds[2].models["global"])
    torch.testing.assert_close(logits(ours), logits(theirs), atol=1e-5, rtol=1e-5)
    # and it is not the mean of A and of B
    _, plain = rounds_of(config(base_folder, rounds={"count": 2, "local_steps": 3}))
    apart = logits(Workspace(made).load(plain_deltas(plain))) - logits(theirs)
    assert float(apart.abs().max()) > 1e-3


def plain_deltas(rounds: list[Round]) -> Arrays:
    """mean(B) mean(A) of the last round of plain FedAvg, as deltas."""
    arrays, scaling = rounds[-1].models["global"], 2.0
    return {
        name.replace("lora_A.default", "base_layer"): np.float32(
            scaling * arrays[name.replace("lora_A", "lora_B")] @ arrays[name]
        )
        for name in arrays
        if "lora_A" in name
    }


def test_a_model_does_not_depend_on_those_loaded_before(base_folder: Path) -> None:
    workspace, rounds = rounds_of(plan(base_folder))
    first, last = rounds[1].models["global"], rounds[2].models["global"]
    again = logits(workspace.load(last))
    workspace.load(first)
    assert torch.equal(logits(workspace.load(last)), again)
    untouched = logits(workspace.load(workspace.initial_arrays()))
    assert torch.equal(untouched, logits(load_base(workspace.config.model)))


def test_every_round_and_client_begins_with_its_own_fresh_lora(base_folder: Path) -> None:
    workspace = Workspace(plan(base_folder, training={"lr": 1e-9, "max_length": 160}))
    start = workspace.initial_arrays()
    seen = [workspace.train(c, r, start)[0] for c, r in (("a", 1), ("a", 2), ("b", 1), ("a", 1))]
    name = next(name for name in seen[0] if "lora_A" in name)
    assert [list(update) for update in seen] == [list(seen[0])] * 4
    assert np.array_equal(seen[0][name], seen[3][name])
    assert not np.allclose(seen[0][name], seen[1][name])
    assert not np.allclose(seen[0][name], seen[2][name])


def test_deltas_are_saved_by_the_bases_own_names(base_folder: Path, tmp_path: Path) -> None:
    workspace, rounds = rounds_of(plan(base_folder))
    deltas = rounds[2].models["global"]
    workspace.save(deltas, tmp_path)
    back = load_deltas(tmp_path, workspace.products)
    assert list(back) == list(deltas)
    assert all(np.array_equal(back[name], deltas[name]) for name in deltas)
    # anybody can add them to the base
    base = load_base(workspace.config.model)
    from safetensors.torch import load_file

    held = load_file(tmp_path / "deltas.safetensors")
    with torch.no_grad():
        parameters = dict(base.named_parameters())
        for name, delta in held.items():
            parameters[name] += delta
    torch.testing.assert_close(logits(base), logits(workspace.load(deltas)), atol=1e-6, rtol=1e-6)
    save_deltas(dict(list(deltas.items())[1:]), tmp_path)
    with pytest.raises(DataError, match="deltas of other layers"):
        load_deltas(tmp_path, workspace.products)


def test_frozen_a_stays_and_b_alone_travels(base_folder: Path) -> None:
    made = config(base_folder, aggregation={"rule": "freeze_a"})
    workspace, rounds = rounds_of(made)
    before = {n: p.detach().clone() for n, p in workspace.model.named_parameters() if "lora_A" in n}
    for done in rounds:
        assert done.models["global"] and all("lora_B" in n for n in done.models["global"])
    assert any(np.abs(b).max() > 1e-4 for b in rounds[2].models["global"].values())
    fresh = dict(Workspace(made).model.named_parameters())
    assert before and all(torch.equal(a, fresh[n]) for n, a in before.items())
    # with one A for all, the mean of B is the mean of the products
    products = {n: p for n, p in rounds[1].models["global"].items()}
    assert len(products) == len(before)
