"""Log-likelihoods of all options of a question in one row: the prompt is read once.

A row is [prompt, option 1, option 2, ...]. Under a mask in which every option sees the prompt and
itself only, with positions that go on from the prompt's end, each option's scores are those of
prompt + option alone (tests/evaluation/test_options.py compares).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmem.data.records import EncodedQA

TOKENS_A_BATCH = 1024


def option_logprobs(model: Any, questions: Sequence[EncodedQA]) -> list[list[NDArray[np.float64]]]:
    """For every question and option, the log-probabilities (natural) of the option's tokens."""
    out: list[list[NDArray[np.float64]] | None] = [None] * len(questions)
    for rows in _batches([_length(question) for question in questions]):
        for row, scores in zip(rows, _score(model, [questions[i] for i in rows]), strict=True):
            out[row] = scores
    return [scores for scores in out if scores is not None]


def _length(question: EncodedQA) -> int:
    return len(question.prompt) + sum(len(option) for option in question.options)


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    batch: list[int] = []
    for index in order:
        if batch and (len(batch) + 1) * lengths[index] > TOKENS_A_BATCH:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _score(model: Any, questions: list[EncodedQA]) -> list[list[NDArray[np.float64]]]:
    width = max(_length(question) for question in questions)
    first = next(model.parameters())
    ids = torch.zeros((len(questions), width), dtype=torch.long)
    positions = torch.zeros_like(ids)
    # which option a token belongs to: 0 the prompt, -1 padding
    part = torch.full_like(ids, -1)
    for row, question in enumerate(questions):
        at = len(question.prompt)
        ids[row, :at] = torch.from_numpy(question.prompt).long()
        positions[row, :at] = torch.arange(at)
        part[row, :at] = 0
        for number, option in enumerate(question.options, start=1):
            stop = at + len(option)
            ids[row, at:stop] = torch.from_numpy(option).long()
            start = len(question.prompt)
            positions[row, at:stop] = torch.arange(start, start + len(option))
            part[row, at:stop] = number
            at = stop
    mask = _mask(part, first.dtype)
    with torch.inference_mode():
        logits = model(
            input_ids=ids.to(first.device),
            position_ids=positions.to(first.device),
            attention_mask=mask.to(first.device),
            use_cache=False,
        ).logits.float()
        return [_read(logits[row], question) for row, question in enumerate(questions)]


def _mask(part: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive mask [B, 1, T, T]: a token sees earlier tokens of the prompt and of its option."""
    width = part.shape[1]
    causal = torch.ones((width, width), dtype=torch.bool).tril()
    same = part.unsqueeze(2) == part.unsqueeze(1)
    prompt = (part == 0).unsqueeze(1)
    seen = causal & (same | prompt)
    mask = torch.zeros(seen.shape, dtype=dtype)
    return mask.masked_fill(~seen, torch.finfo(dtype).min).unsqueeze(1)


def _read(logits: Tensor, question: EncodedQA) -> list[NDArray[np.float64]]:
    """An option's first token is predicted by the prompt's last, the others by the one before."""
    at = len(question.prompt)
    out = []
    for option in question.options:
        before = [len(question.prompt) - 1, *range(at, at + len(option) - 1)]
        rows = logits[before].double()
        chosen = rows.gather(-1, torch.from_numpy(option).long().to(rows.device).unsqueeze(-1))
        out.append((chosen.squeeze(-1) - torch.logsumexp(rows, -1)).cpu().numpy())
        at += len(option)
    return out
