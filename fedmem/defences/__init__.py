"""Defences: objects with two hooks, on a client's update and on the joined one.

Their order is the list `defences` of the config. A new one is a file here, its settings in
`fedmem/config/defences.py`, and a line in `DEFENCES`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fedmem.claims import Claim, History
from fedmem.config import Config
from fedmem.defences.adaptive_clip import AdaptiveClip
from fedmem.defences.client_dp import ClientDP
from fedmem.defences.clip import Clip
from fedmem.defences.gaussian_noise import GaussianNoise
from fedmem.defences.prune import Prune
from fedmem.defences.turn import SERVER, Turn, generator

if TYPE_CHECKING:
    from fedmem.model.state import Arrays

State = dict[str, dict[str, float]]  # what a defence's server hook keeps, by the defence's label


class Defence(Protocol):
    """One protection of updates. An update is the change of the trained arrays, float32.

    `side` names the numbers in [0, 1] that its client hook leaves in `turn.side`.
    """

    side: tuple[str, ...]

    def on_client_update(self, update: Arrays, turn: Turn) -> Arrays:
        """At the client, before it sends."""

    def on_aggregate(self, mean: Arrays, turn: Turn) -> Arrays:
        """At the server, on the joined update, before it becomes part of the next model."""

    def claim(self, history: History) -> Claim:
        """What it protects, and whether that is a guarantee."""


DEFENCES: dict[str, Callable[[Any, Config], Defence]] = {
    "clip": Clip,
    "adaptive_clip": AdaptiveClip,
    "gaussian_noise": GaussianNoise,
    "client_dp": ClientDP,
    "prune": Prune,
}


class Chain:
    """The config's defences in their order; each has a label such as `1.clip`."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.parts: dict[str, Defence] = {
            f"{number}.{settings.kind}": DEFENCES[settings.kind](settings, config)
            for number, settings in enumerate(config.defences, 1)
        }
        # 0-d arrays that travel with an update, masked and joined as it is; values in [0, 1]
        self.side = [f"{label}/{s}" for label, part in self.parts.items() for s in part.side]

    def at_client(
        self, client: str, round_: int, received: Arrays, update: Arrays, state: State
    ) -> tuple[Arrays, dict[str, float]]:
        """(what to send: the update with the side numbers as 0-d arrays, figures by name)."""
        side: Arrays = {}
        figures: dict[str, float] = {}
        for label, part in self.parts.items():
            turn = Turn(round_, received, generator(self.config, round_, client, label))
            turn.state = dict(state.get(label, {}))
            update = part.on_client_update(update, turn)
            side |= {f"{label}/{s}": np.array(turn.side[s], np.float32) for s in part.side}
            figures |= {f"{label}.{name}": value for name, value in turn.figures.items()}
        return update | side, figures

    def at_server(
        self,
        round_: int,
        clients: int,
        received: Arrays,
        joined: Arrays,
        state: State,
        base: Callable[[str], np.ndarray],
    ) -> tuple[Arrays, State, dict[str, float]]:
        """(the update to apply, the state for the next round, figures by name).

        `joined`: the mean of what `clients` clients sent, side numbers among it.
        """
        mean = {name: array for name, array in joined.items() if name not in self.side}
        after: State = {}
        figures: dict[str, float] = {}
        for label, part in self.parts.items():
            turn = Turn(round_, received, generator(self.config, round_, SERVER, label), clients)
            turn.last, turn.base = round_ == self.config.rounds.count, base
            turn.state = dict(state.get(label, {}))
            turn.side = {s: float(joined[f"{label}/{s}"]) for s in part.side}
            mean = part.on_aggregate(mean, turn)
            if turn.state:
                after[label] = turn.state
            figures |= {f"{label}.{name}": value for name, value in turn.figures.items()}
        return mean, after, figures
