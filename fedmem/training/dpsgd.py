"""DP-SGD at one client: each unit's gradient clipped, their sum under noise (Abadi et al. 2016).

Per-sample gradients, clipping and noise are Opacus'; sampling is in `dp_sampling`. An example's
gradient is that of the mean over its own supervised tokens: nothing in it depends on the others.
"""

from __future__ import annotations

import math
import time
import warnings
from typing import Any

import torch
from torch import Tensor

from fedmem.config import Config
from fedmem.data.records import Shard
from fedmem.errors import ConfigError, RunError
from fedmem.training.batches import collate
from fedmem.training.dp_sampling import generators, physical_batches, plan, units_of
from fedmem.training.local import carrying, make_optimizer, rate, seed_of
from fedmem.training.loss import token_losses
from fedmem.training.neftune import Noise
from fedmem.training.objectives import objective

AGREE = 0.02  # per-sample gradients must add up to the batch's, in bfloat16 too
UNFIT = {"lora_magnitude_vector": "DoRA", "lora_embedding_": "LoRA on embeddings"}


def train_private(
    model: Any, shard: Shard, config: Config, round_: int, lr: float, pad: int, noise: Noise | None
) -> dict[str, float]:
    """As `train_local`, with DP-SGD; `noise` is NEFTune's.

    Of the metrics `dp_noise_multiplier`, `dp_sample_rate` and `dp_steps` are the accountant's (a
    step on an empty sample is noise alone, and counts), `dp_units`, `dp_largest` and `dp_holders`
    say whom they hold for. Figures that depend on the records (`loss`, `tokens`, `dp_empty`,
    `dp_clipped`: share of gradients above the norm, `dp_norm`: their mean before clipping) are left
    out in deployment, where they would leave the client beside the epsilon, and so are `seconds`.

    Raises ConfigError for what Opacus cannot do, naming it; RunError for numbers not finite.
    """
    from opacus.grad_sample import GradSampleHooks
    from opacus.optimizers import DPOptimizer

    started = time.perf_counter()
    t, dp = config.training, config.training.dp
    assert dp is not None
    refuse(model)
    units, step_of = units_of(shard, dp.unit), plan(config, shard)
    steps, device = step_of.steps, next(model.parameters()).device
    parameters = [p for p in model.parameters() if p.requires_grad]
    received = [p.detach().clone() for p in parameters] if config.aggregation.prox else []
    torch.manual_seed(seed_of(config.seed, shard.client, round_))
    sampling, noising = generators(config, shard.client, round_, device)
    choose, where = objective(t.objective), f"client {shard.client}, round {round_}"
    physical, lengths = dp.physical_batch_size or t.batch_size, shard.lengths

    model.train()
    try:
        hooks = GradSampleHooks(model, loss_reduction="sum")
    except NotImplementedError as error:
        raise ConfigError(f"training.dp: Opacus: {' '.join(str(error).split())[:300]}") from None
    optimizer = make_optimizer(config, model, lr)
    private = DPOptimizer(
        optimizer,
        noise_multiplier=step_of.noise_multiplier,
        max_grad_norm=dp.max_grad_norm,
        expected_batch_size=step_of.sample_rate * len(units),
        generator=noising,
    )
    seen = Seen()
    try:
        for step in range(steps):
            drawn = units.draw(step_of.sample_rate, sampling)
            batches = physical_batches(drawn, lengths[drawn], physical)
            factor = rate(config, (round_ - 1) * steps + step, config.rounds.count * steps)
            for group in optimizer.param_groups:
                group["lr"] = lr * factor
            private.zero_grad(set_to_none=True)
            for number, batch in enumerate(batches):
                ids, labels = collate([shard.examples[i] for i in batch], pad, device)
                if noise is not None:
                    noise.labels = labels
                asked = choose.labels(ids, labels)
                losses = backward(model, ids, asked)
                if not seen.checked:
                    check(model, len(batch))
                for p in parameters:  # norms in float32, or the clip norm would not hold
                    p.grad_sample = p.grad_sample.to(p.dtype)
                if not seen.add(losses, asked, parameters, dp.max_grad_norm):
                    raise RunError(
                        f"{where}: a record's loss or gradient is not finite at step {step + 1} of "
                        f"{steps}; lower training.lr ({lr:g})"
                    )
                if number + 1 < len(batches):
                    private.signal_skip_step()
                    private.pre_step()  # clips, adds up, and waits for the rest of the sample
                    private.zero_grad(set_to_none=True)
            if not batches:
                seen.empty += 1
                for p in parameters:
                    p.grad_sample = p.new_zeros((0, *p.shape))
            private.pre_step()
            # FedProx: of the model alone, so it may come behind the noise
            for p, start in zip(parameters, received, strict=False):  # none without prox
                assert p.grad is not None
                p.grad.add_(p.detach() - start, alpha=config.aggregation.prox)
            optimizer.step()
    finally:
        hooks.cleanup()
        for p in parameters:
            p.__dict__.pop("summed_grad", None)
        model.eval()
        optimizer.zero_grad(set_to_none=True)
    told = {
        "num-examples": float(len(shard.examples)),
        "steps": float(steps),
        "dp_noise_multiplier": step_of.noise_multiplier,
        "dp_sample_rate": step_of.sample_rate,
        "dp_steps": float(steps),
        "dp_units": float(len(units)),
        "dp_largest": float(units_of(shard, "record").largest),
        "dp_holders": float(shard.holders),
    }
    if config.engine.kind != "deployment":
        told |= seen.figures() | {"seconds": time.perf_counter() - started}
    return told


