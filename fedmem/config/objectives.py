"""`training.objective`: which tokens of an example carry loss."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedmem.config.section import Section


class CausalLM(Section):
    """Next-token prediction on every supervised token."""

    kind: Literal["causal_lm"] = "causal_lm"


class Goldfish(Section):
    """Goldfish loss (Hans et al. 2024): about one supervised token in `k` carries no loss.

    `static`: every k-th token of an example. `hashed`: those where a hash of the `context` tokens
    before falls in 1/k, so that a passage loses the same tokens wherever it stands.
    """

    kind: Literal["goldfish"] = "goldfish"
    k: int = Field(4, ge=2, le=10_000)
    strategy: Literal["static", "hashed"] = "hashed"
    context: int = Field(13, ge=1, le=1024, description="hashed: tokens before that are hashed")


Objective = Annotated[CausalLM | Goldfish, Field(discriminator="kind")]
