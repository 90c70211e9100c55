"""A client's ledger of DP-SGD: what each round it trained cost, kept in its node's `Context`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flwr.app import ConfigRecord, Context, RecordDict

from fedmem.accounting import Step
from fedmem.engine.records import TRAINED, only_config
from fedmem.errors import RunError

if TYPE_CHECKING:
    from fedmem.workspace import Workspace

LEDGER = (
    "dp-ledger"  # in Context.state: rounds, noise_multipliers, sample_rates, steps, in parallel
)


def account(
    workspace: Workspace, client: str, round_: int, content: RecordDict, context: Context
) -> None:
    """Enter the round into the ledger, before anything of it is trained, let alone sent.

    The message says in which rounds the client has trained before. A simulation that is taken up
    again has new Contexts: their ledgers are written anew from that. In deployment a node's own
    ledger alone counts. Raises RunError, naming client and round, where it is gone or lacks a
    round, and for a round that was trained before: its noise would be drawn twice, and paid once.
    """
    config = workspace.config
    if config.training.dp is None:
        return
    from fedmem.training.dp_sampling import plan  # which loads torch

    told: Any = only_config(content).get(TRAINED, [])
    before = [int(number) for number in told]
    step = plan(config, workspace.part(client).shards[client])
    ledger = read(context)
    simulated = config.engine.kind != "deployment"
    if simulated and not ledger:
        ledger = dict.fromkeys(before, step)
    if missing := sorted(set(before) - set(ledger)):
        raise RunError(
            f"round {round_}, client {client}: accountant state lost: it has trained in round "
            f"{missing[0]}, and its node's ledger does not say so; no epsilon holds any more, "
            "start the run anew"
        )
    if round_ in ledger and not simulated:
        raise RunError(
            f"round {round_}, client {client}: was trained before; refused, for it would be paid "
            "once and released twice"
        )
    write(context, ledger | {round_: step})


def read(context: Context) -> dict[int, Step]:
    """The ledger by round; empty where there is none."""
    kept: Any = context.state.get(LEDGER)
    if kept is None:
        return {}
    columns = (kept["noise_multipliers"], kept["sample_rates"], kept["steps"])
    return {
        number: Step(z, q, steps)
        for number, z, q, steps in zip(kept["rounds"], *columns, strict=True)
    }


def write(context: Context, ledger: dict[int, Step]) -> None:
    """Keep the ledger in the node's state."""
    context.state[LEDGER] = ConfigRecord(
        {
            "rounds": list(ledger),
            "noise_multipliers": [float(step.noise_multiplier) for step in ledger.values()],
            "sample_rates": [float(step.sample_rate) for step in ledger.values()],
            "steps": [step.steps for step in ledger.values()],
        }
    )
