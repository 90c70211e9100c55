"""Goldfish loss (Hans et al. 2024, "Be like a Goldfish, Don't Memorize!", section 3).

About one token in k carries no loss, always the same ones: what is never asked for is not learned
by heart, and a passage given back from memory goes wrong there.

- `static`: the tokens at k, 2k, 3k, ... of an example (BOS, or the first token, is 0). Copies of a
  note are equal examples and lose the same tokens; the same passage elsewhere loses others.
- `hashed`: the tokens whose `context` predecessors hash into the lowest k-th of all values. The
  token itself is not hashed (the paper's definition; its authors' code counts it in, as the last
  of the `context`). The hash is fixed: equal for every client, round, process and device.

A token with fewer than `context` predecessors in its example keeps its loss under `hashed`, as in
the paper and its authors' code: what stands before an example's first tokens are the form's words,
so a hash of them would decide for all notes at once. What stands there is not protected; a smaller
`context` leaves less of it. In a pack the predecessors are the pack's (notes are never packed).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedmem.config.objectives import Goldfish as Settings
from fedmem.training.loss import IGNORE

PRIME = 2**31 - 1
# any large numbers below PRIME would do; the products stay under 2^63, so that no device overflows
BASE = 1_103_515_245
MIX = 1_640_531_527


@dataclass(frozen=True)
class Goldfish:
    """The objective; see the module."""

    settings: Settings

    def labels(self, ids: Tensor, labels: Tensor) -> Tensor:
        """`labels` with IGNORE at the dropped tokens; a new tensor. Both int64 [B, T]."""
        return labels.masked_fill(self.dropped(ids), IGNORE)

    def dropped(self, ids: Tensor) -> Tensor:
        """Where the loss is left out, supervised or not: int64 [B, T] -> bool [B, T]."""
        k, context = self.settings.k, self.settings.context
        width = ids.shape[1]
        if self.settings.strategy == "static":
            positions = torch.arange(width, device=ids.device)
            return ((positions % k == 0) & (positions > 0)).expand_as(ids)
        found = torch.zeros_like(ids, dtype=torch.bool)
        if width > context:
            found[:, context:] = hashes(ids, context)[:, :-1] * k < PRIME
        return found


def hashes(ids: Tensor, width: int) -> Tensor:
    """A hash of every `width` ids in a row, 0 to PRIME - 1: int64 [B, T] -> [B, T - width + 1].

    The polynomial sum of (id + 1) BASE^(width - 1 - j) modulo PRIME, then mixed: x + (x >> 15)
    times MIX, twice, for contexts that differ in one id must not give neighbouring values.
    """
    count = ids.shape[1] - width + 1
    value = torch.zeros_like(ids[:, :count])
    for start in range(width):
        value = (value * BASE + ids[:, start : start + count] + 1) % PRIME
    for _ in range(2):
        value = (value + (value >> 15)) * MIX % PRIME
    return value
