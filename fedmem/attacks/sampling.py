"""Knowledge `none`: a client draws texts from the start of a text, under a budget of queries.

It needs no prompt and no note; what it hopes for is that the model recites. Each query is one text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from fedmem.attacks.generate import Prompts, generate
from fedmem.attacks.own_prefix import grade_values
from fedmem.attacks.runs import grade_runs
from fedmem.attacks.views import ClientView
from fedmem.config import Attack
from fedmem.config.attack import Drawing
from fedmem.config.attack import Sampling as Point
from fedmem.data.encoding import array
from fedmem.data.records import Canary
from fedmem.training.local import seed_of

Guess = list[int]  # token ids of one text, without its prompt


@dataclass(frozen=True)
class Budget:
    """So many texts, each drawn as `drawing` says; the draws hang on seed, client and round."""

    queries: int
    drawing: Drawing
    seed: int

    @classmethod
    def of(cls, attack: Attack, seed: int) -> Budget:
        """As the config has it."""
        return cls(attack.queries, attack.drawing, seed)


def guess(view: ClientView, knowledge: Budget) -> list[Guess]:
    """One text for every query; none for a tokenizer that has no token a text could begin with."""
    first = view.tokenizer.bos_token_id
    if first is None:  # then a document's end is what stands before the next one
        first = view.tokenizer.eos_token_id
    if first is None:
        return []
    return draw(view, [array([first])] * knowledge.queries, knowledge, "none")


def draw(view: ClientView, prompts: Prompts, knowledge: Budget, name: str) -> list[Guess]:
    """A text behind each prompt. The same draws for the same seed, client, round and name."""
    rng = torch.Generator()
    rng.manual_seed(seed_of(knowledge.seed, f"{view.client}/{name}", view.round))
    return sample(view.model, prompts, knowledge.drawing.tokens, knowledge.drawing, rng)


def sample(
    model: Any, prompts: Prompts, tokens: int, point: Point, rng: torch.Generator
) -> list[Guess]:
    """`tokens` tokens behind each prompt, drawn by temperature, top_k and top_p in this order.

    rng: of the CPU, where all drawing is done, so that it is the same on every device.
    """
    warpers = LogitsProcessorList([TemperatureLogitsWarper(float(point.temperature))])
    if point.top_k is not None:
        warpers.append(TopKLogitsWarper(point.top_k))
    if point.top_p < 1:
        warpers.append(TopPLogitsWarper(point.top_p))

    def choose(logits: Tensor) -> Tensor:
        none: Any = torch.empty((len(logits), 0), dtype=torch.long)  # the text before: unused
        cut: Any = warpers(none, logits.float().cpu())
        drawn = torch.multinomial(cut.softmax(-1), 1, generator=rng).squeeze(-1)
        return drawn.to(logits.device)

    return generate(model, prompts, tokens, choose)


def grade(
    guesses: Sequence[Guess], view: ClientView, canaries: Sequence[Canary], knowledge: str = "none"
) -> list[dict[str, Any]]:
    """Rows for every outsider's canary: which of its values came out, and how long a run of it."""
    texts = [view.tokenizer.decode(ids) for ids in guesses]
    rows = grade_values(texts, view, canaries, knowledge)
    return rows + grade_runs(guesses, view, canaries, knowledge)
