"""What each seat sees, and what is granted to it: two frozen objects, kept apart.

The auditor alone holds all canaries; it grades guesses and is no adversary. An attack gets a view
and a knowledge, and nothing else. (`true_prefix` is no attack of a client: the auditor grants the
true text and reads the verdict off its own scoring pass.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fedmem.data.records import Canary


@dataclass(frozen=True)
class ClientView:
    """An honest-but-curious client: the model it received in this round, and its own notes.

    Not in it: the other clients' updates, records and names, and who sent what.
    """

    client: str
    round: int
    model: Any
    tokenizer: Any
    own_notes: tuple[Canary, ...]


@dataclass(frozen=True)
class OwnPrefix:
    """The client prompts with beginnings of its own notes: `budget` prompts, `tokens` each way."""

    budget: int
    tokens: int
    seed: int
