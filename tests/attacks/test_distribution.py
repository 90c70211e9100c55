"""Ranks, moments and truncated sampling of logits, against transformers' own warpers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from fedmem.attacks import distribution
from fedmem.attacks.distribution import Spread, spread
from fedmem.config.attack import Sampling

GRID = [
    Sampling(),
    Sampling(temperature=2.0),
    Sampling(top_k=40),
    Sampling(top_k=1),
    Sampling(top_k=10_000),
    Sampling(top_p=0.9),
    Sampling(temperature=0.7, top_k=30, top_p=0.8),
]


def drawn(words: int, scale: float, n: int = 200) -> tuple[Tensor, Tensor]:
    """Logits [n, words] and true tokens, half of them likely ones."""
    generator = torch.Generator().manual_seed(words)
    logits = scale * torch.randn(n, words, generator=generator)
    targets = torch.randint(0, words, (n,), generator=generator)
    likely = logits.argsort(-1, descending=True)[:, :40]
    chosen = likely.gather(-1, torch.randint(0, 40, (n, 1), generator=generator)).squeeze(-1)
    return logits, torch.where(torch.arange(n) % 2 == 0, chosen, targets)


def found(logits: Tensor, targets: Tensor, grid: list[Sampling]) -> Spread:
    chosen = logits.gather(-1, targets[:, None]).squeeze(-1)
    before = logits.clone()
    result = spread(logits, chosen, torch.logsumexp(logits, -1), grid)
    assert torch.equal(logits, before)
    return result


def warped(logits: Tensor, targets: Tensor, point: Sampling) -> Tensor:
    """Log-probabilities as `generate` would draw, in float64."""
    x = TemperatureLogitsWarper(point.temperature)(None, logits.double())
    if point.top_k:
        x = TopKLogitsWarper(point.top_k)(None, x)
    if point.top_p < 1:
        x = TopPLogitsWarper(point.top_p)(None, x)
    return torch.log_softmax(x, -1).gather(-1, targets[:, None]).squeeze(-1)


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])  # nearly flat, to all on a few tokens
@pytest.mark.parametrize("words", [50, 1500])
def test_truncated_probabilities_are_those_of_generate(words: int, scale: float) -> None:
    logits, targets = drawn(words, scale)
    sampled = found(logits, targets, GRID).sampled
    for point, ours in zip(GRID, sampled, strict=True):
        theirs = warped(logits, targets, point)
        assert torch.equal(ours.isinf(), theirs.isinf())
        kept = ~ours.isinf()
        assert kept.any()
        assert ours[kept].double().numpy() == pytest.approx(theirs[kept].numpy(), abs=1e-5)


def test_slices_and_the_way_over_all_tokens_change_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logits, targets = drawn(600, 1.0)
    whole = found(logits, targets, GRID)
    monkeypatch.setattr(distribution, "SLICE", 600 * 7)
    monkeypatch.setattr(distribution, "HEAD", 5)
    for ours, theirs in zip(found(logits, targets, GRID), whole, strict=True):
        assert ours.numpy() == pytest.approx(theirs.numpy(), rel=1e-6, abs=1e-6)


def test_ties_at_a_cut_are_all_kept() -> None:
    logits = torch.tensor([[2.0, 1.0, 1.0, 1.0, 0.0]]).repeat(5, 1)
    targets = torch.arange(5)
    grid = [Sampling(top_k=2), Sampling(top_p=0.6), Sampling(top_k=1)]
    e = torch.e
    two, nucleus, one = found(logits, targets, grid).sampled.exp()
    kept = [e / (e + 3), *[1 / (e + 3)] * 3, 0]
    assert two.tolist() == pytest.approx(kept)
    # the mass before the first of the ties is 0.43 of 1.00, and with one of them 0.59
    assert nucleus.tolist() == pytest.approx(kept)
    assert one.tolist() == pytest.approx([1, 0, 0, 0, 0])


def test_moments_of_distributions_at_the_edge() -> None:
    flat = torch.zeros(1, 100)
    sure = torch.full((1, 100), -torch.inf)
    sure[0, 3] = 5.0
    half = torch.full((1, 100), -torch.inf)
    half[0, :2] = 0.0
    one = found(torch.cat((flat, sure, half)), torch.tensor([3, 3, 1]), [Sampling(top_k=2)])
    assert one.rank.tolist() == [0, 0, 0]
    assert one.mu.tolist() == pytest.approx([-4.60517, 0, -0.693147], rel=1e-5)
    assert one.sigma.tolist() == pytest.approx([0, 0, 0], abs=1e-5)
    # of a hundred equal ones all are kept
    assert one.sampled[0].tolist() == pytest.approx([-4.60517, 0, -0.693147], rel=1e-5)


def test_nothing_to_score() -> None:
    empty = spread(torch.zeros(0, 10), torch.zeros(0), torch.zeros(0), [Sampling()])
    assert [tuple(part.shape) for part in empty] == [(0,), (0,), (0,), (1, 0)]
