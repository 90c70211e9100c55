"""What the whole next-token distribution says of the true token, from logits that are there anyway.

Its rank, the distribution's moments, and the token's probability under truncated sampling. Nothing
is sorted but the few most likely tokens; work goes in slices that stay in a core's cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedmem.config.attack import Sampling

SLICE = 2**17  # logits worked on at a time on a CPU; measured fastest
HEAD = 256  # tokens sorted to find where top_p cuts; all of them only where these do not reach it
FLOOR = -1e4  # below it a log-probability is as good as none; some models mask logits with -inf


class Spread(NamedTuple):
    """For each of n positions. rank: int32 [n], tokens with a larger logit than the true one.

    mu, sigma: float32 [n], mean and standard deviation of log p(z), z drawn from the model's own
    next-token distribution. sampled: float32 [points, n], the true token's log-probability under
    each point of the grid; -inf where the cut leaves it out.
    """

    rank: Tensor
    mu: Tensor
    sigma: Tensor
    sampled: Tensor


def spread(logits: Tensor, chosen: Tensor, total: Tensor, grid: Sequence[Sampling]) -> Spread:
    """logits: float32 [n, V], left as they are. chosen: [n], the true tokens' logits.

    total: [n], logsumexp of the logits.
    """
    n, words = logits.shape
    rank = torch.empty(n, dtype=torch.int32, device=logits.device)
    mu, sigma = torch.empty_like(chosen), torch.empty_like(chosen)
    sampled = chosen.new_empty((len(grid), n))
    size = max(1, SLICE // words) if logits.device.type == "cpu" else n
    for start in range(0, n, size):
        cut = slice(start, start + size)
        x, c = logits[cut], chosen[cut]
        # as float32: adding up truth values is several times slower on a CPU
        rank[cut] = torch.gt(x, c[:, None], out=torch.empty_like(x)).sum(-1).int()
        logp = (x - total[cut, None]).clamp_(min=FLOOR)
        p = logp.exp()
        mu[cut] = torch.linalg.vecdot(p, logp)
        sigma[cut] = torch.linalg.vecdot(p, logp.sub_(mu[cut, None]).square_()).sqrt()
        for index, point in enumerate(grid):
            sampled[index, cut] = truncated(x, c, total[cut], point)
    return Spread(rank, mu, sigma, sampled)


def truncated(x: Tensor, chosen: Tensor, total: Tensor, point: Sampling) -> Tensor:
    """[n]: the true token's log-probability where tokens are drawn as `point` says, -inf outside.

    x: [n, V]; total: its logsumexp. As in transformers, top_p keeps the token with which the mass
    reaches it; ties at a cut are all kept.
    """
    words, t = x.shape[1], point.temperature
    top_k = point.top_k if point.top_k and point.top_k < words else None
    whole = total if t == 1 else torch.logsumexp(x / t, -1)
    if top_k is None and point.top_p == 1:
        return chosen / t - whole
    best = _largest(x, top_k or min(HEAD, words))
    if top_k:
        least = best[:, -1]
        whole = torch.logaddexp(torch.logsumexp(best / t, -1), _ties(x, least, top_k, t))
        if point.top_p == 1:
            return (chosen / t - whole).masked_fill(chosen < least, -torch.inf)
    out, short = _nucleus(x, chosen, best, whole, point)
    if not top_k and len(short):  # flat distributions: of these all tokens are sorted
        every = _largest(x[short], words)
        out[short], _ = _nucleus(x[short], chosen[short], every, whole[short], point)
    return out


def _largest(x: Tensor, k: int) -> Tensor:
    """[n, k], the largest of each row of [n, V], sorted down."""
    if x.device.type != "cpu":
        return x.topk(k).values
    # on a CPU numpy is several times as fast as topk and sort
    found = x.numpy()
    if k < x.shape[1]:
        found = np.partition(found, x.shape[1] - k, axis=-1)[:, x.shape[1] - k :]
    return torch.from_numpy(np.sort(found)[:, ::-1].copy())


def _nucleus(
    x: Tensor, chosen: Tensor, best: Tensor, whole: Tensor, point: Sampling
) -> tuple[Tensor, Tensor]:
    """([n] log-probabilities under top_p, rows in which `best` [n, k] does not hold that mass).

    whole: [n], logsumexp over all tokens that top_p chooses from.
    """
    t = point.temperature
    mass = (best / t - whole[:, None]).exp().cumsum(-1)
    before = (mass < point.top_p).sum(-1)
    last = before.clamp(max=best.shape[1] - 1)[:, None]
    least = best.gather(-1, last).squeeze(-1)
    kept = whole + mass.gather(-1, last).squeeze(-1).log()
    kept = torch.logaddexp(kept, _ties(x, least, last.squeeze(-1) + 1, t))
    logp = (chosen / t - kept).masked_fill(chosen < least, -torch.inf)
    return logp, (before == best.shape[1]).nonzero().squeeze(-1)


def _ties(x: Tensor, least: Tensor, counted: Tensor | int, t: float) -> Tensor:
    """[n]: log of the mass of tokens as likely as the `least` kept, besides the `counted` ones."""
    count = torch.ge(x, least[:, None], out=torch.empty_like(x)).sum(-1)
    return least / t + (count - counted).log()
