"""In which precision a model is held and computed. float32 is left exactly as it is.

Method lora: the frozen base is held in the dtype; PEFT computes the float32 adapters in float32.
Method full: the weights are float32 masters, and the forward pass runs under torch.autocast, also
in attacks and evaluation: what is attacked is the model as it was trained. Losses and scores are
computed from float32 copies of the logits in every case.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from fedmem.config import model as cfg

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# Losses of this size, unscaled, give float16 gradients of about 1e-4: far from both its ends. The
# default, 65536, overflows in the first steps, and a scaler lives for one round only.
FIRST_SCALE = 2.0**13


def held_in(model: cfg.Model) -> torch.dtype:
    """The dtype of the base's weights in memory."""
    return DTYPES[model.dtype] if model.method == "lora" else torch.float32


def run_in(model: Any, dtype: str) -> None:
    """Let the model's forward pass run under torch.autocast, whoever calls it."""
    if dtype == "float32":
        return
    plain = model.forward

    @functools.wraps(plain)
    def forward(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(model.device.type, DTYPES[dtype]):
            return plain(*args, **kwargs)

    model.forward = forward


def scaler(dtype: str, device: torch.device) -> torch.amp.GradScaler | None:
    """Dynamic loss scaling, which float16 alone needs: small gradients would round to zero.

    Micikevicius et al. 2018, "Mixed precision training", section 3.2.
    """
    if dtype != "float16":
        return None
    return torch.amp.GradScaler(device.type, init_scale=FIRST_SCALE)
