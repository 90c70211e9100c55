"""A client's turn: train, and send what the config's defences let out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedmem.defences import Chain, State
from fedmem.model.state import Arrays

if TYPE_CHECKING:
    from fedmem.workspace import Workspace


def take_turn(
    workspace: Workspace, client: str, round_: int, received: Arrays, state: State
) -> tuple[Arrays, dict[str, float]]:
    """(what to send, metrics). Without defences that is the trained arrays as they are.

    With them it is the update, trained minus received, after every defence's client hook. Where
    products are averaged it is the change of A and B, and what is sent are A and B again.
    """
    trained, metrics = workspace.train(client, round_, received)
    if not workspace.config.sends_updates:
        return trained, metrics
    began = workspace.fresh(client, round_) if workspace.products else received
    update = {name: array - began[name] for name, array in trained.items()}
    update, figures = Chain(workspace.config).at_client(client, round_, began, update, state)
    if workspace.products:
        update = {n: began[n] + array if n in began else array for n, array in update.items()}
    return update, metrics | figures
