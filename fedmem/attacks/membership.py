"""Membership: was this very record trained on? Scores from saved figures; higher: more likely so.

The attacker holds the whole record and asks the model for its tokens' probabilities. Each attack is
a pure function (tokens, base) -> score: `tokens` under the attacked model, `base` under the
untouched one, the adapter switched off. Signs differ in published code; here they are made alike.
None where a score is not defined, as for a record of one token.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fedmem.metrics.tokens import Tokens

LOWEST = 0.2  # share of tokens that Min-K% looks at
LEAST_SIGMA = 1e-6  # a certain distribution has none; dividing by it would be by rounding
Score = Callable[[Tokens, Tokens | None], float | None]


def loss(tokens: Tokens, base: Tokens | None) -> float | None:
    """LOSS (Yeom et al. 2018): mean log-probability of the tokens."""
    return _mean(tokens.logprob)


def zlib(tokens: Tokens, base: Tokens | None) -> float | None:
    """zlib (Carlini et al. 2021): log-probability, mean, over the bytes of the text compressed."""
    mean = _mean(tokens.logprob)
    return None if mean is None else mean / tokens.zlib


def reference(tokens: Tokens, base: Tokens | None) -> float | None:
    """Reference model (Carlini et al. 2021): mean log-probability minus that of the base."""
    return None if base is None else _mean(tokens.logprob - base.logprob)


def min_k(tokens: Tokens, base: Tokens | None) -> float | None:
    """Min-K% Prob (Shi et al. 2024): mean of the lowest fifth of the log-probabilities."""
    return _mean(_lowest(tokens.logprob))


def min_k_pp(tokens: Tokens, base: Tokens | None) -> float | None:
    """Min-K%++ (Zhang et al. 2024): the same of (log p - mu) / sigma of each token."""
    sigma = np.maximum(tokens.sigma.astype(np.float64), LEAST_SIGMA)
    return _mean(_lowest((tokens.logprob.astype(np.float64) - tokens.mu) / sigma))


def ez(tokens: Tokens, base: Tokens | None) -> float | None:
    """EZ-MIA (Ilic et al. 2026, arXiv 2601.12104): how far changes point up where the model errs.

    Over tokens that are not the model's most likely one: P, the sum of gains in log-probability
    over the base, and N, that of losses. The paper's score is P / N; this is P / (P + N), the same
    order and finite. A model that errs nowhere is as sure as can be: 1 (the released code has 0
    there, and wherever N is 0). No change at all: 1/2.
    """
    if base is None or not len(tokens.ok):
        return None
    if tokens.ok.all():
        return 1.0
    change = (tokens.logprob.astype(np.float64) - base.logprob)[~tokens.ok]
    gains, all_ = change[change > 0].sum(), np.abs(change).sum()
    return float(gains / all_) if all_ != 0 else 0.5


def recall(tokens: Tokens, base: Tokens | None) -> float | None:
    """ReCaLL (Xie et al. 2024): log-likelihood behind a non-member prefix, over that without."""
    mean = _mean(tokens.logprob)
    return None if tokens.recall is None or not mean else tokens.recall / mean


def neighbourhood(tokens: Tokens, base: Tokens | None) -> float | None:
    """Neighbourhood (Mattern et al. 2023): mean log-probability minus that of its neighbours."""
    mean = _mean(tokens.logprob)
    return None if tokens.neighbours is None or mean is None else mean - tokens.neighbours


ATTACKS: dict[str, Score] = {
    "loss": loss,
    "zlib": zlib,
    "reference": reference,
    "min_k": min_k,
    "min_k_pp": min_k_pp,
    "ez": ez,
    "recall": recall,
    "neighbourhood": neighbourhood,
}
NEED_BASE = ("reference", "ez")


def _mean(values: NDArray[np.floating]) -> float | None:
    return float(values.mean(dtype=np.float64)) if len(values) else None


def _lowest(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """The lowest fifth, one at the least (none of none)."""
    return np.sort(values)[: max(1, int(len(values) * LOWEST))]
