"""Parts of `attack` that are sections of their own."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedmem.config.section import Section

# recall and neighbourhood read the notes again; the others are read off the scoring pass
Membership = Literal[
    "loss", "zlib", "reference", "min_k", "min_k_pp", "ez", "recall", "neighbourhood"
]
FREE: tuple[Membership, ...] = ("loss", "zlib", "reference", "min_k", "min_k_pp", "ez")


class Sampling(Section):
    """A way to draw the next token: temperature, then top_k, then top_p, as transformers has it."""

    temperature: float = Field(1.0, gt=0, le=10)
    top_k: int | None = Field(None, ge=1, description="null: no such cut")
    top_p: float = Field(1.0, gt=0, le=1, description="1: no such cut")


class Drawing(Sampling):
    """How `template` and `none` draw their texts, so many tokens a query."""

    top_k: int | None = Field(40, ge=1, description="null: no such cut")
    tokens: int = Field(128, ge=1, le=100_000)


class Discoverable(Section):
    """(n,p)-discoverable extraction: a secret counts if n queries give it with probability p."""

    n: list[Annotated[int, Field(ge=1)]] = Field([1, 10, 100, 1000], min_length=1, max_length=16)
    p: list[Annotated[float, Field(gt=0, lt=1)]] = Field(
        [0.1, 0.5, 0.9], min_length=1, max_length=16
    )


class Repurpose(Section):
    """A client tunes the model on pairs of its own (patient -> value), then asks for others'."""

    pairs: int = Field(64, ge=1, le=100_000, description="of its own, at most")
    steps: int = Field(50, ge=1, le=10_000)
    lr: float = Field(1e-3, gt=0, le=10)
    queries: int = Field(256, ge=1, description="questions about others' patients, at most")
    rounds: Literal["last", "all"] = "last"
