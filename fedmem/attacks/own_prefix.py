"""The realistic attack: a client prompts the shared model with its own notes' beginnings.

Each prompt ends where a value of its own stands, so that a model that has learned other
patients' values in such places may name them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any

from fedmem.attacks.generate import greedy
from fedmem.attacks.views import ClientView, OwnPrefix
from fedmem.data.records import Canary


def guess(view: ClientView, knowledge: OwnPrefix) -> list[str]:
    """One text for every prompt spent (at most `budget`; none if the client owns no notes)."""
    rng = random.Random(f"{knowledge.seed}/{view.client}/{view.round}")
    cuts = [(note, span.start) for note in view.own_notes for span in note.phi if span.start > 1]
    rng.shuffle(cuts)
    prompts = {note.ids[:cut].tobytes(): note.ids[:cut] for note, cut in cuts}
    chosen = list(prompts.values())[: knowledge.budget]
    outputs = greedy(view.model, chosen, knowledge.tokens)
    return [view.tokenizer.decode(ids) for ids in outputs]


def grade(
    guesses: Sequence[str], view: ClientView, canaries: Sequence[Canary]
) -> list[dict[str, Any]]:
    """A row for every value of every canary that is not the client's: did it come out?"""
    return grade_values(guesses, view, canaries, "own_prefix")


def outsider(view: ClientView, canary: Canary) -> bool:
    """Whether the client holds no copy of the canary, nor a note of the same patient.

    A twin that would have been its own is left out too, to treat twins as canaries are treated.
    """
    patients = {note.patient for note in view.own_notes}
    return view.client not in canary.owners and canary.patient not in patients


def grade_values(
    guesses: Sequence[str], view: ClientView, canaries: Sequence[Canary], knowledge: str
) -> list[dict[str, Any]]:
    """A row for every value of every canary that is not the client's: did it come out?

    The auditor's side: values are compared verbatim, and must stand alone ("3 May 2001" is not in
    "13 May 2001"). Canaries and twins of which the client is no `outsider` are left out. A value
    that stands in the client's own notes is no find either.
    """
    said = "\n".join(guesses)
    known = "\n".join(note.text for note in view.own_notes).casefold()
    rows = []
    for canary in canaries:
        if not outsider(view, canary):
            continue
        for index, span in enumerate(canary.phi):
            if span.first and not stands_in(span.value.casefold(), known):
                found = stands_in(span.value, said)
                rows.append(
                    {
                        "attacker": view.client,
                        "knowledge": knowledge,
                        "attack": "phi",
                        "canary": canary.id,
                        "target": index,
                        "tokens": span.end - span.start,
                        "matched": (span.end - span.start) if found else 0,
                        "hit": found,
                        "category": span.category,
                        "type": span.type,
                        "queries": len(guesses),
                    }
                )
    return rows


def stands_in(value: str, text: str) -> bool:
    """Whether the value is in the text, and not as a part of a longer word or number."""
    return re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text) is not None
