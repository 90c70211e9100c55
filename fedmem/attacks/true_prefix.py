"""The auditor's bound: what greedy decoding gives back when it is handed the true text before.

Three readings of one scoring pass over whole notes, and one over windows for each prefix length:
`phi` (is each tagged value reproduced?), `loss` (the note's log-likelihood, and the longest run
given back), `extraction` (the next tokens after a split point, behind prompts of given lengths).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache

from fedmem.attacks.approximate import IDENTICAL, Nearness, Thresholds, Watch
from fedmem.attacks.generate import decode
from fedmem.attacks.scoring import TokenScores, score_batch
from fedmem.config import Attack
from fedmem.data.records import Canary

TOKENS_A_BATCH = 8192  # few large batches: each is decoded token by token
LOGITS_A_BATCH = 2**27  # and no more than half a gigabyte of float32 logits, for large vocabularies


@dataclass(frozen=True)
class Cut:
    """Where a canary is cut: `split` tokens before, the continuation after; prefixes that fit.

    bos: 1, or 0 for tokenizers that have no BOS: then a canary begins with its text.
    """

    canary: Canary
    split: int
    lengths: tuple[int, ...]
    bos: int = 1


def cut(canary: Canary, attack: Attack, seed: int, bos: int = 1) -> Cut | None:
    """One random split point a note, the same for all prefix lengths that fit the note.

    The longest length that leaves room for the continuation decides how early it may lie;
    None where not even the shortest fits.
    """
    room = len(canary.ids) - attack.continuation
    lengths = tuple(n for n in sorted(set(attack.prefix_lengths)) if n + bos <= room)
    if not lengths:
        return None
    split = random.Random(f"{seed}/{canary.id}").randint(lengths[-1] + bos, room)
    return Cut(canary, split, lengths, bos)


def prompt(canary: Canary, split: int, length: int, bos: int = 1) -> NDArray[np.int32]:
    """BOS, if there is one, and the last `length` tokens before the split."""
    return np.concatenate((canary.ids[:bos], canary.ids[split - length : split]))


def chars(canary: Canary, start: int, stop: int) -> int:
    """Characters of the note that its tokens from `start` to `stop` stand for."""
    spans = canary.offsets[start:stop]
    spans = spans[spans[:, 0] >= 0]
    return int(spans[:, 1].max() - spans[:, 0].min()) if len(spans) else 0


def whole_notes(
    canaries: Sequence[Canary], scores: Sequence[TokenScores], bos: int = 1
) -> list[dict[str, Any]]:
    """`loss` and `phi` rows. scores[i] are those of tokens 1.. of canary i behind all before."""
    rows = []
    for canary, one in zip(canaries, scores, strict=True):
        base = {"attacker": "*", "knowledge": "true_prefix", "canary": canary.id, "queries": 1}
        rows.append(
            {
                **base,
                "attack": "loss",
                "target": 0,
                "tokens": len(one.ok),
                "matched": int(one.ok.sum()),
                "hit": bool(len(one.ok) and one.ok.all()),
                "logprob": float(one.logprob.sum()),
                "margin": float(one.margin.min()) if len(one.ok) else None,
                "longest": one.longest(),
            }
        )
        for index, span in enumerate(canary.phi):
            # a value that stands earlier in the prompt is copied, not remembered
            if not span.first:
                continue
            part = one.part(span.start - 1, span.end - 1)
            rows.append(
                {
                    **base,
                    "attack": "phi",
                    "target": index,
                    "prefix_tokens": span.start - bos,
                    "prefix_chars": chars(canary, 0, span.start),
                    "tokens": len(part.ok),
                    "matched": part.matched(),
                    "hit": bool(part.ok.all()),
                    "logprob": float(part.logprob.sum()),
                    "margin": float(part.margin.min()),
                    "category": span.category,
                    "type": span.type,
                    "start": span.start,
                }
            )
    return rows


def windows(model: Any, cuts: Sequence[Cut], attack: Attack) -> list[dict[str, Any]]:
    """`extraction` rows: a row for every canary and prefix length, exact and approximate."""
    rows = []
    most = LOGITS_A_BATCH // (model.config.get_text_config().vocab_size * (attack.continuation + 1))
    for length in sorted({n for c in cuts for n in c.lengths}):
        fitting = [c for c in cuts if length in c.lengths]
        size = TOKENS_A_BATCH // (length + attack.continuation + 1)
        size = max(1, min(size, most))
        for start in range(0, len(fitting), size):
            rows += _windows_of(model, fitting[start : start + size], length, attack)
    return rows


def _windows_of(
    model: Any, cuts: Sequence[Cut], length: int, attack: Attack
) -> list[dict[str, Any]]:
    """One batch of equal length. An exact match has BLEU 1; only the others are decoded, from the
    cache of the scoring pass, cut back to the prompt.
    """
    k = attack.continuation
    prompts = [prompt(c.canary, c.split, length, c.bos) for c in cuts]
    truths = [c.canary.ids[c.split : c.split + k] for c in cuts]
    cache = DynamicCache()
    joined = [np.concatenate(pair) for pair in zip(prompts, truths, strict=True)]
    scores = score_batch(model, joined, last=k, cache=cache)
    near: list[Nearness | None] = [IDENTICAL] * len(cuts)
    undecided = [i for i, one in enumerate(scores) if not one.ok.all()]
    if undecided:
        device = next(model.parameters()).device
        cache.batch_select_indices(torch.tensor(undecided, device=device))
        cache.crop(-(k + 1))  # back to the prompt, less its last token, which is read again
        ids = torch.tensor([[int(prompts[i][-1])] for i in undecided], device=device)
        watch = Watch([truth.tolist() for truth in truths], Thresholds.of(attack))
        guesses: list[list[int]] = [[] for _ in cuts]
        decode(model, cache, ids, None, undecided, k, watch.keep, guesses)
        for i in undecided:
            near[i] = watch.result(i, guesses[i])
    return [
        {
            "attacker": "*",
            "knowledge": "true_prefix",
            "attack": "extraction",
            "canary": c.canary.id,
            "target": length,
            "prefix_tokens": length,
            "prefix_chars": chars(c.canary, c.split - length, c.split),
            "tokens": k,
            "matched": one.matched(),
            "hit": bool(one.ok.all()),
            "logprob": float(one.logprob.sum()),
            "margin": float(one.margin.min()),
            "bleu": measured.bleu if measured else None,
            "edit": measured.edit if measured else None,
            "rouge_l": measured.rouge_l if measured else None,
            "queries": 1,
            "start": c.split,
        }
        for c, one, measured in zip(cuts, scores, near, strict=True)
    ]
