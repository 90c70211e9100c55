"""LiRA against scipy and a loop over notes, and on planted members and non-members."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from fedmem.attacks import lira
from fedmem.metrics.roc import auc


def world(
    gain: float, notes: int = 200, shadows: int = 16, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(target, shadows, included, member): training on a note adds `gain` nats a token."""
    rng = np.random.default_rng(seed)
    hardness = rng.normal(-3.0, 1.0, notes).clip(max=-1.0)  # notes differ far more than runs do
    member = rng.random(notes) < 0.5
    half = rng.permuted(np.tile(np.arange(shadows) % 2 == 0, (notes, 1)), axis=1).T

    def run(inside: np.ndarray) -> np.ndarray:
        return hardness + gain * inside + rng.normal(0, 0.05, inside.shape)

    return run(member), run(half), half, member


def test_logit_is_that_of_the_paper() -> None:
    nats = np.array([-0.001, -0.7, -5.0, -40.0])
    p = np.exp(nats)
    assert lira.logit(nats) == pytest.approx(np.log(p / (1 - p)), rel=1e-6)
    assert np.isfinite(lira.logit(np.array([0.0, -1e-20]))).all()


@pytest.mark.parametrize("shadows", [6, 128])  # one variance for all; one of each note's own
def test_scores_are_those_of_scipy_note_by_note(shadows: int) -> None:
    target, seen, included, _ = world(0.2, notes=12, shadows=shadows)
    scaled, at = lira.logit(seen), lira.logit(target)
    sides = {True: included, False: ~included}

    def spread(mask: np.ndarray, note: int) -> float:
        if mask[:, note].sum() >= 64:
            return float(scaled[mask[:, note], note].std(ddof=1))
        within = [scaled[mask[:, n], n] for n in range(12)]
        squares = sum(((w - w.mean()) ** 2).sum() for w in within)
        return math.sqrt(squares / sum(len(w) - 1 for w in within))

    online, offline = lira.online(target, seen, included), lira.offline(target, seen, included)
    for note in range(12):
        mean = {side: scaled[mask[:, note], note].mean() for side, mask in sides.items()}
        dev = {side: spread(mask, note) for side, mask in sides.items()}
        ratio = norm.logpdf(at[note], mean[True], dev[True])
        ratio -= norm.logpdf(at[note], mean[False], dev[False])
        assert online[note] == pytest.approx(ratio, rel=1e-9)
        # the paper's: the chance that a shadow without the note is less sure of it
        above = norm.cdf(at[note], mean[False], dev[False])
        assert norm.cdf(offline[note]) == pytest.approx(above, rel=1e-9)


def test_members_are_found_though_notes_differ_far_more() -> None:
    target, shadows, included, member = world(0.2)
    assert auc(target[member], target[~member]).point < 0.65  # the loss alone
    for attack in (lira.offline, lira.online):
        scores = attack(target, shadows, included)
        assert auc(scores[member], scores[~member]).point > 0.95


def test_nothing_learned_is_chance() -> None:
    inside = 0
    for seed in range(40):
        target, shadows, included, member = world(0.0, notes=60, seed=seed)
        for attack in (lira.offline, lira.online):
            scores = attack(target, shadows, included)
            found = auc(scores[member], scores[~member])
            inside += found.low <= 0.5 <= found.high
    assert inside >= 72  # of 80: 95 % intervals


def test_too_few_shadows_give_no_score() -> None:
    target, shadows, included, _ = world(0.2, notes=5, shadows=2)
    assert np.isnan(lira.offline(target, shadows, included)).all()
    included[:] = False
    assert np.isnan(lira.online(target, shadows, included)).all()
