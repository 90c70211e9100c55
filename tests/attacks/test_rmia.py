"""RMIA against the paper's double loop, and on planted members and non-members."""

from __future__ import annotations

import numpy as np
import pytest
from test_lira import world

from fedmem.attacks import rmia
from fedmem.metrics.roc import auc


def by_hand(
    target: np.ndarray,
    shadows: np.ndarray,
    included: np.ndarray,
    population: np.ndarray,
    gamma: float,
    slope: float | None,
) -> list[float]:
    """The paper's algorithm, one pair at a time; slope None: online."""

    def ratio(note: int) -> float:
        inside = np.exp(shadows[included[:, note], note]).mean()
        out = np.exp(shadows[~included[:, note], note]).mean()
        average = (inside + out) / 2 if slope is None else ((1 + slope) * out + 1 - slope) / 2
        return float(np.exp(target[note]) / average)

    found = []
    for x in range(len(target)):
        others = [z for z in np.flatnonzero(population) if z != x]
        found.append(np.mean([ratio(x) / ratio(z) >= gamma for z in others]))
    return found


@pytest.mark.parametrize("gamma", [1.0, 1.1])
def test_scores_are_those_of_the_double_loop(gamma: float) -> None:
    target, shadows, included, member = world(0.1, notes=30, shadows=4)
    given = (target, shadows, included, ~member)
    assert rmia.online(*given, gamma=gamma) == pytest.approx(by_hand(*given, gamma, None))
    for slope in (0.0, 0.3, 1.0):
        found = rmia.offline(*given, gamma=gamma, slope=slope)
        assert found == pytest.approx(by_hand(*given, gamma, slope))


def test_members_are_found_and_nothing_learned_is_chance() -> None:
    target, shadows, included, member = world(0.2)
    for attack in (rmia.offline, rmia.online):
        scores = attack(target, shadows, included, ~member)
        assert auc(scores[member], scores[~member]).point > 0.8
    inside = 0
    for seed in range(40):
        target, shadows, included, member = world(0.0, notes=60, seed=seed)
        scores = rmia.online(target, shadows, included, ~member)
        found = auc(scores[member], scores[~member])
        inside += found.low <= 0.5 <= found.high
    assert inside >= 36  # of 40


def test_a_note_is_not_compared_with_itself_and_unknown_ones_have_no_score() -> None:
    ratios = np.array([1.0, 2.0, np.nan])
    population = np.array([True, True, True])
    found = rmia.beaten(ratios, population, 1.0)
    assert found[:2].tolist() == [0.0, 1.0] and np.isnan(found[2])
    alone = rmia.beaten(np.array([1.0, 2.0]), np.array([True, False]), 1.0)
    assert np.isnan(alone[0]) and alone[1] == 1.0
