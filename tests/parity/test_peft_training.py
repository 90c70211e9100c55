"""A federation of one client against plain PEFT training, written here with transformers' loss."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from tiny import config
from torch.optim.lr_scheduler import LambdaLR
from transformers import AutoModelForCausalLM, get_cosine_schedule_with_warmup

from fedmem import workspace as workspaces
from fedmem.config import Config
from fedmem.data.records import Example
from fedmem.engine.inline import run_inline
from fedmem.model.base import load
from fedmem.model.state import get_arrays
from fedmem.training.batches import epochs
from fedmem.training.local import train_local
from fedmem.workspace import Workspace

ROUNDS, STEPS, BATCH, LR = 2, 5, 4, 5e-3


def one_client(base: Path, **training: Any) -> Config:
    source = {"kind": "synthetic", "adapter": "mixed", "records": 18}
    return config(
        base,
        data={"clients": [{"name": "a", "source": source}]},
        rounds={"count": ROUNDS, "local_steps": STEPS},
        training={"lr": LR, "batch_size": BATCH, "schedule": "cosine", **training},
        attack={"knowledge": ["own_prefix"], "attackers": []},
    )


def plain_model(base: Path) -> Any:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    torch.manual_seed(0)
    lora = LoraConfig(
        r=4, lora_alpha=8, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    return get_peft_model(model, lora)


def padded(examples: list[Example]) -> dict[str, torch.Tensor]:
    """As transformers' own collators pad: a mask, and -100 where there is no loss."""
    width = max(len(example.ids) for example in examples)
    rows: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": [], "labels": []}
    for example in examples:
        ids, rest = example.ids.tolist(), width - len(example.ids)
        rows["input_ids"].append(ids + [0] * rest)
        rows["attention_mask"].append([1] * len(ids) + [0] * rest)
        rows["labels"].append(
            [-100] * example.supervised + ids[example.supervised :] + [-100] * rest
        )
    return {name: torch.tensor(values) for name, values in rows.items()}


def trainable(model: Any) -> dict[str, torch.Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("loss_on", ["all", "answer"])
def test_one_client_is_plain_peft_training(base_folder: Path, loss_on: str) -> None:
    plan = one_client(base_folder, loss_on=loss_on)
    workspace = Workspace(plan)
    workspaces.keep(workspace)
    ours = run_inline(plan, lambda _: None)["global"]

    model = plain_model(base_folder).train()
    start = {name: p.detach().clone() for name, p in trainable(model).items()}
    examples = workspace.data.shards["a"].examples
    lengths = [len(example.ids) for example in examples]
    for round_ in range(1, ROUNDS + 1):
        # the optimizer starts afresh each round, the schedule goes on
        optimizer = torch.optim.AdamW(trainable(model).values(), lr=LR, weight_decay=0.0)
        schedule = get_cosine_schedule_with_warmup(optimizer, 0, ROUNDS * STEPS)
        assert isinstance(schedule, LambdaLR)
        batches = epochs(lengths, BATCH, f"0/a/{round_}", None)
        for step in range(STEPS):
            at = (round_ - 1) * STEPS + step
            optimizer.param_groups[0]["lr"] = LR * schedule.lr_lambdas[0](at)
            loss = model(**padded([examples[i] for i in next(batches)])).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trainable(model).values(), 1.0)
            optimizer.step()

    theirs = trainable(model)
    assert list(ours) == list(theirs)
    apart = max(float(np.abs(ours[n] - p.detach().numpy()).max()) for n, p in theirs.items())
    moved = max(float((p.detach() - start[n]).abs().max()) for n, p in theirs.items())
    assert moved > 1e-2
    assert apart < 1e-4


def test_in_float64_with_sgd_nothing_is_left_but_rounding(base_folder: Path) -> None:
    plan = one_client(
        base_folder, optimizer="sgd", momentum=0.9, weight_decay=0.01, schedule="linear"
    )
    shard = Workspace(plan).data.shards["a"]
    ours, _ = load(plan.model, plan.seed)
    start = {n: torch.from_numpy(a).double() for n, a in get_arrays(ours).items()}
    # B starts at zero, where A has no gradient: begin elsewhere
    generator = torch.Generator().manual_seed(1)
    start = {
        n: p + 0.05 * torch.randn(p.shape, generator=generator, dtype=torch.float64)
        for n, p in start.items()
    }
    ours, theirs = ours.double(), plain_model(base_folder).double().train()
    for model in (ours, theirs):
        with torch.no_grad():
            for name, parameter in trainable(model).items():
                parameter.copy_(start[name])

    lr = 0.5
    train_local(ours, shard, plan, 1, lr, 0)

    optimizer = torch.optim.SGD(trainable(theirs).values(), lr=lr, momentum=0.9, weight_decay=0.01)
    lengths = [len(example.ids) for example in shard.examples]
    batches = epochs(lengths, BATCH, "0/a/1", None)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = lr * (1 - step / (ROUNDS * STEPS))
        batch = padded([shard.examples[i] for i in next(batches)])
        labels = batch.pop("labels")
        # transformers' own loss rounds logits to float32: the same mean, without
        logits = theirs(**batch).logits[:, :-1]
        loss = F.cross_entropy(logits.transpose(1, 2), labels[:, 1:], ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable(theirs).values(), 1.0)
        optimizer.step()

    mine = trainable(ours)
    apart = max(float((mine[n] - p).abs().max().detach()) for n, p in trainable(theirs).items())
    moved = max(float((mine[n] - p).abs().max().detach()) for n, p in start.items())
    assert math.isfinite(moved) and moved > 1e-2
    assert apart < 1e-8
