"""Causal language-model losses over right-padded batches.

Padding stands on the right, so under causal attention no real token ever sees it: no attention
mask is needed, and the fast attention kernels stay in use.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

IGNORE = -100


def token_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Negative log-likelihood of every label: [B, T, V], [B, T] -> [B, T-1]; 0 where ignored."""
    flat = F.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE, reduction="none"
    )
    return flat.view(labels.shape[0], -1)


def causal_lm_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean NLL over the batch's supervised tokens, in nats (a scalar)."""
    return F.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE
    )
