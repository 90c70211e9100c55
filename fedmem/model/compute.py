"""Floating-point operations of training and reading a model, counted from its outline.

A multiplication with a weight costs 2 operations a token and weight: once forward, once for the
gradient of the input, once for that of the weight, where it is trained. So full fine-tuning takes
6 N a token, LoRA 4 N + 6 of its own weights (Kaplan et al. 2020, arXiv 2001.08361, section 2.1).
Attention takes 4 w more a layer, token and token that is looked at, w its width, and twice that
backward; kernels that leave the masked half away take half of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from fedmem.model.outline import Outline


@dataclass(frozen=True)
class Work:
    """What a token is multiplied with: weights by fate, and attention.

    frozen, trained: weights of all products. head: those of the output layer among them.
    attention: sum over the layers of the width of their heads.
    """

    frozen: int
    trained: int
    head: int
    attention: int
    checkpointing: bool

    def reading(self, length: float) -> float:
        """Operations a token of a forward pass over sequences of `length` tokens."""
        return 2 * (self.frozen + self.trained) + 4 * self.attention * length

    def training(self, length: float) -> float:
        """Operations a token of forward and backward over sequences of `length` tokens."""
        forward = self.reading(length)
        # checkpointing computes the layers twice, the output layer once
        again = forward - 2 * self.head if self.checkpointing else 0.0
        return 3 * forward - 2 * self.frozen + again


def work(outline: Outline) -> Work:
    """The work of a model with what is trained attached. Embeddings are looked up: no product."""
    frozen = trained = 0
    seen: set[int] = set()  # PEFT's layers show the weight that they wrap as theirs
    for module in outline.model.modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, nn.Embedding) or not isinstance(weight, nn.Parameter):
            continue
        if weight.dim() == 2 and id(weight) not in seen:
            seen.add(id(weight))
            frozen += 0 if weight.requires_grad else weight.numel()
            trained += weight.numel() if weight.requires_grad else 0
    text: Any = outline.model.config.get_text_config()
    heads = text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    head = outline.model.get_output_embeddings().weight.numel()
    layers = text.num_hidden_layers
    checkpointing = outline.config.gradient_checkpointing
    return Work(frozen, trained, head, layers * heads * width, checkpointing)
