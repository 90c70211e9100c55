"""ReCaLL's second pass: every note behind a prefix of notes that were surely not trained on.

The prefix is made up by the attacker: fictional notes of this package, of patients and values that
no canary shares. So it takes no data of anybody, and knowing that a fiction is no member.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from fedmem.attacks.scoring import batches, score_batch
from fedmem.config import Attack
from fedmem.data import prompts
from fedmem.data.encoding import Coder, Ids, array
from fedmem.data.records import Canary
from fedmem.data.synthetic import notes
from fedmem.model.cache import caching

POOL, SEED = "base", 2000  # the bundled base was made of other notes: seeds from 1000 to 1011


def prefix_for(attack: Attack, tokenizer: Any) -> Ids | None:
    """The prefix, where the attack is asked for."""
    return prefix(tokenizer, attack.recall_tokens) if "recall" in attack.membership else None


def prefix(tokenizer: Any, tokens: int) -> Ids:
    """BOS, if there is one, and fictional notes, cut to `tokens` in all."""
    coder = Coder(tokenizer)
    ids, count = list(coder.bos), 0
    while len(ids) < tokens:
        count += 1
        ids = [*coder.bos]
        for note in notes.generate(count, SEED, POOL):
            ids += coder.encode(prompts.note_text(note.text))
    return array(ids[:tokens])


def behind(model: Any, canaries: Sequence[Canary], before: Ids, bos: int = 1) -> list[float | None]:
    """Mean log-probability of each canary's tokens but the first, behind `before`.

    None for a canary of one token. The prefix is read once.
    """
    device = next(model.parameters()).device
    read = DynamicCache()
    with torch.inference_mode():
        head = torch.from_numpy(before[:-1]).long()[None].to(device)
        model(input_ids=head, logits_to_keep=1, **caching(read))
    sequences = [np.concatenate((before[-1:], canary.ids[bos:])) for canary in canaries]
    found: list[float | None] = [None] * len(canaries)
    for rows in batches(sequences):
        cache = copy.deepcopy(read)
        cache.batch_repeat_interleave(len(rows))
        scores = score_batch(model, [sequences[row] for row in rows], None, cache)
        for row, one in zip(rows, scores, strict=True):
            logprob = one.logprob[len(one.logprob) - len(canaries[row].ids) + 1 :]
            found[row] = float(logprob.mean()) if len(logprob) else None
    return found
