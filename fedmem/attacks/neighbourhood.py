"""The neighbourhood attack's own passes: how likely are texts that differ in a few tokens?

Mattern et al. (2023) let a masked language model replace words. Here the attacked model itself
proposes what might stand there instead, from the tokens before: no other model is needed.
One pass for the proposals and one a neighbour.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedmem.attacks.scoring import batches, score_batch
from fedmem.data.encoding import Ids
from fedmem.data.records import Canary

SHARE = 0.05  # of a note's tokens that are replaced in each neighbour
PROPOSALS = 10  # most likely tokens that a replacement is drawn from


def around(
    model: Any, canaries: Sequence[Canary], count: int, seed: int, bos: int = 1
) -> list[float | None]:
    """Mean over `count` neighbours of their mean log-probability a token, for each canary.

    Positions are drawn by seed and canary, the same in every round. None where no token has one
    before it.
    """
    found: list[float | None] = [None] * len(canaries)
    for rows in batches([canary.ids for canary in canaries]):
        of = [canaries[row] for row in rows]
        drawn = [random.Random(f"{seed}/{canary.id}/neighbours") for canary in of]
        likely = _likely(model, [canary.ids for canary in of])
        means: list[list[float]] = [[] for _ in of]
        for _ in range(count):
            texts = [
                neighbour(canary.ids, options, rng)
                for canary, options, rng in zip(of, likely, drawn, strict=True)
            ]
            for place, one in zip(means, score_batch(model, texts, None), strict=True):
                if len(one.logprob):
                    place.append(float(one.logprob.mean()))
        for row, values in zip(rows, means, strict=True):
            found[row] = sum(values) / count if values else None
    return found


def neighbour(ids: Ids, likely: NDArray[np.int64], rng: random.Random) -> Ids:
    """The text with some of tokens 1.. replaced. likely: [T - 1, k], what may stand at each."""
    new = ids.copy()
    n = len(ids) - 1
    for place in rng.sample(range(n), min(n, max(1, round(n * SHARE)))):
        options = [int(token) for token in likely[place] if token != ids[place + 1]]
        new[place + 1] = rng.choice(options)
    return new


def _likely(model: Any, batch: Sequence[Ids]) -> list[NDArray[np.int64]]:
    """The most likely tokens at positions 1.. of each text, int64 [T - 1, PROPOSALS]."""
    device = next(model.parameters()).device
    ids = torch.zeros((len(batch), max(len(one) for one in batch)), dtype=torch.long)
    for row, one in enumerate(batch):
        ids[row, : len(one)] = torch.from_numpy(one).long()
    with torch.inference_mode():
        logits = model(input_ids=ids.to(device), use_cache=False).logits[:, :-1]
        best = logits.topk(min(PROPOSALS, logits.shape[-1])).indices.cpu().numpy()
    return [best[row, : len(one) - 1] for row, one in enumerate(batch)]
