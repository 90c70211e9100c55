"""Made-up arms for tests of comparisons: questions and notes whose truth is known."""

from __future__ import annotations

import numpy as np

from fedmem.comparison.sheets import Arm, Sheet

SPEEDS = (0.1, 0.35, 1.0, 2.0)  # how fast each rate learns


def arms(
    rng: np.random.Generator,
    leak: tuple[float, float] = (0.0, 0.0),
    seeds: int = 3,
    notes: int = 8,
    seed_spread: float = 0.6,
    reach: float = 1.0,
) -> tuple[Arm, Arm]:
    """Two arms that learn alike; what each gives back at a utility differs by `leak` (log-odds).

    Same questions and notes for both; every run has luck of its own, by seed and by rate. The
    second arm can learn `reach` times as much; what it leaks at a utility stays that of the first.
    """
    twins, asked, rounds = 24, 120, 6
    ids = [f"heldout-mcq-{i:05d}" for i in range(asked)]
    sheets: tuple[dict[int, Sheet], dict[int, Sheet]] = ({}, {})
    for seed in range(seeds):
        hard, taught = rng.normal(1.06, 0.6, asked), np.abs(rng.normal(0.3, 0.2, asked))
        secret, threshold = rng.normal(0, 1.5, notes), rng.random(notes)
        for arm, added, far in zip(sheets, leak, (1.0, reach), strict=True):
            nll = np.zeros((len(SPEEDS), rounds, asked))
            hits = np.zeros((len(SPEEDS), rounds, notes + twins))
            luck = rng.normal(0, seed_spread)
            for rate, speed in enumerate(SPEEDS):
                ours = rng.normal(0, seed_spread / 2)
                for number in range(rounds):
                    learned = far * (1 - np.exp(-speed * number))
                    nll[rate, number] = hard - taught * learned + rng.normal(0, 0.1, asked)
                    odds = -4 + 6 * learned + added + secret + luck + ours + (rate - 1.5) / 2
                    if number:
                        hits[rate, number, :notes] = 1 / (1 + np.exp(-odds)) > threshold
            arm[seed] = Sheet(
                *(ids, ["mcq"] * asked, nll, np.full_like(nll, np.nan)),
                [f"n{i:02d}" for i in range(notes + twins)],
                np.array([10] * notes + [0] * twins),
                {"phi": hits},
            )
    rates = tuple(1e-3 * (i + 1) for i in range(len(SPEEDS)))
    one, other = sheets
    return Arm("one", rates, tuple(range(rounds)), one), Arm(
        "other", rates, tuple(range(rounds)), other
    )
