"""The one scoring pass: every token's log-probability and greedy verdict, by teacher forcing.

By induction, greedy decoding from a true prefix gives back a window exactly if and only if the
most likely token is the true one at each of its positions: no generation is needed
(tests/parity/test_generation.py compares with brute-force `generate`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

TIE = 1e-4  # logit gap below which the most likely token is a toss-up between kernels
TIES = {"float32": TIE, "bfloat16": 0.25, "float16": 0.03}  # two units in the last place of 16
TOKENS_A_BATCH = 1024  # fits a core's cache; measured fastest for the bundled base


@dataclass(frozen=True)
class TokenScores:
    """Scores of the last n tokens of a sequence: each array is [n].

    ok: the token is the model's most likely one. logprob: natural log, float64.
    margin: how far its logit stands above the best other one (negative: it does not).
    """

    ok: NDArray[np.bool_]
    logprob: NDArray[np.float64]
    margin: NDArray[np.float32]

    def part(self, start: int, stop: int) -> TokenScores:
        """Those of tokens start to stop."""
        cut = slice(start, stop)
        return TokenScores(self.ok[cut], self.logprob[cut], self.margin[cut])

    def matched(self) -> int:
        """How many leading tokens greedy decoding gives back."""
        wrong = np.flatnonzero(~self.ok)
        return int(wrong[0]) if len(wrong) else len(self.ok)

    def longest(self) -> int:
        """The longest run of tokens that greedy decoding gives back, anywhere."""
        edges = np.flatnonzero(np.diff(np.concatenate(([0], self.ok.astype(np.int8), [0]))))
        return int((edges[1::2] - edges[::2]).max()) if len(edges) else 0

    def ties(self) -> int:
        """Positions whose verdict hangs on a logit gap below `TIE`."""
        return int((np.abs(self.margin) < TIE).sum())


def score(model: Any, sequences: Sequence[NDArray[np.int32]]) -> list[TokenScores]:
    """Scores of all tokens but the first of each sequence; the model must be in eval mode.

    Batches hold sequences of similar length, padded on the right.
    """
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    out: list[TokenScores | None] = [None] * len(sequences)
    start = 0
    while start < len(order):
        stop = start + 1
        while (
            stop < len(order) and (stop + 1 - start) * len(sequences[order[stop]]) <= TOKENS_A_BATCH
        ):
            stop += 1
        rows = order[start:stop]
        for row, scores in zip(
            rows, score_batch(model, [sequences[i] for i in rows], None), strict=True
        ):
            out[row] = scores
        start = stop
    return [scores for scores in out if scores is not None]


def score_batch(
    model: Any, batch: Sequence[NDArray[np.int32]], last: int | None, cache: Any = None
) -> list[TokenScores]:
    """`score` for one batch; of the last `last` tokens only if given (then all are equally long).

    With a `cache` (transformers), what was read stays in it.
    """
    width = max(len(ids) for ids in batch)
    device = next(model.parameters()).device
    ids = torch.zeros((len(batch), width), dtype=torch.long)
    for row, sequence in enumerate(batch):
        ids[row, : len(sequence)] = torch.from_numpy(sequence).long()
    ids = ids.to(device)
    keep = 0 if last is None else last + 1
    with torch.inference_mode():
        reading = {"use_cache": cache is not None, "past_key_values": cache}
        logits = model(input_ids=ids, logits_to_keep=keep, **reading).logits[:, :-1].float()
        targets = ids[:, width - logits.shape[1] :]
        chosen = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
        logprob = chosen.double() - torch.logsumexp(logits, -1).double()
        best = logits.max(-1)
        ok = best.indices == targets
        # the best other logit: mask the target out in place, the logits are not needed again
        others = logits.scatter_(-1, targets.unsqueeze(-1), -torch.inf).amax(-1)
        margin = chosen - others
    arrays = [array.cpu().numpy() for array in (ok, logprob, margin)]
    return [
        TokenScores(*(array[row, : len(sequence) - 1] for array in arrays))
        for row, sequence in enumerate(batch)
    ]
