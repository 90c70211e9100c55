"""NEFTune (Jain et al. 2023, algorithm 1): uniform noise on the input embeddings while training.

The noise of a sample of L tokens in d dimensions is alpha / sqrt(L d) times U(-1, 1). L is the
sample's own length, as in the paper's code: transformers' `neftune_post_forward_hook` takes the
padded batch's, so that there a sample's noise depends on whom it is batched with.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class Noise:
    """A forward hook of the embedding layer. `labels` must be set before each forward pass."""

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha
        self.labels: Tensor | None = None

    def __call__(self, layer: torch.nn.Module, inputs: Any, output: Tensor) -> Tensor:
        """The embeddings [B, T, d] with noise where the layer is in training mode."""
        if not layer.training:
            return output
        assert self.labels is not None
        lengths = lengths_of(self.labels).to(output.device, torch.float32)
        scale = self.alpha / torch.sqrt(lengths * output.shape[-1])
        noise = torch.empty_like(output, dtype=torch.float32).uniform_(-1, 1)
        return output + (noise * scale[:, None, None]).to(output.dtype)


def lengths_of(labels: Tensor) -> Tensor:
    """Tokens of each right-padded example, [B, T] -> [B]: its last one is always supervised."""
    places = torch.arange(1, labels.shape[1] + 1, device=labels.device)
    return (places * (labels >= 0)).amax(1).clamp(min=1)


@contextmanager
def noisy_embeddings(model: Any, alpha: float | None) -> Iterator[Noise | None]:
    """Noise on the model's input embeddings inside the `with`, none before or behind it.

    Gives None, and changes nothing, where `alpha` is None. Drawn from torch's global generator, as
    dropout is.
    """
    if alpha is None:
        yield None
        return
    noise = Noise(alpha)
    handle = model.get_input_embeddings().register_forward_hook(noise)
    try:
        yield noise
    finally:
        handle.remove()
