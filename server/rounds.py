"""The rounds of a run, from the untouched base to the last model, over any Grid."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from time import perf_counter
from typing import Any

from flwr.app import ConfigRecord, Message
from flwr.serverapp import Grid

from fedmem import workspace as workspaces
from fedmem.config import Config
from fedmem.model.state import Arrays
from fedmem.rounds import OnRound, Round, Start, attack_due, utility_due
from server.secagg import Secure
from server.strategy import Federated, Local


def run_rounds(
    grid: Grid, config: Config, on_round: OnRound, start: Start | None = None
) -> dict[str, Arrays]:
    """Round 0: observe the base. Then `rounds.count` times: train, aggregate, observe.

    `on_round` is told of each round as it ends. With `start` the rounds up to it are taken as done.
    Returns the last models by name.
    """
    workspace = workspaces.get(config.model_dump_json())
    topology = Local if config.rounds.topology == "local" else Federated
    if config.aggregation.secure.enabled:
        topology = Secure
    strategy = topology(config, workspace.clients, workspace.products, workspace.base)
    if "server" in config.attack.views:
        strategy.watch = workspace.watch  # never asked under secure aggregation
    arrays = strategy.begin(workspace.initial_arrays(), start)
    settings = ConfigRecord()
    models = strategy.models(arrays)
    losses: list[dict[str, Any]] = getattr(grid, "losses", [])  # engines that can lose a worker
    told = 0

    for number in range(start.number + 1 if start else 0, config.rounds.count + 1):
        seconds = {"train": 0.0, "aggregate": 0.0, "attack": 0.0}
        strategy.begin_round(number)

        if number > 0:
            began = perf_counter()
            if isinstance(strategy, Secure):
                send = partial(_exchange, grid, seconds=seconds)
                arrays = strategy.secure_round(number, arrays, settings, grid, send)
            else:
                messages = strategy.configure_train(number, arrays, settings, grid)
                replies = _exchange(grid, messages, "train", seconds)
                mean, _ = strategy.aggregate_train(number, replies)
                arrays = arrays if mean is None else mean  # local, or nobody took part
            seconds["attack"] = strategy.watching
            seconds["aggregate"] = perf_counter() - began - seconds["train"] - strategy.watching

        if attack_due(config, number) and workspace.whole:
            messages = strategy.configure_evaluate(number, arrays, settings, grid)
            replies = _exchange(grid, messages, "attack", seconds)
            strategy.aggregate_evaluate(number, replies)

        if not workspace.whole and (attack_due(config, number) or utility_due(config, number)):
            messages = strategy.configure_report(number, arrays, settings, grid)
            strategy.aggregate_report(number, _exchange(grid, messages, "attack", seconds))

        models = strategy.models(arrays)
        on_round(
            Round(
                number=number,
                models=models,
                participants=strategy.participants,
                train=strategy.train_metrics,
                scores=strategy.scores,
                told=strategy.told,
                seconds=seconds,
                losses=losses[told:],
                server=strategy.server_figures,
                defences=strategy.kept,
                lost=strategy.lost,
                watched=strategy.watched,
            )
        )
        told = len(losses)
    return models


def _exchange(
    grid: Grid, messages: Iterable[Message], key: str, seconds: dict[str, float]
) -> Iterator[Message]:
    """Send messages, hand on replies as they come, and add the time waited to `seconds[key]`."""
    start = perf_counter()
    # a list: Flower's own grids go through the messages twice. They share one record of the model.
    for reply in grid.send_and_receive(list(messages)):
        seconds[key] += perf_counter() - start
        yield reply
        start = perf_counter()
    seconds[key] += perf_counter() - start
