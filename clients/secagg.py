"""A client's part in secure aggregation: four messages a round, and its secrets in between.

The secrets of a round lie in the node's `Context.state`, as bytes. In deployment that is the node's
own. In a simulation one process, or under Ray the driver, holds the Context of every client: there
the protocol runs in full, and protects nobody from whoever runs the simulation.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, MetricRecord, RecordDict

from fedmem.aggregation import weight_of
from fedmem.config import Config
from fedmem.config.secure import clients_a_round, plan_of
from fedmem.defences.client import take_turn
from fedmem.engine.records import (
    DEFENCES,
    EXAMPLES,
    LARGEST_WEIGHT,
    METRIC_NAMES,
    SECAGG,
    only_arrays,
    only_config,
    to_arrays,
)
from fedmem.errors import RunError
from fedmem.secagg.client import Client
from fedmem.secagg.encoding import Encoding
from fedmem.secagg.metrics import weighted

if TYPE_CHECKING:
    from fedmem.workspace import Workspace


def keys(config: Config, name: str, round_: int, context: Context) -> RecordDict:
    """Begin a round: public keys, as one ConfigRecord. Raises RunError for a round that was."""
    kept: Any = context.state.get(SECAGG)
    if kept is not None and kept["round"] >= round_:
        raise RunError(
            f"round {round_}, client {name}: secure aggregation: refused: keys for round {round_}, "
            f"and it has taken part in round {kept['round']}"
        )
    names = _names(config)
    client = Client(names.index(name), round_, names, plan_of(config, clients_a_round(config)))
    answer = client.keys()
    _keep(client, context)
    return RecordDict({"keys": ConfigRecord(answer)})


def shares(
    config: Config, name: str, round_: int, content: RecordDict, context: Context
) -> RecordDict:
    """Split the secrets among the neighbours whose keys the message brings."""
    client = _kept(config, name, round_, context)
    answer = client.shares(only_config(content))
    _keep(client, context)
    return RecordDict({"shares": ConfigRecord(answer)})


def train(
    workspace: Workspace, name: str, round_: int, content: RecordDict, context: Context
) -> RecordDict:
    """Train, and send the update (with the defences' side numbers, the weight and, if the config
    has it so, metrics) as one masked uint32 array. In the clear: the names of the metrics, seconds.

    Raises RunError, naming client and round, for an update or a weight beyond its public range.
    """
    settings, config = only_config(content), workspace.config
    client = _kept(config, name, round_, context)
    client.receive(settings)
    received, state = to_arrays(only_arrays(content)), str(settings.get(DEFENCES, "{}"))
    update, metrics = take_turn(workspace, name, round_, received, json.loads(state))
    expected = {n for p in workspace.products for n in p.shapes} or set(received)
    weight = weight_of(config.aggregation, name, metrics[EXAMPLES])
    scalars = {n: weight * float(update.pop(n)) for n in sorted(set(update) - expected)}
    if workspace.products:  # the mean of products is no product of means
        update = {p.weight: p.delta(update) for p in workspace.products}
    seconds = metrics.pop("seconds", 0.0)
    told = weighted(metrics) if config.aggregation.secure.metrics == "aggregated" else {}
    encoding = Encoding(
        clients_a_round(config), config.aggregation.secure.range, _number(settings, LARGEST_WEIGHT)
    )
    try:
        vector = encoding.encode(update, weight, scalars | told)
    except ValueError as error:
        raise RunError(f"round {round_}, client {name}: update refused: {error}") from None
    masked = client.masked(vector)
    _keep(client, context)
    return RecordDict(
        {
            "arrays": ArrayRecord({"masked": Array(np.asarray(masked, "<u4"))}),
            "config": ConfigRecord({METRIC_NAMES: json.dumps(list(told))}),
            "metrics": MetricRecord({"seconds": seconds}),
        }
    )


def unmask(
    config: Config, name: str, round_: int, content: RecordDict, context: Context
) -> RecordDict:
    """Hand out the shares that open the sum; the round's secrets are forgotten."""
    client = _kept(config, name, round_, context)
    answer = client.reveal(only_config(content))
    _keep(client, context)
    return RecordDict({"unmask": ConfigRecord(answer)})


def _names(config: Config) -> list[str]:
    return config.present


def _keep(client: Client, context: Context) -> None:
    context.state[SECAGG] = ConfigRecord(client.dump())


def _kept(config: Config, name: str, round_: int, context: Context) -> Client:
    kept: Any = context.state.get(SECAGG)
    if kept is None or kept["round"] != round_:
        raise RunError(
            f"round {round_}, client {name}: secure aggregation: refused: a message of a round "
            "that it has announced no keys for"
        )
    names = _names(config)
    plan = plan_of(config, clients_a_round(config))
    return Client.load(names.index(name), names, plan, kept)


def _number(settings: ConfigRecord, key: str) -> float:
    value = settings.get(key)
    if not isinstance(value, float):
        raise ValueError(f"{key}: expected a number, found {value!r}")
    return value
