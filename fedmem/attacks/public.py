"""View `public`: whoever is handed the released model draws texts from it, and knows nothing else.

The auditor's bound for this view (`true_prefix`) is its scoring pass over the last model, the same
as for clients: granted the true text, it does not matter who asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fedmem.attacks import sampling
from fedmem.attacks.sampling import Budget, Guess
from fedmem.attacks.views import ClientView, PublicView
from fedmem.data.encoding import array
from fedmem.data.records import Canary
from fedmem.metrics.public import PUBLIC
from fedmem.training.local import seed_of


def guess(view: PublicView, knowledge: Budget) -> list[Guess]:
    """One text, drawn from the start of a text, for every query; as a client's `none`."""
    first = view.tokenizer.bos_token_id
    first = view.tokenizer.eos_token_id if first is None else first
    if first is None:
        return []
    rng = torch.Generator()
    rng.manual_seed(seed_of(knowledge.seed, PUBLIC, 0))
    prompts = [array([first])] * knowledge.queries
    drawing = knowledge.drawing
    return sampling.sample(view.model, prompts, drawing.tokens, drawing, rng)


def grade(
    guesses: Sequence[Guess], view: PublicView, canaries: Sequence[Canary], round_: int, name: str
) -> list[dict[str, Any]]:
    """The auditor's side, as for a client that owns no notes: rows of scores.parquet."""
    nobody = ClientView(PUBLIC, round_, None, view.tokenizer, ())
    rows = sampling.grade(guesses, nobody, canaries)
    return [{"round": round_, "model": name, "view": "public", **row} for row in rows]
