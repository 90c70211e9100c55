"""What each seat sees, and what is granted to it: two frozen objects, kept apart.

The auditor alone holds all canaries; it grades guesses and is no adversary. An attack gets a view
and a knowledge, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

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


@dataclass(frozen=True)
class TruePrefix:
    """Granted by the auditor: the true text before the secret. A worst case no client holds."""

    prompts: tuple[NDArray[np.int32], ...]
    tokens: int
