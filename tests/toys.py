"""A small real workspace: least squares on numpy data, one shard a client. No model, no torch."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np

from fedmem import workspace as workspaces
from fedmem.config import Config
from fedmem.rounds import Round

Arrays = dict[str, np.ndarray]
NAMES = ["layers.0.q_proj.lora_A.weight", "b"]  # out of alphabetical order on purpose


def toy_config(clients: int = 3, **sections: object) -> Config:
    """Return a config for clients c0, c1, ...; `sections` replaces top-level keys."""
    source = {"kind": "synthetic", "adapter": "mcq"}
    data = {"clients": [{"name": f"c{i}", "source": source} for i in range(clients)]}
    return Config.model_validate({"name": "toy", "data": data, "rounds": {"count": 2}, **sections})


class LeastSquares:
    """Satisfies the Workspace contract: client i holds 5 + i rows of y = X w + b.

    `before` is called with (client, round, arrays) as a client starts to train; tests make it fail.
    `poison`: client -> what it adds to its update.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        pooled = config.rounds.topology == "centralized"
        self.clients = ["all"] if pooled else [c.name for c in config.data.clients]
        self.before: Callable[[str, int, Arrays], None] = lambda *_: None
        self.poison: dict[str, float] = {}
        self.observed: list[tuple[str, int]] = []
        self.whole, self.products = True, ()
        self.most_examples = 4 + len(self.clients)

    def shard(self, client: str) -> tuple[np.ndarray, np.ndarray]:
        i = self.clients.index(client)
        rng = np.random.default_rng(i)
        x = rng.normal(size=(5 + i, 4))
        return x, x @ np.array([1.0, -2.0, 3.0, 0.5]) + i

    def initial_arrays(self) -> Arrays:
        return {NAMES[0]: np.zeros((2, 2), np.float32), NAMES[1]: np.zeros(1, np.float32)}

    def base(self, name: str) -> np.ndarray:
        return np.zeros(())

    def train(self, client: str, round_: int, arrays: Arrays) -> tuple[Arrays, dict[str, float]]:
        self.before(client, round_, arrays)
        x, y = self.shard(client)
        weight, bias = arrays[NAMES[0]].reshape(4), arrays[NAMES[1]]
        error = x @ weight + bias - y
        step = 0.1 / len(y)
        new = {
            NAMES[0]: (weight - step * x.T @ error).reshape(2, 2).astype(np.float32),
            NAMES[1]: (bias - step * error.sum() + self.poison.get(client, 0.0)).astype(np.float32),
        }
        loss = float((error**2).mean())
        return new, {"num-examples": len(y), "loss": loss, "tokens": x.size, "seconds": 0.0}

    def observe(self, client: str, round_: int, arrays: Arrays) -> bytes:
        self.observed.append((client, round_))
        x, y = self.shard(client)
        error = x @ arrays[NAMES[0]].reshape(4) + arrays[NAMES[1]] - y
        return json.dumps({"client": client, "round": round_, "loss": (error**2).mean()}).encode()


def kept(config: Config) -> LeastSquares:
    """Make a toy for `config` and keep it as this process's workspace."""
    toy = LeastSquares(config)
    workspaces.keep(toy)  # type: ignore[arg-type]
    return toy


class Rounds:
    """An `on_round` that remembers what it was told."""

    def __init__(self) -> None:
        self.models: list[dict[str, Arrays]] = []
        self.participants: list[list[str]] = []
        self.metrics: list[dict[str, dict[str, float]]] = []
        self.scores: list[list[dict[str, object]]] = []
        self.seconds: list[dict[str, float]] = []

    def __call__(
        self,
        done: Round,
    ) -> None:
        assert done.number == len(self.models)
        self.models.append(done.models)
        self.participants.append(done.participants)
        self.metrics.append(done.train)
        self.scores.append([json.loads(row) for row in done.scores])
        self.seconds.append(done.seconds)
