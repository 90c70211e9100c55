"""Greedy decoding with a key-value cache: batches of equal length, rows dropped once decided."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache

Keep = Callable[[int, list[int]], bool]  # (index of the prompt, tokens so far) -> go on?


def greedy(
    model: Any, prompts: Sequence[NDArray[np.int32]], tokens: int, keep: Keep | None = None
) -> list[list[int]]:
    """The `tokens` most likely next tokens of every prompt, one after the other.

    No penalties, no stop tokens. A row for which `keep` says no is not decoded further.
    """
    out: list[list[int]] = [[] for _ in prompts]
    groups: dict[int, list[int]] = defaultdict(list)
    for index, prompt in enumerate(prompts):
        groups[len(prompt)].append(index)
    device = next(model.parameters()).device
    for length in sorted(groups):
        rows = groups[length]
        ids = torch.from_numpy(np.stack([prompts[i] for i in rows])).long().to(device)
        cache = DynamicCache()
        with torch.inference_mode():
            for _ in range(tokens):
                step = model(
                    input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1
                )
                best = step.logits[:, -1].argmax(-1)
                for row, token in zip(rows, best.tolist(), strict=True):
                    out[row].append(token)
                alive = [k for k, row in enumerate(rows) if keep is None or keep(row, out[row])]
                if not alive:
                    break
                if len(alive) < len(rows):
                    index = torch.tensor(alive, device=device)
                    cache.batch_select_indices(index)
                    best = best[index]
                    rows = [rows[k] for k in alive]
                ids = best.unsqueeze(1)
    return out
