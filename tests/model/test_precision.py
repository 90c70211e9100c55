"""Half precision and checkpointing: how far from float32, and what stays float32."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import config

from fedmem.attacks.generate import greedy
from fedmem.attacks.scoring import score
from fedmem.config import Config
from fedmem.data.records import EncodedQA, Example, Shard
from fedmem.errors import RunError
from fedmem.evaluation.options import option_logprobs
from fedmem.model import precision
from fedmem.model.base import load
from fedmem.model.probe import check_reading
from fedmem.model.state import Arrays, get_arrays
from fedmem.training.local import train_local

IDS = np.random.default_rng(0).integers(3, 380, size=(6, 24)).astype(np.int32)
SHARD = Shard("a", tuple(map(Example, IDS)), ())


def plan(base: Path, **model: Any) -> Config:
    steps = {"count": 1, "local_steps": 12}
    training = {"batch_size": 6, "schedule": "constant"}
    return config(base, rounds=steps, training=training, model=model)


def trained(base: Path, lr: float = 1e-2, **model: Any) -> tuple[Any, dict[str, float]]:
    chosen = plan(base, **model)
    made, _ = load(chosen.model, 0)
    return made, train_local(made, SHARD, chosen, 1, lr, 0)


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize(("dtype", "near"), [("bfloat16", 0.03), ("float16", 0.01)])
def test_half_precision_learns_as_float32_does(
    base_folder: Path, method: str, dtype: str, near: float
) -> None:
    _, whole = trained(base_folder, method=method)
    model, half = trained(base_folder, method=method, dtype=dtype)
    assert half["loss"] == pytest.approx(whole["loss"], rel=near)
    assert half["loss"] != whole["loss"]  # it was half precision indeed
    assert ("skipped" in half) == (dtype == "float16") and not half.get("skipped")
    arrays = get_arrays(model)
    assert all(a.dtype == np.float32 and np.isfinite(a).all() for a in arrays.values())
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    frozen = {p.dtype for p in model.parameters() if not p.requires_grad}
    assert frozen == ({precision.DTYPES[dtype]} if method == "lora" else set())


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_scores_and_options_are_near_those_of_float32(
    base_folder: Path, method: str, dtype: str
) -> None:
    whole, _ = load(plan(base_folder, method=method).model, 0)
    half, _ = load(plan(base_folder, method=method, dtype=dtype).model, 0)
    check_reading(half.eval(), dtype)
    question = EncodedQA("q", "q", IDS[0, :9], (IDS[0, 9:12], IDS[1, 9:14]), 0, True)
    for one, other in zip(score(whole.eval(), list(IDS)), score(half, list(IDS)), strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=0.05)
        assert other.logprob.dtype == np.float64 and np.isfinite(other.logprob).all()
    near = zip(
        option_logprobs(whole, [question])[0], option_logprobs(half, [question])[0], strict=True
    )
    assert all(one == pytest.approx(other, abs=0.05) for one, other in near)
    assert [len(tokens) for tokens in greedy(half, list(IDS), 4)] == [4] * len(IDS)


def test_an_overflow_in_float16_is_skipped_and_counted(
    base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "FIRST_SCALE", 2.0**30)
    model, metrics = trained(base_folder, dtype="float16")
    assert 0 < metrics["skipped"] < metrics["steps"]
    assert all(np.isfinite(a).all() for a in get_arrays(model).values())
    monkeypatch.setattr(precision, "FIRST_SCALE", 2.0**120)
    with pytest.raises(RunError, match=r"client a, round 1: .* overflowed .*bfloat16"):
        trained(base_folder, dtype="float16")


@pytest.mark.parametrize("model", [{}, {"method": "full"}, {"lora": {"dropout": 0.3}}])
def test_checkpointing_gives_the_same_bytes(base_folder: Path, model: dict[str, Any]) -> None:
    made, kept = trained(base_folder, **model)
    again, recomputed = trained(base_folder, gradient_checkpointing=True, **model)
    assert kept["loss"] == recomputed["loss"] and math.isfinite(kept["loss"])
    one, other = get_arrays(made), get_arrays(again)
    assert all(one[name].tobytes() == other[name].tobytes() for name in one)


def saved_bytes(base: Path, **model: Any) -> int:
    """Bytes that the forward pass of a batch keeps for the backward pass, weights left out."""
    made, _ = load(plan(base, **model).model, 0)
    held = {p.untyped_storage().data_ptr() for p in made.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in held:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.from_numpy(IDS).long()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = made.train()(input_ids=ids, use_cache=False).logits
        total = sum(kept.values())
    logits.sum().backward()
    return total


def test_checkpointing_keeps_less(base_folder: Path) -> None:
    assert saved_bytes(base_folder, gradient_checkpointing=True) < 0.4 * saved_bytes(base_folder)


def test_float32_is_left_alone(base_folder: Path) -> None:
    model, _ = load(plan(base_folder, method="full").model, 0)
    assert "forward" not in vars(model)
    assert precision.scaler("float32", torch.device("cpu")) is None
    arrays: Arrays = get_arrays(model)
    assert arrays
