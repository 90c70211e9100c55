"""Local training: what a step is, the schedule, the seed, and a loss that is not finite."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import config

from fedmem.config import Config
from fedmem.data.records import Example, Shard
from fedmem.errors import RunError
from fedmem.model.base import load
from fedmem.model.state import Arrays, get_arrays, set_arrays
from fedmem.training.batches import collate
from fedmem.training.local import clipping, make_optimizer, rate, steps_per_round, train_local
from fedmem.training.loss import causal_lm_loss


def examples(count: int, seed: int = 0, supervised: int = 1) -> tuple[Example, ...]:
    rng = np.random.default_rng(seed)
    return tuple(
        Example(rng.integers(3, 380, size=int(size)).astype(np.int32), supervised)
        for size in rng.integers(8, 30, size=count)
    )


def trained(
    base: Path, shard: Shard, round_: int = 1, lr: float = 1e-2, **sections: Any
) -> tuple[Arrays, dict[str, float]]:
    plan = config(base, **sections)
    model, _ = load(plan.model, plan.seed)
    metrics = train_local(model, shard, plan, round_, lr, 0)
    return get_arrays(model), metrics


def plan_of(base: Path = Path("nowhere"), **training: Any) -> Config:
    return config(base, training=training)


@pytest.mark.parametrize(
    ("rounds", "training", "steps"),
    [
        ({"local_epochs": 1}, {"batch_size": 4}, 3),
        ({"local_epochs": 3}, {"batch_size": 4}, 9),
        ({}, {"batch_size": 4}, 3),
        ({"local_epochs": 1}, {"batch_size": 4, "accumulation": 2}, 2),  # 2 batches, then 1
        ({"local_epochs": 1}, {"batch_size": 100}, 1),
        ({"local_steps": 7}, {"batch_size": 4, "accumulation": 2}, 7),
    ],
)
def test_steps_of_a_round(
    base_folder: Path, rounds: dict[str, int], training: dict[str, int], steps: int
) -> None:
    shard = Shard("a", examples(10), ())
    assert steps_per_round(config(base_folder, rounds=rounds, training=training), 10) == steps
    _, metrics = trained(base_folder, shard, rounds=rounds, training=training)
    assert metrics["steps"] == steps and metrics["num-examples"] == 10
    if "local_steps" not in rounds:
        epochs = rounds.get("local_epochs", 1)
        assert metrics["tokens"] == epochs * sum(len(e.ids) - 1 for e in shard.examples)


def test_the_schedule_by_hand() -> None:
    constant = [rate(plan_of(schedule="constant"), step, 4) for step in range(4)]
    linear = [rate(plan_of(schedule="linear"), step, 4) for step in range(4)]
    cosine = [rate(plan_of(schedule="cosine"), step, 4) for step in range(4)]
    assert constant == [1, 1, 1, 1]
    assert linear == [1, 0.75, 0.5, 0.25]
    root = math.sqrt(0.5)
    assert cosine == pytest.approx([1, (1 + root) / 2, 0.5, (1 - root) / 2])
    warm = [rate(plan_of(schedule="linear", warmup_steps=2), step, 6) for step in range(6)]
    assert warm == [0.5, 1, 1, 0.75, 0.5, 0.25]
    # a run shorter than its warm-up ends in it
    assert [rate(plan_of(warmup_steps=8), step, 4) for step in range(4)] == [
        1 / 8,
        2 / 8,
        3 / 8,
        4 / 8,
    ]


def test_the_schedule_goes_on_over_the_rounds(base_folder: Path) -> None:
    # one step a round, plain SGD: the change is the rate times the same gradient
    shard = Shard("a", examples(4), ())
    rounds = {"count": 4, "local_steps": 1}
    training = {"optimizer": "sgd", "schedule": "linear", "batch_size": 4, "max_grad_norm": None}
    sections: dict[str, Any] = {
        "rounds": rounds,
        "training": training,
        "model": {"method": "full"},
    }
    model, _ = load(config(base_folder, **sections).model, 0)
    before = get_arrays(model)
    changes = []
    for round_ in (1, 2, 3, 4):
        after, _ = trained(base_folder, shard, round_, 0.1, **sections)
        changes.append(math.sqrt(sum(float(((after[n] - before[n]) ** 2).sum()) for n in before)))
    assert [change / changes[0] for change in changes] == pytest.approx([1, 0.75, 0.5, 0.25], 1e-3)


@pytest.mark.parametrize(("optimizer", "lr"), [("sgd", 1.0), ("adamw", 1e-2)])
def test_accumulation_equals_one_larger_batch(base_folder: Path, optimizer: str, lr: float) -> None:
    # lengths differ, so micro-batches hold different numbers of tokens
    shard = Shard("a", examples(8), ())
    sections: dict[str, Any] = {"rounds": {"local_epochs": 3}, "model": {"method": "full"}}
    before = get_arrays(load(config(base_folder, **sections).model, 0)[0])
    results = []
    for batch_size, accumulation in ((8, 1), (4, 2), (2, 4)):
        training = {"batch_size": batch_size, "accumulation": accumulation, "optimizer": optimizer}
        results.append(trained(base_folder, shard, lr=lr, training=training, **sections))
    (whole, metrics), *parts = results
    moved = max(float(np.abs(array - before[name]).max()) for name, array in whole.items())
    for arrays, others in parts:
        assert others["loss"] == pytest.approx(metrics["loss"], abs=1e-4)
        assert others["steps"] == metrics["steps"] == 3
        apart = max(float(np.abs(array - whole[name]).max()) for name, array in arrays.items())
        assert apart < 1e-2 * moved


def test_the_same_seed_gives_the_same_bytes(base_folder: Path) -> None:
    shard = Shard("a", examples(10), ())
    lora = {"model": {"lora": {"r": 4, "dropout": 0.2}}, "training": {"batch_size": 3}}
    first, one = trained(base_folder, shard, **lora)
    torch.manual_seed(99)  # what ran before must not matter
    again, two = trained(base_folder, shard, **lora)
    assert all(first[name].tobytes() == again[name].tobytes() for name in first)
    assert one["loss"] == two["loss"]
    for changed in ({"seed": 1}, {"round_": 2}):
        other, _ = trained(base_folder, shard, **lora, **changed)
        assert any(first[name].tobytes() != other[name].tobytes() for name in first)
    elsewhere, _ = trained(base_folder, Shard("b", shard.examples, ()), **lora)
    assert any(first[name].tobytes() != elsewhere[name].tobytes() for name in first)


def test_what_stands_before_supervised_carries_no_loss(base_folder: Path) -> None:
    plan = config(base_folder, rounds={"local_epochs": 1}, training={"batch_size": 4})
    whole, answers = examples(4), examples(4, supervised=6)
    _, all_tokens = trained(base_folder, Shard("a", whole, ()))
    _, some = trained(base_folder, Shard("a", answers, ()))
    assert some["tokens"] == sum(len(e.ids) - 6 for e in answers)
    assert all_tokens["tokens"] == some["tokens"] + 4 * 5
    # the loss before the first step, by hand
    model, _ = load(plan.model, plan.seed)
    total = 0.0
    with torch.inference_mode():
        for example in answers:
            ids = torch.from_numpy(example.ids).long()
            logprobs = model.eval()(input_ids=ids[None]).logits[0].double().log_softmax(-1)
            total -= sum(float(logprobs[t - 1, ids[t]]) for t in range(6, len(ids)))
    assert some["loss"] == pytest.approx(total / some["tokens"], abs=1e-5)


def test_a_loss_that_is_not_finite_names_client_round_and_step(base_folder: Path) -> None:
    plan = config(base_folder, rounds={"count": 5, "local_steps": 3})
    model, _ = load(plan.model, plan.seed)
    with torch.no_grad():
        next(p for p in model.parameters() if p.requires_grad)[0, 0] = math.nan
    with pytest.raises(RunError, match=r"client a, round 4: the loss is nan at step 1 of 3"):
        train_local(model, Shard("a", examples(4), ()), plan, 4, 1e-3, 0)


def test_a_rate_far_too_high_is_said_so(base_folder: Path) -> None:
    training = {"optimizer": "sgd", "max_grad_norm": None, "schedule": "constant"}
    with pytest.raises(RunError, match=r"client a, round 1: the loss is .* lower training\.lr"):
        trained(
            base_folder,
            Shard("a", examples(8), ()),
            lr=1e6,
            rounds={"local_steps": 20},
            training=training,
            model={"method": "full"},
        )


def test_clients_keep_no_optimizer_state_and_the_model_ends_in_eval(base_folder: Path) -> None:
    plan = config(base_folder)
    model, _ = load(plan.model, plan.seed)
    assert not make_optimizer(plan, model, 1e-3).state
    train_local(model, Shard("a", examples(4), ()), plan, 1, 1e-3, 0)
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    frozen = [p for n, p in model.named_parameters() if ".lora_" not in n]
    assert frozen and not any(parameter.requires_grad for parameter in frozen)


def test_fedprox_is_the_gradient_of_the_proximal_term(base_folder: Path) -> None:
    """Against a loop that lets autograd differentiate mu/2 |w - w_received|^2."""
    shard, mu, lr = Shard("a", examples(3), ()), 0.7, 0.05
    sections: dict[str, Any] = {
        "rounds": {"count": 1, "local_steps": 4},
        "training": {"optimizer": "sgd", "schedule": "constant", "max_grad_norm": None},
    }
    ours, _ = trained(base_folder, shard, lr=lr, aggregation={"prox": mu}, **sections)
    plain, _ = trained(base_folder, shard, lr=lr, **sections)

    plan = config(base_folder, **sections)
    model, _ = load(plan.model, plan.seed)
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    received = {n: p.detach().clone() for n, p in trainable.items()}
    ids, labels = collate(shard.examples, 0, torch.device("cpu"))
    model.train()
    for _ in range(4):
        loss = causal_lm_loss(model(input_ids=ids).logits, labels)
        near = sum(((p - received[n]) ** 2).sum() for n, p in trainable.items())
        (loss + mu / 2 * near).backward()
        with torch.no_grad():
            for p in trainable.values():
                assert p.grad is not None
                p -= lr * p.grad
                p.grad = None
    far = max(float(np.abs(ours[n] - plain[n]).max()) for n in ours)
    apart = max(float(np.abs(ours[n] - p.detach().numpy()).max()) for n, p in trainable.items())
    assert apart < 1e-6 < 1e-4 < far


def test_dropout_works_in_training_alone(base_folder: Path) -> None:
    shard = Shard("a", examples(10), ())
    lora = {"r": 4, "dropout": 0.3}
    plain, without = trained(base_folder, shard)
    dropped, metrics = trained(base_folder, shard, model={"lora": lora})
    assert metrics["loss"] != without["loss"]
    assert any(plain[name].tobytes() != dropped[name].tobytes() for name in plain)
    # what is scored is the whole adapter: the same logits as from a model that knows no dropout
    ids = torch.arange(3, 40)[None]
    logits = []
    for section in (lora, {"r": 4}):
        model, _ = load(config(base_folder, model={"lora": section}).model, 0)
        set_arrays(model, dropped)
        logits.append(model.eval()(input_ids=ids).logits)
    assert torch.equal(*logits)


@pytest.mark.parametrize("r", [1, 2, 8])
def test_an_update_has_at_most_the_rank(base_folder: Path, r: int) -> None:
    arrays, _ = trained(base_folder, Shard("a", examples(6), ()), model={"lora": {"r": r}})
    for name, a in arrays.items():
        if ".lora_A." in name:
            b = arrays[name.replace(".lora_A.", ".lora_B.")].astype(np.float64)
            assert a.shape[0] == b.shape[1] == r
            assert np.linalg.matrix_rank(b @ a.astype(np.float64)) == min(r, *a.shape, *b.shape)


@pytest.mark.parametrize("norm", [1.0, 0.1, 0.01, 1e-3, 1e-4, 1e-5])
def test_clipping_bounds_every_step_of_sgd(base_folder: Path, norm: float) -> None:
    """The grid of Bossy et al. (2026): SGD, 4 epochs, the batch's gradient norm clipped."""
    shard, lr = Shard("a", examples(6), ()), 0.5
    settings = {"optimizer": "sgd", "schedule": "constant", "batch_size": 6}
    sections: dict[str, Any] = {"model": {"method": "full"}, "rounds": {"local_steps": 1}}
    before = get_arrays(load(config(base_folder, **sections).model, 0)[0])

    def moved(after: Arrays) -> float:
        return math.sqrt(
            sum(float(((after[n].astype(np.float64) - before[n]) ** 2).sum()) for n in before)
        )

    after, metrics = trained(
        base_folder, shard, lr=lr, training={**settings, "max_grad_norm": norm}, **sections
    )
    free, none = trained(
        base_folder, shard, lr=lr, training={**settings, "max_grad_norm": None}, **sections
    )
    assert "grad_norm" not in none and "grad_clipped" not in none
    assert metrics["grad_norm"] == pytest.approx(moved(free) / lr, rel=1e-3)  # before clipping
    assert metrics["grad_clipped"] == (metrics["grad_norm"] > norm)
    # float32 weights of 0.02 take steps of 1e-8 in jumps of 1e-9, hence the tolerance
    assert moved(after) == pytest.approx(lr * min(norm, metrics["grad_norm"]), rel=0.02)
    sections["rounds"] = {"local_epochs": 4}
    _, whole = trained(
        base_folder, shard, lr=lr, training={**settings, "max_grad_norm": norm}, **sections
    )
    assert whole["steps"] == 4


def test_norms_that_are_not_finite_are_left_out() -> None:
    assert clipping([1.0, math.inf, 3.0, math.nan], 2.0) == {"grad_norm": 2, "grad_clipped": 0.5}
    assert clipping([math.inf], 1.0) == {"grad_norm": 0, "grad_clipped": 0}
