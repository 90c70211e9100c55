"""Where one arm stands: at its own best, or where it first reaches a gain and leaks least."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedmem.comparison.draws import Axis, Weights, gains, shares
from fedmem.comparison.frontier import Floats, Place, first_reach, least, value_at
from fedmem.comparison.sheets import Arm


@dataclass(frozen=True)
class Case:
    """What is compared: leakage of an attack at a level, along an axis; other axes beside it."""

    axis: Axis
    attack: str
    copies: int
    beside: tuple[Axis, ...] = ()


@dataclass(frozen=True)
class At:
    """One arm somewhere on its frontier; arrays [draws + 1], leak = share less twins.

    notes, guessed: for each note of the level, and for each twin, whether it came out, by the data
    alone; between two rounds a part of one.
    """

    share: Floats
    twins: Floats
    notes: Floats
    guessed: Floats
    gain: Floats
    beside: list[Floats]
    rate: float
    round: float

    @property
    def leak(self) -> Floats:
        return self.share - self.twins


class Side:
    """One arm under all draws, to be asked where it stands. Arrays [rates, draws, rounds + 1].

    `best`: the highest gain on the validation half, and the rate and round (by number) it is at.
    """

    def __init__(self, arm: Arm, drawn: Weights, case: Case) -> None:
        self.arm, self.seeds = arm, list(drawn.questions)
        self.attack, self.copies = case.attack, case.copies
        self.gain = gains(arm, drawn, case.axis)
        self.share = shares(arm, drawn, case.attack, case.copies)
        guessed = shares(arm, drawn, case.attack, 0)
        self.twins = np.where(np.isnan(guessed), 0.0, guessed)  # without twins the share itself
        self.beside = [gains(arm, drawn, axis) for axis in case.beside]
        chosen = gains(arm, drawn, case.axis, validation=True)[:, 0]  # [rates, rounds + 1]
        # ties between rates go to the one that the validation half likes best
        self.order = list(np.argsort(-np.nanmax(chosen, axis=1), kind="stable"))
        rate, number = np.unravel_index(np.nanargmax(chosen), chosen.shape)
        self.best = float(chosen[rate, number]), int(rate), int(number)

    def at_best(self) -> At:
        """At the rate and round with the highest gain on the validation half."""
        _, rate, number = self.best
        beside = [other[rate, :, number] for other in self.beside]
        return At(
            share=self.share[rate, :, number],
            twins=self.twins[rate, :, number],
            notes=self._hits(self.copies)[rate, number],
            guessed=self._hits(0)[rate, number],
            gain=self.gain[rate, :, number],
            beside=beside,
            rate=self.arm.rates[rate],
            round=float(self.arm.rounds[number]),
        )

    def at_gain(self, target: Floats | float) -> At:
        """Where the arm leaks least of all places at which a rate first reaches the gain.

        target: one for all draws, or one for each.
        """
        places = [first_reach(self.gain[rate], target) for rate in self.order]
        leak = self.share - self.twins
        lowest, which = least(self._there(leak, places))

        def taken(values: Floats) -> Floats:
            return self._there(values, places)[which, np.arange(len(which))]

        rate, place = self.order[which[0]], places[which[0]]

        def notes(copies: int) -> Floats:
            hits = self._hits(copies)[rate].T  # [notes, rounds + 1]
            return value_at(hits, Place(*(np.repeat(part[:1], len(hits)) for part in place)))

        return At(
            share=taken(self.share),
            twins=taken(self.twins),
            notes=notes(self.copies),
            guessed=notes(0),
            gain=np.where(np.isnan(lowest), np.nan, target),
            beside=[taken(other) for other in self.beside],
            rate=self.arm.rates[rate],
            round=_round(self.arm, place),
        )

    def _there(self, values: Floats, places: Sequence[Place]) -> Floats:
        """`values` [rates, draws, rounds + 1] at each rate's place: [rates, draws]."""
        pairs = zip(self.order, places, strict=True)
        return np.stack([value_at(values[rate], place) for rate, place in pairs])

    def _hits(self, copies: int) -> Floats:
        """[rates, rounds + 1, notes] of a level, all seeds side by side."""
        sheets = [self.arm.seeds[seed] for seed in self.seeds]
        found = [sheet.hits[self.attack][:, :, sheet.copies == copies] for sheet in sheets]
        return np.concatenate(found, axis=2)


def _round(arm: Arm, place: Place) -> float:
    """The point estimate's place in rounds, such as 3.4."""
    after = int(place.after[0])
    last = arm.rounds[max(after - 1, 0)]
    return last + float(place.fraction[0]) * (arm.rounds[after] - last)
