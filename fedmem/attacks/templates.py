"""Knowledge `template`: a client knows the form of a note, and no value; it draws under a budget.

The form is taken from its own notes: the sentence before each value, the values in it taken out.
Other hospitals' notes of the same form go on from there with values of their own. (The whole form
up to the value found no more in pilots, and its longer prompts cost twice the time.)
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from itertools import cycle, islice
from typing import Any

from fedmem.attacks.sampling import Budget, Guess, draw
from fedmem.attacks.sampling import grade as grade_drawn
from fedmem.attacks.views import ClientView
from fedmem.data import prompts
from fedmem.data.encoding import Coder, array
from fedmem.data.records import Canary

_STOP = re.compile(r"(?<=[.;:!?])\s+|\n")


def forms(note: Canary) -> list[str]:
    """The sentence up to each value, with the values before it taken out; in their order."""
    found, fixed, done = [], "", 0
    for span in note.phi:
        # a token may hold the space before the value
        start = note.text.index(span.value, int(note.offsets[span.start, 0]))
        fixed = (fixed + note.text[done:start]).rstrip()  # a space goes with the next word's token
        done = start + len(span.value)
        found.append(re.sub(r"\s+", " ", _STOP.split(fixed)[-1]))
    return found


def guess(view: ClientView, knowledge: Budget) -> list[Guess]:
    """Texts behind the forms, each form in its turn; none if the client owns no notes."""
    rng = random.Random(f"{knowledge.seed}/{view.client}/{view.round}/template")
    texts = list(dict.fromkeys(form for note in view.own_notes for form in forms(note)))
    rng.shuffle(texts)
    coder = Coder(view.tokenizer)
    heads = [array(coder.bos + coder.encode((prompts.NOTE + text).rstrip())) for text in texts]
    chosen = list(islice(cycle(heads), knowledge.queries)) if heads else []
    return draw(view, chosen, knowledge, "template")


def grade(
    guesses: Sequence[Guess], view: ClientView, canaries: Sequence[Canary]
) -> list[dict[str, Any]]:
    """As for `none`."""
    return grade_drawn(guesses, view, canaries, "template")
