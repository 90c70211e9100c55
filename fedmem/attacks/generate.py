"""Decoding with a key-value cache: prompts in batches, rows dropped once decided."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache

from fedmem.model.cache import caching

Keep = Callable[[int, list[int]], bool]  # (index of the prompt, tokens so far) -> go on?
Choose = Callable[[Tensor], Tensor]  # logits [B, V] -> the next token of each row [B]
Prompts = Sequence[NDArray[np.int32]]
ROWS, TOKENS = 64, 4096  # of a batch, at most


def most_likely(logits: Tensor) -> Tensor:
    """Greedy decoding's choice."""
    return logits.argmax(-1)


def greedy(model: Any, prompts: Prompts, tokens: int, keep: Keep | None = None) -> list[list[int]]:
    """The `tokens` most likely next tokens of every prompt, one after the other."""
    return generate(model, prompts, tokens, most_likely, keep)


def generate(
    model: Any, prompts: Prompts, tokens: int, choose: Choose, keep: Keep | None = None
) -> list[list[int]]:
    """The next `tokens` tokens of every prompt, each as `choose` has it.

    No penalties, no stop tokens. A row for which `keep` says no is not decoded further. Prompts of
    one length share a batch without padding; others are padded on the left and masked.
    """
    out: list[list[int]] = [[] for _ in prompts]
    for rows in _batches(prompts):
        _decode(model, prompts, rows, tokens, choose, keep, out)
    return out


def _batches(prompts: Prompts) -> Iterator[list[int]]:
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    batch: list[int] = []
    for index in order:
        full = len(batch) == ROWS or (len(batch) + 1) * len(prompts[index]) > TOKENS
        if batch and full:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _pad(prompts: Prompts, rows: list[int]) -> tuple[Tensor, Tensor | None]:
    """(ids, mask), int64 [B, T], padded on the left; no mask where all lengths are equal."""
    width = max(len(prompts[i]) for i in rows)
    ids = torch.zeros((len(rows), width), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, index in enumerate(rows):
        start = width - len(prompts[index])
        ids[row, start:] = torch.from_numpy(prompts[index]).long()
        mask[row, start:] = 1
    return ids, None if bool(mask.all()) else mask


def _decode(
    model: Any,
    prompts: Prompts,
    rows: list[int],
    tokens: int,
    choose: Choose,
    keep: Keep | None,
    out: list[list[int]],
) -> None:
    device = next(model.parameters()).device
    ids, mask = _pad(prompts, rows)
    mask = None if mask is None else mask.to(device)
    decode(model, DynamicCache(), ids.to(device), mask, rows, tokens, keep, out, choose)


def decode(
    model: Any,
    cache: DynamicCache,
    ids: Tensor,
    mask: Tensor | None,
    rows: list[int],
    tokens: int,
    keep: Keep | None,
    out: list[list[int]],
    choose: Choose = most_likely,
) -> None:
    """Append up to `tokens` tokens to out[row] for each of `rows`, reading on from `cache`.

    ids: int64 [B, T], what the cache has not read yet; mask: [B, read + T] or None, as for
    transformers.
    """
    with torch.inference_mode():
        for _ in range(tokens):
            extra: dict[str, Tensor] = {}
            if mask is not None:
                positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
                extra = {"attention_mask": mask, "position_ids": positions}
            step = model(input_ids=ids, logits_to_keep=1, **caching(cache), **extra)
            best = choose(step.logits[:, -1])
            for row, token in zip(rows, best.tolist(), strict=True):
                out[row].append(token)
            alive = [k for k, row in enumerate(rows) if keep is None or keep(row, out[row])]
            if not alive:
                return
            if len(alive) < len(rows):
                index = torch.tensor(alive, device=ids.device)
                cache.batch_select_indices(index)
                best = best[index]
                mask = None if mask is None else mask[index]
                rows = [rows[k] for k in alive]
            ids = best.unsqueeze(1)
            if mask is not None:
                mask = torch.cat((mask, mask.new_ones((len(rows), 1))), dim=1)
