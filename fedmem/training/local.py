"""A client's local training of one round: plain optimisation, in place, from the global model."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from hashlib import blake2b
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from fedmem.config import Config
from fedmem.data.records import Shard
from fedmem.errors import RunError
from fedmem.model import precision
from fedmem.training.batches import collate, epochs
from fedmem.training.loss import token_losses
from fedmem.training.neftune import Noise, noisy_embeddings
from fedmem.training.objectives import objective


def steps_per_round(config: Config, examples: int) -> int:
    """Optimizer steps of one round; each takes `accumulation` micro-batches."""
    if config.rounds.local_steps:
        return config.rounds.local_steps
    batches = math.ceil(examples / config.training.batch_size) * (config.rounds.local_epochs or 1)
    return math.ceil(batches / config.training.accumulation)


def rate(config: Config, step: int, total: int) -> float:
    """The schedule's factor at `step` of `total` (of the whole run), after a linear warm-up."""
    warm = config.training.warmup_steps
    if step < warm:
        return (step + 1) / warm
    progress = (step - warm) / max(1, total - warm)
    if config.training.schedule == "linear":
        return 1.0 - progress
    if config.training.schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * progress))
    return 1.0


def make_optimizer(config: Config, model: Any, lr: float) -> torch.optim.Optimizer:
    """AdamW or SGD over the trainable parameters, with empty state."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    t = config.training
    if t.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=lr, momentum=t.momentum, weight_decay=t.weight_decay)
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=t.weight_decay, fused=True)


def seed_of(seed: int, client: str, round_: int) -> int:
    """The seed of one client's turn in one round, for torch."""
    digest = blake2b(f"{seed}/{client}/{round_}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def train_local(
    model: Any, shard: Shard, config: Config, round_: int, lr: float, pad: int
) -> dict[str, float]:
    """Train `model` in place on the shard; returns loss (nats a token), tokens, steps, seconds.

    The optimizer starts afresh (clients keep no state); the schedule goes on over the rounds.
    Order, dropout and noise depend on (seed, client, round) only. `loss` is the mean over `tokens`,
    those that carried loss; `dropped` is the share of supervised tokens that the objective left out
    (Goldfish only). `grad_norm` is the mean norm before clipping, `grad_clipped` the share of steps
    that were clipped (max_grad_norm only; of steps with a finite norm). In float16 a step whose
    scaled gradients overflow is left out and counted in `skipped`. Raises RunError on a loss that
    is not finite, and where every step was left out, naming client, round and step.
    """
    with noisy_embeddings(model, config.training.neftune) as noise:
        if config.training.dp is not None:
            from fedmem.training.dpsgd import train_private  # which loads Opacus

            return train_private(model, shard, config, round_, lr, pad, noise)
        return _train(model, shard, config, round_, lr, pad, noise)


def _train(
    model: Any, shard: Shard, config: Config, round_: int, lr: float, pad: int, noise: Noise | None
) -> dict[str, float]:
    started = time.perf_counter()
    t = config.training
    choose = objective(t.objective)
    steps = steps_per_round(config, len(shard.examples))
    device = next(model.parameters()).device
    optimizer = make_optimizer(config, model, lr)
    parameters = [p for p in model.parameters() if p.requires_grad]
    received = [p.detach().clone() for p in parameters] if config.aggregation.prox else []
    seed = f"{config.seed}/{shard.client}/{round_}"
    torch.manual_seed(seed_of(config.seed, shard.client, round_))
    count = None if config.rounds.local_steps else config.rounds.local_epochs or 1
    batches = epochs(shard.lengths, t.batch_size, seed, count)
    scaler = precision.scaler(config.model.dtype, device)

    model.train()
    total_loss = total_tokens = supervised = 0.0
    skipped = 0
    norms: list[float] = []
    for step in range(steps):
        micro = [
            collate([shard.examples[i] for i in batch], pad, device)
            for batch in islice(batches, t.accumulation)
        ]
        # every token of the step weighs the same, however the step is cut into micro-batches
        supervised += sum(carrying(labels) for _, labels in micro)
        asked = [choose.labels(ids, labels) for ids, labels in micro]
        tokens = sum(carrying(labels) for labels in asked)
        factor = rate(config, (round_ - 1) * steps + step, config.rounds.count * steps)
        for group in optimizer.param_groups:
            group["lr"] = lr * factor
        optimizer.zero_grad(set_to_none=True)
        step_loss = 0.0
        for (ids, labels), wanted in zip(micro, asked, strict=True):
            if noise is not None:
                noise.labels = labels
            logits = model(input_ids=ids, use_cache=False).logits.float()
            loss = token_losses(logits, wanted).sum() / max(1, tokens)
            (loss if scaler is None else scaler.scale(loss)).backward()
            step_loss += loss.item()
        if not math.isfinite(step_loss):
            raise RunError(
                f"client {shard.client}, round {round_}: the loss is {step_loss} at step "
                f"{step + 1} of {steps}; lower training.lr ({lr:g})"
                + (", or set model.dtype=bfloat16" if scaler is not None else "")
            )
        if scaler is not None:
            scaler.unscale_(optimizer)
        # FedProx (Li et al. 2020, eq. 2): the gradient of mu/2 |w - w_received|^2
        for parameter, start in zip(parameters, received, strict=False):  # none without prox
            assert parameter.grad is not None
            parameter.grad.add_(parameter.detach() - start, alpha=config.aggregation.prox)
        if t.max_grad_norm is not None:
            norms.append(torch.nn.utils.clip_grad_norm_(parameters, t.max_grad_norm).item())
        if scaler is None:
            optimizer.step()
        else:
            before = scaler.get_scale()
            scaler.step(optimizer)  # does nothing where a gradient overflowed
            scaler.update()
            skipped += scaler.get_scale() < before
        total_loss += step_loss * tokens
        total_tokens += tokens
    model.eval()
    optimizer.zero_grad(set_to_none=True)
    if steps and skipped == steps:
        raise RunError(
            f"client {shard.client}, round {round_}: the gradients overflowed in each of {steps} "
            "steps; set model.dtype=bfloat16"
        )
    more: dict[str, float] = {}
    if t.objective.kind != "causal_lm":
        more["dropped"] = 1 - total_tokens / max(1.0, supervised)
    if t.max_grad_norm is not None:
        more |= clipping(norms, t.max_grad_norm)
    if scaler is not None:
        more["skipped"] = float(skipped)
    return {
        "num-examples": float(len(shard.examples)),
        "loss": total_loss / max(1.0, total_tokens),
        "tokens": total_tokens,
        "steps": float(steps),
        **more,
        "seconds": time.perf_counter() - started,
    }


def carrying(labels: Tensor) -> int:
    """Tokens that carry loss; a first token is never predicted."""
    return int((labels[:, 1:] >= 0).sum())


def clipping(norms: Sequence[float], limit: float) -> dict[str, float]:
    """What clipping did, over steps whose gradient norm (before clipping) was finite."""
    finite = [norm for norm in norms if math.isfinite(norm)]
    steps = max(1, len(finite))
    return {
        "grad_norm": math.fsum(finite) / steps,
        "grad_clipped": sum(norm > limit for norm in finite) / steps,
    }
