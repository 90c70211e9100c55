"""Training objectives: which tokens a step learns from. The loss of a token is always its NLL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

from fedmem.config.objectives import CausalLM as CausalLMSettings
from fedmem.config.objectives import Goldfish as GoldfishSettings
from fedmem.training.goldfish import Goldfish


class Objective(Protocol):
    """Chooses among the supervised tokens, of each example by itself."""

    def labels(self, ids: Tensor, labels: Tensor) -> Tensor:
        """`labels` with IGNORE where the objective asks for no loss; both int64 [B, T]."""


class CausalLM:
    """Next-token prediction on every supervised token."""

    def labels(self, ids: Tensor, labels: Tensor) -> Tensor:
        """The labels as they are."""
        return labels


OBJECTIVES: dict[str, Callable[[Any], Objective]] = {
    "causal_lm": lambda settings: CausalLM(),
    "goldfish": Goldfish,
}


def objective(settings: CausalLMSettings | GoldfishSettings) -> Objective:
    """The objective that `training.objective` names."""
    return OBJECTIVES[settings.kind](settings)
