"""One arm under many draws of its seeds, questions and notes: gains in utility, and leakage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedmem.comparison.frontier import Floats
from fedmem.comparison.observations import is_validation
from fedmem.comparison.sheets import Arm


@dataclass(frozen=True)
class Axis:
    """A measure of utility: `nll` (nats a token) or `accuracy`, over some tasks (None: all)."""

    name: str
    measure: str = "nll"
    tasks: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Weights:
    """How often each seed, question and note was drawn; row 0 of each array: once, the data."""

    seeds: Floats  # [draws + 1, seeds]
    questions: dict[int, Floats]  # seed -> [draws + 1, questions]
    notes: dict[int, Floats]  # seed -> [draws + 1, notes]


def weights(arm: Arm, seeds: Sequence[int], draws: int, seed: int) -> Weights:
    """Draws with replacement: seeds; in each, questions by task and notes by level."""
    rng = np.random.default_rng(seed)
    picked = _times(rng, len(seeds), draws)
    questions, notes = {}, {}
    for one in seeds:
        sheet = arm.seeds[one]
        questions[one] = _strata(rng, sheet.tasks, draws)
        notes[one] = _strata(rng, sheet.copies.tolist(), draws)
    return Weights(picked, questions, notes)


def _times(rng: np.random.Generator, n: int, draws: int) -> Floats:
    drawn = rng.multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float64)
    return np.vstack([np.ones(n), drawn])


def _strata(rng: np.random.Generator, groups: Sequence[Any], draws: int) -> Floats:
    found = np.zeros((draws + 1, len(groups)))
    for group in sorted(set(groups)):
        members = [i for i, other in enumerate(groups) if other == group]
        found[:, members] = _times(rng, len(members), draws)
    return found


def gains(arm: Arm, drawn: Weights, axis: Axis, validation: bool = False) -> Floats:
    """Gain over the untouched base, [rates, draws + 1, rounds + 1]: nats, or share of questions."""

    def one(seed: int) -> Floats:
        sheet = arm.seeds[seed]
        chosen = np.array(
            [
                is_validation(question) == validation and (not axis.tasks or task in axis.tasks)
                for question, task in zip(sheet.questions, sheet.tasks, strict=True)
            ]
        )
        values = (-sheet.nll if axis.measure == "nll" else sheet.accuracy)[:, :, chosen]
        mean = _mean(values, drawn.questions[seed][:, chosen])
        return mean - mean[:, :, :1]

    return _over_seeds(arm, drawn, one)


def shares(arm: Arm, drawn: Weights, attack: str, copies: int) -> Floats:
    """Share of notes written `copies` times (0: of twins) that came out; as `gains`.

    NaN where there are no such notes, or none on which the attack could be tried.
    """

    def one(seed: int) -> Floats:
        sheet = arm.seeds[seed]
        level = sheet.copies == copies
        return _mean(sheet.hits[attack][:, :, level], drawn.notes[seed][:, level])

    return _over_seeds(arm, drawn, one)


def _mean(values: Floats, times: Floats) -> Floats:
    """[rates, rounds, units] under [draws, units] -> [rates, draws, rounds]; NaN counts nowhere."""
    known = ~np.isnan(values)
    total = np.einsum("aru,du->adr", np.where(known, values, 0.0), times)
    count = np.einsum("aru,du->adr", known.astype(np.float64), times)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(total / count)


def _over_seeds(arm: Arm, drawn: Weights, one: Callable[[int], Floats]) -> Floats:
    """Mean over the drawn seeds; one in which nothing could be tried (NaN) counts nowhere."""
    seeds = list(drawn.questions)
    found = np.stack([one(seed) for seed in seeds])  # [seeds, rates, draws, rounds]
    times = drawn.seeds.T[:, None, :, None] * ~np.isnan(found)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((np.nan_to_num(found) * times).sum(axis=0) / times.sum(axis=0))
