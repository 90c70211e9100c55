"""Gaussian noise on updates, on the joined update, or on trained weights: no DP by itself."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fedmem.claims import Claim, History
from fedmem.config import Config
from fedmem.config import defences as cfg
from fedmem.defences.turn import Turn, l2, numbers

if TYPE_CHECKING:
    from fedmem.model.state import Arrays

WHERE = {
    "update": "each client, on its update before it sends",
    "aggregate": "the server, on the joined update",
    "weights": "each client, on its trained weights before it sends",
}


class GaussianNoise:
    """Adds N(0, sigma^2). Figure: the signal-to-noise ratio, of L2 norms.

    `weights` is the experiment that Bossy et al. (2026) describe, on the adapter's weights; their
    ratio is told against the weights, not against their change.
    """

    side: tuple[str, ...] = ()

    def __init__(self, settings: cfg.GaussianNoise, config: Config) -> None:
        self.settings = settings

    def on_client_update(self, update: Arrays, turn: Turn) -> Arrays:
        """Add noise where it is the clients'."""
        if self.settings.at == "aggregate":
            return update
        signal = update
        if self.settings.at == "weights":
            signal = {name: turn.received[name] + array for name, array in update.items()}
        return self._add(update, signal, turn)

    def on_aggregate(self, mean: Arrays, turn: Turn) -> Arrays:
        """Add noise where it is the server's."""
        return self._add(mean, mean, turn) if self.settings.at == "aggregate" else mean

    def _add(self, update: Arrays, signal: Arrays, turn: Turn) -> Arrays:
        sigma = self.settings.sigma
        turn.figures["sigma"] = sigma
        turn.figures["snr"] = l2(signal) / (sigma * math.sqrt(numbers(signal)))
        return turn.noise(update, sigma)

    def claim(self, history: History) -> Claim:
        """No guarantee: what it is added to is not bounded, or not accounted for."""
        at = self.settings.at
        return Claim(
            what="Gaussian noise",
            where=f"{WHERE[at]}: sigma {self.settings.sigma:g}",
            protects="blurs what the model remembers; how far is for the attacks here to say",
            trust="the server, to add it" if at == "aggregate" else "every client, to add its own",
            figures={"sigma": self.settings.sigma},
            notes=("a Gaussian mechanism needs a bounded, accounted update: see client_dp",),
        )
