"""What each seat sees, and what is granted to it: two frozen objects, kept apart.

The auditor alone holds all canaries; it grades guesses and is no adversary. An attack gets a view
and a knowledge, and nothing else. (`true_prefix` is no attack of a client: the auditor grants the
true text and reads the verdict off its own scoring pass.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fedmem.data.records import Canary
from fedmem.model.state import Arrays


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
class PublicView:
    """Whoever is handed the last model, once it is released: the model alone, and no note.

    Not in it: earlier models, who took part, records and names of anybody.
    """

    model: Any
    tokenizer: Any


@dataclass(frozen=True)
class ServerView:
    """The honest-but-curious server without secure aggregation: updates in the clear, by client.

    received: the model it sent to all. updates: what each client's arrays changed by, as its own
    defences left them; one client at a time, where several would not fit into memory. model_of:
    arrays -> the model with these arrays, in eval mode.
    """

    round: int
    received: Arrays
    updates: Mapping[str, Arrays]
    model_of: Callable[[Arrays], Any]


@dataclass(frozen=True)
class SecureServerView:
    """The same server under secure aggregation: the sum of all updates, and no summand.

    What it sees of the training is what every client can see from two consecutive global models,
    so nothing is tried from this seat that is not tried from theirs.
    """

    round: int
    received: Arrays
    total: Arrays
    model_of: Callable[[Arrays], Any]


@dataclass(frozen=True)
class Candidates:
    """The auditor grants the text of notes, some of which some client may hold: an upper bound."""

    notes: tuple[Canary, ...]


@dataclass(frozen=True)
class OwnPrefix:
    """The client prompts with beginnings of its own notes: `budget` prompts, `tokens` each way."""

    budget: int
    tokens: int
    seed: int
