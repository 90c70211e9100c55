"""`attack.audit`: the one-run audit, on canaries of its own; and when the server's view exists."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from fedmem.config.section import Section

if TYPE_CHECKING:
    from fedmem.config import Config


class Audit(Section):
    """Each of `canaries` notes is written once, or not at all, by a fair coin of its own.

    `guesses`: the share of coins that are guessed, half of them the likeliest members and half the
    unlikeliest; it is fixed before the run, as the bound demands. null: all of them.
    """

    canaries: int = Field(100, ge=2, le=100_000)
    guesses: float | None = Field(None, gt=0, le=1)
    level: float = Field(0.95, gt=0.5, lt=0.999, description="above the accounted: a warning")
    per: Literal["record"] = "record"

    @property
    def guessed(self) -> int:
        """How many coins are guessed."""
        return max(2, round((self.guesses or 1.0) * self.canaries))


def problem_with_server_view(config: Config) -> str | None:
    """Why the server's seat cannot be taken in a run of this config; None if it can."""
    if config.rounds.topology != "federated":
        return f"sees no updates under rounds.topology {config.rounds.topology}"
    if config.engine.kind == "deployment":
        return "needs a simulation; a deployed server holds no canaries to grade it"
    if config.aggregation.rule == "product":
        return "is not offered for aggregation.rule product; use fedavg or freeze_a"
    return None
