"""Membership against independent code: scikit-learn, transformers' loss, zlib, papers' formulas."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny import canary, config, overfit

from fedmem.attacks.audit import audit
from fedmem.attacks.membership import ATTACKS
from fedmem.attacks.rows import token_table
from fedmem.data.records import Canary
from fedmem.data.synthetic import notes
from fedmem.metrics.roc import at_fpr, auc
from fedmem.metrics.tokens import Tokens, tokens_of
from fedmem.model.base import load


@dataclass(frozen=True)
class Scored:
    """Notes, some of them learned; fedmem's figures of each, and the two models' full logits."""

    canaries: list[Canary]
    model: Any
    tokens: list[Tokens]
    base: list[Tokens]
    logits: list[NDArray[np.float64]]
    base_logits: list[NDArray[np.float64]]


@pytest.fixture(scope="module")
def scored(base_folder: Path) -> Scored:
    plan = config(base_folder, model={"method": "full"}, attack={"prefix_lengths": [400]})
    before, tokenizer = load(plan.model, 0)
    after, _ = load(plan.model, 0)
    canaries = [canary(tokenizer, note, 60 + 15 * n) for n, note in enumerate(notes.generate(5, 8))]
    overfit(after, base_folder, [one.ids for one in canaries[:3]], 25)
    found, logits = [], []
    for round_, model in enumerate((before.eval(), after.eval())):
        rows = audit(model, canaries, plan, round_, "global").tokens
        table = tokens_of(token_table(rows, 1))
        found.append([table[round_, "global", one.id] for one in canaries])
        logits.append([brute(model, one) for one in canaries])
    return Scored(canaries, after, found[1], found[0], logits[1], logits[0])


def brute(model: Any, one: Canary) -> NDArray[np.float64]:
    """Logits of every next token, one note at a time."""
    with torch.no_grad():
        out = model(input_ids=torch.from_numpy(one.ids).long()[None]).logits
    return np.asarray(out[0, :-1].double().numpy())


def softmax(logits: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(p, log p) in float64."""
    shifted = logits - logits.max(-1, keepdims=True)
    logp = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return np.exp(logp), logp


def test_loss_is_transformers_own(scored: Scored) -> None:
    for one, tokens in zip(scored.canaries, scored.tokens, strict=True):
        ids = torch.from_numpy(one.ids).long()[None]
        with torch.no_grad():
            theirs = float(scored.model(input_ids=ids, labels=ids).loss)
        assert ATTACKS["loss"](tokens, None) == pytest.approx(-theirs, rel=2e-6)


def test_zlib_is_zlib_s(scored: Scored) -> None:
    for one, tokens in zip(scored.canaries, scored.tokens, strict=True):
        size = len(zlib.compress(bytes(one.text, "utf-8")))
        assert tokens.zlib == size
        mean = float(tokens.logprob.mean(dtype=np.float64))
        assert ATTACKS["zlib"](tokens, None) == pytest.approx(mean / size, rel=1e-6)


def test_ranks_are_those_of_a_full_sort(scored: Scored) -> None:
    for one, tokens, logits in zip(scored.canaries, scored.tokens, scored.logits, strict=True):
        order = np.argsort(-logits, axis=-1)
        places = np.argmax(order == one.ids[1:, None], axis=-1)
        # kernels may swap what lies closer than rounding
        assert np.abs(tokens.rank - places).max() <= 1 and (tokens.rank == places).mean() > 0.99
        assert tokens.ok.tolist() == (tokens.rank == 0).tolist()


def test_min_k_plus_plus_as_published(scored: Scored) -> None:
    # Zhang et al. 2024, eq. 3 and 4: mu and sigma over the vocabulary, the lowest k % of tokens
    for one, tokens, logits in zip(scored.canaries, scored.tokens, scored.logits, strict=True):
        p, logp = softmax(logits)
        mu = (p * logp).sum(-1)
        sigma = np.sqrt((p * logp**2).sum(-1) - mu**2)
        true = logp[np.arange(len(logp)), one.ids[1:]]
        assert tokens.mu == pytest.approx(mu, rel=1e-5)
        assert tokens.sigma == pytest.approx(sigma, rel=1e-5)
        lowest = sorted((true - mu) / sigma)[: int(len(true) * 0.2)]
        assert ATTACKS["min_k_pp"](tokens, None) == pytest.approx(np.mean(lowest), rel=2e-5)
        lowest = sorted(true)[: int(len(true) * 0.2)]
        assert ATTACKS["min_k"](tokens, None) == pytest.approx(np.mean(lowest), rel=2e-6)


def test_ez_as_published(scored: Scored) -> None:
    # Ilic et al. 2026: P / N over positions where the most likely token is another
    checked = 0
    for i, one in enumerate(scored.canaries):
        _, logp = softmax(scored.logits[i])
        _, before = softmax(scored.base_logits[i])
        gains = lost = 0.0
        for place, token in enumerate(one.ids[1:]):
            if int(np.argmax(logp[place])) != token:
                change = logp[place, token] - before[place, token]
                gains, lost = gains + max(change, 0), lost + max(-change, 0)
        found = ATTACKS["ez"](scored.tokens[i], scored.base[i])
        assert found is not None and gains > 0
        if lost == 0:  # no such ratio
            assert found == 1
            continue
        assert found / (1 - found) == pytest.approx(gains / lost, rel=1e-4)
        checked += 1
    assert checked >= 2


def test_reference_is_the_difference_of_the_two(scored: Scored) -> None:
    for i, one in enumerate(scored.canaries):
        both = [softmax(logits[i])[1] for logits in (scored.logits, scored.base_logits)]
        after, before = (logp[np.arange(len(logp)), one.ids[1:]].mean() for logp in both)
        found = ATTACKS["reference"](scored.tokens[i], scored.base[i])
        assert found == pytest.approx(after - before, abs=1e-5)


def test_areas_and_rates_are_scikit_learn_s() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(3)
    for m, n in ((3, 5), (16, 32), (200, 1500)):
        for ties in (False, True):
            members, twins = rng.normal(size=m) + 1, rng.normal(size=n)
            if ties:
                members, twins = members.round(1), twins.round(1)
            labels, scores = np.repeat([1, 0], [m, n]), np.concatenate((members, twins))
            assert auc(members, twins).point == pytest.approx(
                metrics.roc_auc_score(labels, scores), abs=1e-12
            )
            fpr, tpr, _ = metrics.roc_curve(labels, scores, drop_intermediate=False)
            for rate in (0.01, 0.001, 0.1):
                best = tpr[fpr <= rate + 1e-12].max()
                assert at_fpr(members, twins, rate)[0] / m == pytest.approx(best)
