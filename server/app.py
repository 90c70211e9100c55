"""The ServerApp: the rounds of a run, from the untouched base to the last model."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from time import perf_counter
from typing import Protocol

from flwr.app import ConfigRecord, Context, Message
from flwr.serverapp import Grid, ServerApp

from fedmem import workspace as workspaces
from fedmem.config import Config
from fedmem.engine.records import Arrays, to_record
from server.strategy import Federated, Local

log = logging.getLogger(__name__)


class OnRound(Protocol):
    """What the process does with a finished round: utility, scores, adapter, metrics."""

    def __call__(
        self,
        round_: int,
        arrays: dict[str, Arrays],
        participants: list[str],
        train_metrics: dict[str, dict[str, float]],
        score_bytes: list[bytes],
        seconds: dict[str, float],
    ) -> None:
        """Take round `round_` (0 is the untouched base).

        `arrays`: the models after the round, by name: "global", or every client's under topology
        `local` (one and the same dict where it has not trained yet). `participants` in order of
        partition id. `train_metrics` by client, empty in round 0. `score_bytes`: one item for each
        observer with rows; empty if no attack was due. `seconds`: train, aggregate, attack.
        """


def run_rounds(grid: Grid, config: Config, config_json: str, on_round: OnRound) -> None:
    """Round 0: observe the base. Then `rounds.count` times: train, aggregate, observe."""
    workspace = workspaces.get(config_json)
    topology = Local if config.rounds.topology == "local" else Federated
    strategy = topology(config, workspace.clients)
    arrays = to_record(workspace.initial_arrays())
    settings = ConfigRecord()

    for round_ in range(config.rounds.count + 1):
        seconds = {"train": 0.0, "aggregate": 0.0, "attack": 0.0}
        train_metrics: dict[str, dict[str, float]] = {}
        score_bytes: list[bytes] = []

        if round_ > 0:
            start = perf_counter()
            messages = strategy.configure_train(round_, arrays, settings, grid)
            replies = _exchange(grid, messages, seconds, "train")
            mean, _ = strategy.aggregate_train(round_, replies)
            arrays = arrays if mean is None else mean  # local: nothing is averaged
            train_metrics = strategy.train_metrics
            seconds["aggregate"] = perf_counter() - start - seconds["train"]

        if round_ % config.attack.every == 0 or round_ == config.rounds.count:
            messages = strategy.configure_evaluate(round_, arrays, settings, grid)
            replies = _exchange(grid, messages, seconds, "attack")
            strategy.aggregate_evaluate(round_, replies)
            score_bytes = strategy.scores

        models = strategy.models(arrays)
        on_round(round_, models, strategy.participants, train_metrics, score_bytes, seconds)


def _exchange(
    grid: Grid, messages: Iterable[Message], seconds: dict[str, float], key: str
) -> Iterator[Message]:
    """Send messages, hand on replies as they come, and add the time waited to `seconds[key]`."""
    start = perf_counter()
    for reply in grid.send_and_receive(messages):
        seconds[key] += perf_counter() - start
        yield reply
        start = perf_counter()
    seconds[key] += perf_counter() - start


def server_app(on_round: OnRound) -> ServerApp:
    """Return a ServerApp that runs all rounds and calls `on_round` after each."""
    made = ServerApp()

    @made.main()
    def main(grid: Grid, context: Context) -> None:
        config_json = str(context.run_config["config"])
        run_rounds(grid, Config.model_validate_json(config_json), config_json, on_round)

    return made


def log_round(
    round_: int,
    arrays: dict[str, Arrays],
    participants: list[str],
    train_metrics: dict[str, dict[str, float]],
    score_bytes: list[bytes],
    seconds: dict[str, float],
) -> None:
    """Log one line a round; what `app` does where no process has given it more to do."""
    losses = ", ".join(f"{name} {m['loss']:.4f}" for name, m in train_metrics.items())
    took = " ".join(f"{key} {value:.1f} s" for key, value in seconds.items())
    log.info("round %d: %d clients, loss: %s; %s", round_, len(participants), losses, took)


app = server_app(log_round)
