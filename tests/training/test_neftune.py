"""NEFTune's noise: its size for each sample, in training alone, and nothing of it left behind."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from tiny import config
from torch import Tensor
from transformers.integrations.neftune import neftune_post_forward_hook

from fedmem.data.records import Example, Shard
from fedmem.errors import RunError
from fedmem.model.base import load
from fedmem.model.state import Arrays, get_arrays
from fedmem.training.batches import collate
from fedmem.training.local import train_local
from fedmem.training.neftune import lengths_of, noisy_embeddings

METHODS: list[dict[str, Any]] = [{}, {"method": "full"}, {"gradient_checkpointing": True}]


def examples(*sizes: int, supervised: int = 1) -> list[Example]:
    rng = np.random.default_rng(0)
    return [Example(rng.integers(3, 380, size).astype(np.int32), supervised) for size in sizes]


def trained(
    base: Path, alpha: float | None, round_: int = 1, **model: Any
) -> tuple[Arrays, dict[str, float], Any]:
    plan = config(base, model=model, training={"neftune": alpha}, rounds={"local_epochs": 1})
    loaded, _ = load(plan.model, plan.seed)
    shard = Shard("a", tuple(examples(30, 9, 17, 40, 22)), ())
    metrics = train_local(loaded, shard, plan, round_, 1e-2, 0)
    return get_arrays(loaded), metrics, loaded


def embedded(model: Any, ids: Tensor) -> Tensor:
    return model.get_input_embeddings()(ids).detach()


def test_each_sample_has_the_noise_of_its_own_length(base_folder: Path) -> None:
    model, _ = load(config(base_folder).model, 0)
    model.train()
    alpha, d = 5.0, 32
    ids, labels = collate(examples(300, 20, 100, supervised=4), 0, torch.device("cpu"))
    plain = embedded(model, ids)
    torch.manual_seed(0)
    with noisy_embeddings(model, alpha) as noise:
        assert noise is not None
        noise.labels = labels
        found = embedded(model, ids) - plain
    for row, length in enumerate((300, 20, 100)):
        most = alpha / math.sqrt(length * d)
        own = found[row, :length].flatten().numpy() / most
        assert np.abs(own).max() <= 1 + 1e-5
        assert stats.kstest(own, "uniform", (-1, 2)).pvalue > 1e-3


def test_without_padding_it_is_transformers_own(base_folder: Path) -> None:
    model, _ = load(config(base_folder).model, 0)
    model.train()
    ids, labels = collate(examples(25, 25), 0, torch.device("cpu"))
    torch.manual_seed(3)
    with noisy_embeddings(model, 7.0) as noise:
        assert noise is not None
        noise.labels = labels
        ours = embedded(model, ids)
    layer = model.get_input_embeddings()
    layer.neftune_noise_alpha = 7.0
    handle = layer.register_forward_hook(neftune_post_forward_hook)
    torch.manual_seed(3)
    theirs = embedded(model, ids)
    handle.remove()
    torch.testing.assert_close(ours, theirs)
    assert float((ours - embedded(model, ids)).abs().max()) > 0.1


def test_lengths_are_the_samples_own_where_the_prompt_carries_no_loss() -> None:
    _, labels = collate(examples(12, 5, 30, supervised=3), 0, torch.device("cpu"))
    assert lengths_of(labels).tolist() == [12, 5, 30]


@pytest.mark.parametrize("model", METHODS)
def test_training_has_it_and_nothing_is_left(base_folder: Path, model: dict[str, Any]) -> None:
    plain, without, _ = trained(base_folder, None, **model)
    torch.manual_seed(99)  # what ran before must not matter
    noisy, loss, made = trained(base_folder, 5.0, **model)
    again, same, _ = trained(base_folder, 5.0, **model)
    assert all(noisy[n].tobytes() == again[n].tobytes() for n in noisy)
    assert loss["loss"] == same["loss"] != without["loss"]
    assert any(noisy[n].tobytes() != plain[n].tobytes() for n in plain)
    other, _, _ = trained(base_folder, 5.0, round_=2, **model)
    assert any(noisy[n].tobytes() != other[n].tobytes() for n in noisy)
    # evaluation, and even a forward pass in training mode, knows nothing of it
    ids = torch.arange(3, 40)[None]
    clean, _ = load(config(base_folder, model=model).model, 0)
    with torch.no_grad():
        for name, parameter in clean.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.from_numpy(noisy[name]))
    for mode in (False, True):
        logits = [m.train(mode)(input_ids=ids).logits for m in (made, clean)]
        assert torch.equal(logits[0], logits[1])


def test_in_evaluation_mode_the_hook_is_silent(base_folder: Path) -> None:
    model, _ = load(config(base_folder).model, 0)
    ids, labels = collate(examples(25), 0, torch.device("cpu"))
    plain = embedded(model.eval(), ids)
    with noisy_embeddings(model, 50.0) as noise:
        assert noise is not None
        noise.labels = labels
        assert torch.equal(embedded(model, ids), plain)
        assert not torch.equal(embedded(model.train(), ids), plain)


def test_an_error_takes_the_hook_off_too(base_folder: Path) -> None:
    plan = config(base_folder, training={"neftune": 5.0})
    model, _ = load(plan.model, plan.seed)
    hooks = dict(model.get_input_embeddings()._forward_hooks)
    with torch.no_grad():
        next(p for p in model.parameters() if p.requires_grad)[0, 0] = math.nan
    with pytest.raises(RunError, match="loss is nan"):
        train_local(model, Shard("a", tuple(examples(20, 20)), ()), plan, 1, 1e-3, 0)
    assert dict(model.get_input_embeddings()._forward_hooks) == hooks


@pytest.mark.parametrize("alpha", [0, -1, float("nan"), float("inf"), "much"])
def test_an_alpha_out_of_range_is_refused(alpha: Any) -> None:
    with pytest.raises(ValueError, match="neftune"):
        config(Path("nowhere"), training={"neftune": alpha})
