"""Pruning: exactly the smallest weights of the linear layers, exactly to zero."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import config
from toys import toy_config

from fedmem import workspace as workspaces
from fedmem.claims import NO_DP, History
from fedmem.config import Config
from fedmem.config import defences as cfg
from fedmem.defences import Chain
from fedmem.defences.prune import Prune, smallest
from fedmem.defences.turn import Turn
from fedmem.engine.inline import run_inline
from fedmem.errors import RunError
from fedmem.rounds import Round
from fedmem.workspace import Workspace

Arrays = dict[str, np.ndarray]
LINEAR = ("model.layers.0.q_proj.weight", "model.layers.1.up_proj.weight")
OTHERS = {
    "model.embed_tokens.weight": (9, 4),
    "model.layers.0.norm.weight": (4,),
    "model.layers.0.q_proj.bias": (6,),
    "lm_head.weight": (9, 4),
}


def arrays(seed: int, scale: float = 1.0) -> Arrays:
    rng = np.random.default_rng(seed)
    shapes = {LINEAR[0]: (6, 4), LINEAR[1]: (8, 5), **OTHERS}
    return {n: (scale * rng.normal(size=s)).astype(np.float32) for n, s in shapes.items()}


def pruned(received: Arrays, mean: Arrays, base: Arrays | None = None, **settings: Any) -> Any:
    turn = Turn(1, received, np.random.default_rng(0))
    turn.last = settings.pop("last", False)
    if base is not None:
        turn.base = base.__getitem__
    after = Prune(cfg.Prune(**settings), toy_config()).on_aggregate(mean, turn)
    # as the server joins it: in the wider type of the two, then float32
    return {n: (received[n] + after[n]).astype(np.float32) for n in received}, turn.figures


def oracle(weights: list[float], share: float) -> set[int]:
    """The places of the smallest weights, one by one, the first of equals."""
    ranked = sorted(range(len(weights)), key=lambda i: (abs(weights[i]), i))
    return set(ranked[: round(share * len(weights))])


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.99])
def test_the_smallest_of_each_layer_are_zero_and_all_else_is_left(share: float) -> None:
    received, mean = arrays(0), arrays(1, 0.1)
    after, figures = pruned(received, mean, share=share)
    zeros = 0
    for name in received:
        whole = received[name] + mean[name]
        gone = oracle(whole.ravel().tolist(), share) if name in LINEAR else set()
        assert set(np.flatnonzero(after[name] == 0)) == gone
        kept = [i for i in range(whole.size) if i not in gone]
        assert after[name].ravel()[kept].tobytes() == whole.ravel()[kept].tobytes()
        zeros += len(gone)
    assert figures == {"zero": zeros / (24 + 40)}


@pytest.mark.parametrize("share", [0.2, 0.6])
def test_over_the_whole_model_one_threshold_holds(share: float) -> None:
    received, mean = arrays(0), arrays(1, 0.1)
    received[LINEAR[1]] *= 0.05  # small weights: most of what goes, goes here
    mean[LINEAR[1]] *= 0.05
    after, figures = pruned(received, mean, share=share, per="model")
    both = np.concatenate([(received[n] + mean[n]).ravel() for n in LINEAR])
    gone = oracle(both.tolist(), share)
    assert set(np.flatnonzero(np.concatenate([after[n].ravel() for n in LINEAR]) == 0)) == gone
    assert figures["zero"] == round(share * 64) / 64
    assert np.mean(after[LINEAR[1]] == 0) > 1.2 * share


def test_of_equal_weights_the_exact_number_goes() -> None:
    even = {"layers.0.w": np.ones((10, 10), np.float32)}
    mask = smallest(even, 0.3, "layer")["layers.0.w"]
    assert mask.sum() == 30 and mask.ravel()[:30].all()
    assert smallest(even, 0.001, "model")["layers.0.w"].sum() == 0


def test_under_dense_deltas_base_and_delta_cancel_exactly() -> None:
    name = "base_model.model.model.layers.0.q_proj.base_layer.weight"
    rng = np.random.default_rng(0)
    base = {name: rng.normal(size=(50, 40)).astype(np.float32)}
    # deltas far larger and far smaller than the base: rounding is worst where sizes differ
    spread = 10.0 ** rng.uniform(-6, 4, (50, 40))
    received = {name: (rng.normal(size=(50, 40)) * spread).astype(np.float32)}
    mean = {name: (rng.normal(size=(50, 40)) * spread).astype(np.float32)}
    after, figures = pruned(received, mean, base, share=0.4)
    weights = torch.from_numpy(base[name]) + torch.from_numpy(after[name])  # as a model is made
    whole = base[name] + (received[name] + mean[name])
    gone = oracle(whole.ravel().tolist(), 0.4)
    assert set(np.flatnonzero(weights.numpy() == 0)) == gone
    assert figures["zero"] == 0.4
    kept = [i for i in range(2000) if i not in gone]
    assert weights.numpy().ravel()[kept].tobytes() == whole.ravel()[kept].tobytes()


def test_when_last_it_waits_for_the_last_round() -> None:
    received, mean = arrays(0), arrays(1)
    turn = Turn(1, received, np.random.default_rng(0))
    prune = Prune(cfg.Prune(share=0.3, when="last"), toy_config())
    assert prune.on_aggregate(mean, turn) is mean and not turn.figures
    _, figures = pruned(received, mean, share=0.3, when="last", last=True)
    assert figures["zero"] == pytest.approx(0.3, abs=0.02)
    update, _ = Chain(toy_config()).at_client("c0", 1, received, mean, {})
    assert prune.on_client_update(update, turn) is update


def test_a_model_without_linear_layers_is_an_error() -> None:
    head = {"lm_head.weight": np.ones((4, 4), np.float32)}
    with pytest.raises(RunError, match="no linear layer"):
        pruned(head, head, share=0.3)


def run(base: Path, when: str, **sections: Any) -> list[Round]:
    defence = {"kind": "prune", "share": 0.3, "when": when}
    plan = config(
        base, defences=[defence], attack={"knowledge": ["own_prefix"], "attackers": []}, **sections
    )
    workspaces.keep(Workspace(plan))
    rounds: list[Round] = []
    run_inline(plan, rounds.append)
    return rounds


@pytest.mark.parametrize("when", ["every_round", "last"])
@pytest.mark.parametrize(
    "sections",
    [{"model": {"method": "full"}}, {"aggregation": {"rule": "product"}}],
    ids=["full", "product"],
)
def test_in_a_run_the_models_linear_weights_are_zero(
    base_folder: Path, when: str, sections: dict[str, Any]
) -> None:
    rounds = run(base_folder, when, **sections)
    workspace = next(iter(workspaces._kept.values()))
    for done in rounds[1:]:
        model = workspace.load(done.models["global"])
        linear = [
            module.weight.detach()
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and "lora_" not in name and "head" not in name
        ]
        assert len(linear) == 2 * 7
        due = when == "every_round" or done.number == len(rounds) - 1
        for weight in linear:
            zero = int((weight == 0).sum())
            assert zero == (round(0.3 * weight.numel()) if due else 0)
        told = sum(round(0.3 * w.numel()) for w in linear) / sum(w.numel() for w in linear)
        assert done.server == ({"1.prune.zero": pytest.approx(told)} if due else {})
        assert not bool((model.get_input_embeddings().weight[1:] == 0).any())
    losses = [m["loss"] for done in rounds[1:] for m in done.train.values()]
    assert all(math.isfinite(loss) for loss in losses)


def test_it_claims_what_was_measured_and_no_guarantee() -> None:
    server = ({"1.prune.zero": 0.25}, {"1.prune.zero": 0.31})
    history = History(("a",), (("a",),) * 2, ({}, {}), server)
    claim = Prune(cfg.Prune(share=0.3), toy_config()).claim(history)
    assert claim.guarantee == NO_DP and claim.epsilon is None
    assert claim.figures == {"share": 0.3, "zero": 0.31} and "30%" in claim.where
    last = Prune(cfg.Prune(share=0.3, when="last"), toy_config()).claim(history)
    assert any("unpruned" in note for note in last.notes)
    assert not any("unpruned" in note for note in claim.notes)


def with_prune(**given: Any) -> Config:
    return toy_config(defences=[{"kind": "prune", "share": 0.3}], **given)


@pytest.mark.parametrize("rule", ["fedavg", "freeze_a"])
def test_lora_factors_cannot_be_pruned(rule: str) -> None:
    with pytest.raises(ValueError, match=r"prune .*set aggregation\.rule=product"):
        with_prune(aggregation={"rule": rule})
    assert with_prune(aggregation={"rule": "product"}).defences
    assert with_prune(model={"method": "full"}).defences


def test_noise_behind_it_is_refused() -> None:
    noise = {"kind": "gaussian_noise", "sigma": 0.1, "at": "aggregate"}
    prune = {"kind": "prune", "share": 0.3}
    full = {"method": "full"}
    with pytest.raises(ValueError, match="put prune last"):
        toy_config(defences=[prune, noise], model=full)
    assert toy_config(defences=[noise, prune], model=full).defences


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, float("nan"), "half"])
def test_a_share_out_of_range_is_refused(share: Any) -> None:
    with pytest.raises(ValueError, match="share"):
        cfg.Prune(share=share)
