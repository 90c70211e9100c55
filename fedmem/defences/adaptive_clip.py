"""A clip norm that follows a quantile of the updates' norms."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fedmem.claims import Claim, History
from fedmem.config import Config
from fedmem.config import defences as cfg
from fedmem.defences.turn import Turn, l2, within

if TYPE_CHECKING:
    from fedmem.model.state import Arrays

SMALLEST = 1e-12  # a norm of zero would never grow again


class AdaptiveClip:
    """Andrew et al. 2021, "Differentially Private Learning with Adaptive Clipping", section 3.

    Each client clips to C and hands over b, whether its norm was at most C; the server moves
    C <- C exp(-rate (mean of b + noise - quantile)).
    """

    side: tuple[str, ...] = ("below",)

    def __init__(self, settings: cfg.AdaptiveClip, config: Config) -> None:
        self.settings = settings

    def on_client_update(self, update: Arrays, turn: Turn) -> Arrays:
        """Clip to the current norm; figures: the norm before, and whether it was clipped."""
        norm = turn.state.get("norm", self.settings.norm)
        turn.figures["norm"] = l2(update)
        turn.figures["clipped"] = float(turn.figures["norm"] > norm)
        turn.side["below"] = 1.0 - turn.figures["clipped"]
        return within(update, norm)

    def on_aggregate(self, mean: Arrays, turn: Turn) -> Arrays:
        """Move the norm for the next round; the update stays as it is."""
        norm = turn.state.get("norm", self.settings.norm)
        noise = self.settings.noise / max(1, turn.clients) * turn.rng.standard_normal()
        share = turn.side["below"] + noise
        turn.figures["clip_norm"] = norm
        moved = norm * math.exp(-self.settings.rate * (share - self.settings.quantile))
        turn.state["norm"] = max(SMALLEST, min(1e12, moved))
        return mean

    def claim(self, history: History) -> Claim:
        """As clipping; what the noisy count gives away is not accounted for."""
        s = self.settings
        return Claim(
            what="adaptive update clipping",
            where=f"each client, before it sends: the norm follows the {s.quantile:g} quantile, "
            f"from {s.norm:g}; the count of clipped clients has noise of sigma {s.noise:g}",
            protects="bounds how far one client's records can move the model; hides nothing alone",
            trust="every client, to clip its own update and to count truly",
            notes=("the norm depends on the clients' updates and is public",),
        )