def backward(model: Any, ids: Tensor, labels: Tensor) -> Tensor:
    """Per-sample gradients into `grad_sample` of each parameter; returns losses [B, T - 1], nats.

    An example's loss is the mean over its own tokens; the batch's is their sum.
    """
    with warnings.catch_warnings():
        # token ids carry no gradient: nothing is lost where the first layer's inputs have none
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        losses = token_losses(model(input_ids=ids, use_cache=False).logits.float(), labels)
        tokens = (labels[:, 1:] >= 0).sum(1).clamp(min=1)
        (losses.sum(1) / tokens).sum().backward()
    return losses.detach()


class Seen:
    """What a round's steps saw of the records: figures for people, outside every epsilon."""

    def __init__(self) -> None:
        self.checked = False
        self.loss = self.tokens = self.norms = 0.0
        self.samples = self.clipped = self.empty = 0

    def add(self, losses: Tensor, labels: Tensor, parameters: list[Any], norm: float) -> bool:
        """Count a batch; whether its losses and gradients are finite."""
        each = [p.grad_sample.flatten(1).norm(dim=1) for p in parameters]
        norms = torch.stack(each).norm(dim=0)
        total = float(losses.sum())
        self.checked = True
        self.loss, self.tokens = self.loss + total, self.tokens + carrying(labels)
        self.norms, self.samples = self.norms + float(norms.sum()), self.samples + len(norms)
        self.clipped += int((norms > norm).sum())
        return math.isfinite(total) and bool(torch.isfinite(norms).all())

    def figures(self) -> dict[str, float]:
        """Means over tokens or samples; empty samples have none."""
        samples = max(1, self.samples)
        return {
            "loss": self.loss / max(1.0, self.tokens),
            "tokens": self.tokens,
            "dp_empty": float(self.empty),
            "dp_norm": self.norms / samples,
            "dp_clipped": self.clipped / samples,
        }


# --- what Opacus cannot do ------------------------------------------------------------------


def refuse(model: Any) -> None:
    """ConfigError for parts of a model whose per-sample gradients are known to be wrong."""
    for name, parameter in model.named_parameters():
        for mark, what in UNFIT.items():
            if mark in name and parameter.requires_grad:
                raise ConfigError(
                    f"training.dp: Opacus has no per-sample gradients for {what} ({name})"
                )
    for module in model.modules():
        if getattr(module, "gradient_checkpointing", False):
            raise ConfigError(
                "training.dp: gradient checkpointing is on; Opacus would count a record's gradient "
                "twice: switch it off"
            )


def check(model: Any, rows: int) -> None:
    """Per-sample gradients must be one a row and add up to what autograd found for the batch.

    Catches layers that mix or share examples in ways Opacus' hooks do not see (experts, positions
    looked up once a batch). Raises ConfigError naming the weight.
    """
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        samples, whole = getattr(parameter, "grad_sample", None), parameter.grad
        fits = samples is not None and whole is not None and len(samples) == rows
        if samples is not None and whole is not None and fits:
            off = float((samples.float().sum(0) - whole.float()).norm())
            fits = off <= AGREE * float(whole.float().norm()) + 1e-8 or not math.isfinite(off)
        if not fits:
            raise ConfigError(
                f"training.dp: Opacus finds no right per-sample gradients of {name} in a "
                f"{type(model).__name__}; set model.method=lora, other model.lora.targets or "
                "another base"
            )
