"""What a defence is given for one turn: the round, the model sent out, noise, and its own state."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

from fedmem.config import Config

if TYPE_CHECKING:
    from fedmem.model.state import Arrays

SERVER = "server"


@dataclass
class Turn:
    """One defence's turn at one client, or at the server.

    `received`: the model that was sent out this round. `clients`: how many are joined (1 at a
    client). `state`: what the server's hook left in the round before; it travels to the clients,
    so it must be fit to be seen. `side`: numbers in [0, 1] that a client hands over beside its
    update, weighted, masked and joined as the update is; at the server their joined values.
    `figures`: what to write down, by name. `base`: the weight below a dense delta, by name.
    """

    round: int
    received: Arrays
    rng: np.random.Generator
    clients: int = 1
    last: bool = False
    state: dict[str, float] = field(default_factory=dict)
    side: dict[str, float] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    base: Callable[[str], np.ndarray] = lambda name: np.zeros(())

    def noise(self, update: Arrays, sigma: float) -> Arrays:
        """The update with N(0, sigma^2) added to every number, in float64 before it is rounded."""
        return {
            name: (array + sigma * self.rng.standard_normal(array.shape)).astype(np.float32)
            for name, array in update.items()
        }


def generator(config: Config, round_: int, who: str, label: str) -> np.random.Generator:
    """Random numbers of one turn.

    A simulation draws them from the config's seed, to be repeatable: whoever knows the seed can
    take the noise off again. In deployment they come from the system's entropy.
    """
    if config.engine.kind == "deployment":
        return np.random.default_rng(secrets.randbits(256))
    digest = blake2b(f"{config.seed}/{round_}/{who}/{label}".encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def l2(arrays: Arrays) -> float:
    """The L2 norm of all arrays taken as one vector."""
    return float(np.sqrt(sum(np.square(a, dtype=np.float64).sum() for a in arrays.values())))


def numbers(arrays: Arrays) -> int:
    """How many numbers the arrays hold."""
    return sum(array.size for array in arrays.values())


def scaled(update: Arrays, factor: float) -> Arrays:
    """The update times a factor."""
    return {name: (array * factor).astype(np.float32) for name, array in update.items()}


def within(update: Arrays, norm: float) -> Arrays:
    """The update, scaled down to an L2 norm of at most `norm`. A zero update stays as it is."""
    found = l2(update)
    if found <= norm:
        return update
    # float32 rounds to nearest, which may lead a hair beyond the norm: an epsilon depends on it
    return scaled(update, norm / found * (1.0 - 1e-6))
