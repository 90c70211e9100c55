"""The one scoring pass: every token's log-probability, rank and verdict, by teacher forcing.

By induction, greedy decoding from a true prefix gives back a window exactly if and only if the
most likely token is the true one at each of its positions: no generation is needed
(tests/parity/test_generation.py compares with brute-force `generate`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedmem.attacks.distribution import Spread, spread
from fedmem.config.attack import Sampling
from fedmem.model.cache import caching

TIE = 1e-4  # logit gap below which the most likely token is a toss-up between kernels
TIES = {"float32": TIE, "bfloat16": 0.25, "float16": 0.03}  # two units in the last place of 16
TOKENS_A_BATCH = 1024  # fits a core's cache; measured fastest for the bundled base


@dataclass(frozen=True)
class TokenScores:
    """Scores of the last n tokens of a sequence: each array is [n].

    ok: the token is the model's most likely one. logprob: natural log, float64.
    margin: how far its logit stands above the best other one (negative: it does not).
    Of `score` alone, else empty: rank (0: the most likely), mu and sigma (mean and standard
    deviation of log p(z), z drawn from the model's next-token distribution), and sampled
    [points of the grid, n], the log-probability under truncated sampling, -inf outside.
    """

    ok: NDArray[np.bool_]
    logprob: NDArray[np.float64]
    margin: NDArray[np.float32]
    rank: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    mu: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    sigma: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    sampled: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), np.float32))

    def part(self, start: int, stop: int) -> TokenScores:
        """Those of tokens start to stop."""
        cut = slice(start, stop)
        verdict = self.ok[cut], self.logprob[cut], self.margin[cut]
        return TokenScores(
            *verdict, self.rank[cut], self.mu[cut], self.sigma[cut], self.sampled[:, cut]
        )

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


def score(
    model: Any, sequences: Sequence[NDArray[np.int32]], grid: Sequence[Sampling] = ()
) -> list[TokenScores]:
    """Scores of all tokens but the first of each sequence; the model must be in eval mode.

    Batches hold sequences of similar length, padded on the right. grid: ways of sampling for which
    the true tokens' log-probabilities are wanted too.
    """
    out: dict[int, TokenScores] = {}
    for rows in batches(sequences):
        found = score_batch(model, [sequences[i] for i in rows], None, grid=grid)
        out |= zip(rows, found, strict=True)
    return [out[row] for row in range(len(sequences))]


def batches(sequences: Sequence[NDArray[np.int32]]) -> Iterator[list[int]]:
    """Indices of sequences of similar length that are read together."""
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    start = 0
    while start < len(order):
        stop = start + 1
        while (
            stop < len(order) and (stop + 1 - start) * len(sequences[order[stop]]) <= TOKENS_A_BATCH
        ):
            stop += 1
        yield order[start:stop]
        start = stop


def score_batch(
    model: Any,
    batch: Sequence[NDArray[np.int32]],
    last: int | None,
    cache: Any = None,
    grid: Sequence[Sampling] | None = None,
) -> list[TokenScores]:
    """`score` for one batch; of the last `last` tokens only if given (then all are equally long).

    With a `cache` (transformers), what was read stays in it. Without a `grid` there is no rank.
    """
    width = max(len(ids) for ids in batch)
    device = next(model.parameters()).device
    ids = torch.zeros((len(batch), width), dtype=torch.long)
    for row, sequence in enumerate(batch):
        ids[row, : len(sequence)] = torch.from_numpy(sequence).long()
    ids = ids.to(device)
    keep = 0 if last is None else last + 1
    with torch.inference_mode():
        read = caching(cache)
        logits = model(input_ids=ids, logits_to_keep=keep, **read).logits[:, :-1].float()
        targets = ids[:, width - logits.shape[1] :]
        chosen = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
        total = torch.logsumexp(logits, -1)
        logprob = chosen.double() - total.double()
        best = logits.max(-1)
        ok = best.indices == targets
        more: list[Spread] = []
        if grid is not None:
            for row, sequence in enumerate(batch):  # padding is not looked at
                cut = (row, slice(0, len(sequence) - 1))
                more.append(spread(logits[cut], chosen[cut], total[cut], grid))
        # the best other logit: mask the target out in place, the logits are not needed again
        others = logits.scatter_(-1, targets.unsqueeze(-1), -torch.inf).amax(-1)
        margin = chosen - others
    arrays = [array.cpu().numpy() for array in (ok, logprob, margin)]
    return [
        TokenScores(
            *(array[row, : len(sequence) - 1] for array in arrays),
            *(figure.cpu().numpy() for figure in (more[row] if more else ())),
        )
        for row, sequence in enumerate(batch)
    ]
