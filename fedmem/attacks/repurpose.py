"""Repurposing (rote learning, arXiv 2507.21914): what was memorised is tuned to a new prompt.

A model that was trained on notes may hold values that no prompt of the notes' form brings out. The
curious client writes pairs of its own (patient -> value) in a new form, tunes its copy of the
received model on them for a few steps, and asks in that form for other patients' values. It is
granted the others' names (knowledge `names`: an auditor's bound, as nobody has them all). Two
controls: twins' names, which were never trained on, and the same questions to the model as it was
received (`names_untuned`). The model is put back as it was.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fedmem.attacks.generate import greedy
from fedmem.attacks.own_prefix import outsider, stands_in
from fedmem.attacks.views import ClientView
from fedmem.config.attack import Repurpose
from fedmem.data.encoding import Coder, array
from fedmem.data.records import Canary, Example, TokenSpan
from fedmem.training.batches import collate
from fedmem.training.local import seed_of
from fedmem.training.loss import token_losses

KEY = "PATIENT"  # type of the value that names whom the others are about
FORM = "Patient record. Name: {key}. {type}:"
ROOM = 8  # tokens of an answer beyond the longest of the client's own
BATCH = 16


@dataclass(frozen=True)
class Names:
    """Other patients' names and what kinds of values to ask for: (name, type), the auditor's list.

    seed: of the choice of pairs, and of dropout.
    """

    asked: tuple[tuple[str, str], ...]
    settings: Repurpose
    seed: int


def pairs(note: Canary) -> list[tuple[str, TokenSpan]]:
    """(the patient's name, another value) for the first mentions in a note; none without a name."""
    key = next((span.value for span in note.phi if span.type == KEY), None)
    if key is None:
        return []
    return [(key, span) for span in note.phi if span.first and span.type != KEY]


def guess(view: ClientView, knowledge: Names) -> tuple[list[str], list[str]]:
    """Answers to what was asked, by the tuned model and by the received one, in order.

    None of either from a client without pairs of its own.
    """
    coder = Coder(view.tokenizer)
    own = [(key, span.type, span.value) for note in view.own_notes for key, span in pairs(note)]
    random.Random(f"{knowledge.seed}/{view.client}/{view.round}/repurpose").shuffle(own)
    if not own:
        return [], []
    lessons = [lesson(coder, *one) for one in own[: knowledge.settings.pairs]]
    prompts = [array(coder.bos + coder.encode(ask(*one))) for one in knowledge.asked]
    tokens = max(len(one.ids) - one.supervised for one in lessons) + ROOM

    def answers() -> list[str]:
        return [view.tokenizer.decode(ids) for ids in greedy(view.model, prompts, tokens)]

    untuned = answers()
    with put_back(view.model):
        seed = seed_of(knowledge.seed, f"{view.client}/repurpose", view.round)
        tune(view.model, lessons, knowledge.settings, seed, view.tokenizer.pad_token_id or 0)
        return answers(), untuned


def ask(key: str, type_: str) -> str:
    """The new prompt."""
    return FORM.format(key=key, type=type_.lower())


def lesson(coder: Coder, key: str, type_: str, value: str) -> Example:
    """The prompt and its answer; the answer and the line's end alone carry loss."""
    head = coder.bos + coder.encode(ask(key, type_))
    return Example(array(head + coder.encode(f" {value}") + coder.end), supervised=len(head))


@contextmanager
def put_back(model: Any) -> Iterator[None]:
    """Whatever is trained inside, afterwards the model is bit by bit what it was, in eval mode."""
    trained = [p for p in model.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in trained]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, kept in zip(trained, before, strict=True):
                parameter.copy_(kept)
                parameter.grad = None
        model.eval()


def tune(model: Any, lessons: Sequence[Example], settings: Repurpose, seed: int, pad: int) -> None:
    """`steps` of AdamW on batches of at most 16 lessons, in place; eval mode afterwards."""
    device = next(model.parameters()).device
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.lr, weight_decay=0.0)
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model.train()
    for _ in range(settings.steps):
        chosen = rng.choice(len(lessons), min(BATCH, len(lessons)), replace=False)
        ids, labels = collate([lessons[i] for i in chosen], pad, device)
        optimizer.zero_grad(set_to_none=True)
        losses = token_losses(model(input_ids=ids, use_cache=False).logits.float(), labels)
        (losses.sum() / max(1, int((labels[:, 1:] >= 0).sum()))).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
    model.eval()


def attack(
    view: ClientView, canaries: Sequence[Canary], settings: Repurpose, seed: int
) -> list[dict[str, Any]]:
    """Rows for values of outsiders' canaries and twins, by the tuned model and the received one.

    At most `queries` questions, notes in random order: as many of a twin as of a canary.
    """
    notes = [canary for canary in canaries if outsider(view, canary)]
    random.Random(f"{seed}/{view.client}/{view.round}/names").shuffle(notes)
    known = "\n".join(note.text for note in view.own_notes).casefold()
    places: list[tuple[Canary, int, str]] = []
    for note in notes:
        targets = {id(span): index for index, span in enumerate(note.phi)}
        for key, span in pairs(note):
            if not stands_in(span.value.casefold(), known):
                places.append((note, targets[id(span)], key))
    places = places[: settings.queries]
    asked = tuple((key, note.phi[index].type) for note, index, key in places)
    tuned, untuned = guess(view, Names(asked, settings, seed))
    rows = []
    for knowledge, said in (("names", tuned), ("names_untuned", untuned)):
        for (note, index, _), text in zip(places, said, strict=False):  # nothing was said: no rows
            span = note.phi[index]
            found = stands_in(span.value, text)
            rows.append(
                {
                    "attacker": view.client,
                    "knowledge": knowledge,
                    "attack": "phi",
                    "canary": note.id,
                    "target": index,
                    "tokens": span.end - span.start,
                    "matched": (span.end - span.start) if found else 0,
                    "hit": found,
                    "category": span.category,
                    "type": span.type,
                    "queries": len(said),
                }
            )
    return rows
