"""Clipping an update: no client moves the model further than a norm, whatever it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedmem.claims import Claim, History
from fedmem.config import Config
from fedmem.config import defences as cfg
from fedmem.defences.turn import Turn, l2, within

if TYPE_CHECKING:
    from fedmem.model.state import Arrays


class Clip:
    """Scales an update down to the L2 norm, as one vector or array by array."""

    side: tuple[str, ...] = ()

    def __init__(self, settings: cfg.Clip, config: Config) -> None:
        self.settings = settings

    def on_client_update(self, update: Arrays, turn: Turn) -> Arrays:
        """Clip; figures: the norm before, and whether (or what share of the arrays) was clipped."""
        norm = self.settings.norm
        turn.figures["norm"] = l2(update)
        if self.settings.per == "model":
            turn.figures["clipped"] = float(turn.figures["norm"] > norm)
            return within(update, norm)
        over = [l2({name: array}) > norm for name, array in update.items()]
        turn.figures["clipped"] = sum(over) / len(over)
        return {name: within({name: a}, norm)[name] for name, a in update.items()}

    def on_aggregate(self, mean: Arrays, turn: Turn) -> Arrays:
        """Nothing at the server."""
        return mean

    def claim(self, history: History) -> Claim:
        """It bounds what one client can do to the model, and hides nothing by itself."""
        each = "" if self.settings.per == "model" else ", each layer's by itself"
        return Claim(
            what="update clipping",
            where=f"each client, before it sends: L2 norm at most {self.settings.norm:g}{each}",
            protects="bounds how far one client's records can move the model; hides nothing alone",
            trust="every client, to clip its own update",
        )
