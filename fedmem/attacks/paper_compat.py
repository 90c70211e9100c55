"""The extraction figures of Bossy et al. (arXiv 2502.05087) as their released code counts them.

For comparison with their tables alone: each quirk makes the figure mean something else than its
name says, and none of it enters any other figure (rows of the attack `paper_compat`).

- Decoding is greedy under a frequency penalty of 1.0: a token's logit is lowered by 1.0 for each
  time that it was generated before. Text that repeats itself cannot come back word for word.
- Tokens are compared after decoding and encoding again, which joins what is written alike.
- BLEU-4 runs over characters, rounded to two decimals; it counts from 0.75 on (`>=`; one place of
  their code has `>`, which differs at 0.75 itself). Unlike texts of one language come close to it.
- Only notes that hold the longest prompt and the continuation are attacked.

Not from their code, where it is not known: decoding never stops early.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache

from fedmem.attacks.approximate import token_bleu
from fedmem.attacks.generate import ROWS, TOKENS, decode
from fedmem.attacks.true_prefix import Cut, chars, prompt
from fedmem.config import Attack
from fedmem.data.encoding import Coder
from fedmem.metrics.outcomes import PAPER

PENALTY = 1.0


def char_bleu(guess: str, truth: str) -> float:
    """BLEU-4 over characters, 0 to 1, unsmoothed, rounded to two decimals."""
    if not guess or not truth:
        return 0.0
    return round(token_bleu([ord(c) for c in guess], [ord(c) for c in truth]), 2)


def penalised(
    model: Any, prompts: NDArray[np.int32], tokens: int, penalty: float = PENALTY
) -> list[list[int]]:
    """The next `tokens` tokens of each prompt [B, T], greedily under a frequency penalty.

    The logit of a token falls by `penalty` for each time that it was generated (not: prompted).
    """
    device = next(model.parameters()).device
    counts: Tensor | None = None

    def choose(logits: Tensor) -> Tensor:
        nonlocal counts
        if counts is None:
            counts = torch.zeros(logits.shape, device=logits.device)
        best = (logits.float() - penalty * counts).argmax(-1)
        counts.scatter_add_(1, best.unsqueeze(1), counts.new_ones((len(best), 1)))
        return best

    out: list[list[int]] = [[] for _ in prompts]
    ids = torch.from_numpy(prompts).long().to(device)
    rows = list(range(len(prompts)))
    decode(model, DynamicCache(), ids, None, rows, tokens, None, out, choose)
    return out


def rows(
    model: Any, tokenizer: Any, cuts: Sequence[Cut | None], attack: Attack
) -> list[dict[str, Any]]:
    """A row for each note and prompt length: `hit` (exact) and `bleu`, both in their sense."""
    coder, k = Coder(tokenizer), attack.continuation
    lengths = tuple(sorted(set(attack.prefix_lengths)))
    whole = [cut for cut in cuts if cut is not None and cut.lengths == lengths]
    found = []
    for length in lengths:
        size = max(1, min(ROWS, TOKENS // (length + k)))
        for start in range(0, len(whole), size):
            batch = whole[start : start + size]
            prompts = np.stack([prompt(c.canary, c.split, length, c.bos) for c in batch])
            for cut, guess in zip(batch, penalised(model, prompts, k), strict=True):
                truth = cut.canary.ids[cut.split : cut.split + k].tolist()
                found.append(
                    _row(cut, length, k, _text(tokenizer, guess), _text(tokenizer, truth), coder)
                )
    return found


def _text(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _row(cut: Cut, length: int, k: int, guess: str, truth: str, coder: Coder) -> dict[str, Any]:
    ours, theirs = coder.encode(guess)[:k], coder.encode(truth)[:k]
    pairs = zip(ours, theirs, strict=False)
    return {
        "attacker": "*",
        "knowledge": "true_prefix",
        "attack": PAPER,
        "canary": cut.canary.id,
        "target": length,
        "prefix_tokens": length,
        "prefix_chars": chars(cut.canary, cut.split - length, cut.split),
        "tokens": k,
        "matched": next(
            (i for i, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(theirs))
        ),
        "hit": ours == theirs,
        "bleu": char_bleu(guess, truth),
        "queries": 1,
    }
