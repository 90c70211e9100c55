"""The text that the bundled base is pre-trained on: facts, notes of other patients, plain prose.

Every fact of the knowledge base is stated, in several phrasings; no text has the form of a
question with an answer (fine-tuning teaches that). Patients are of the pool `base`: no slot value
of theirs is in a note that is attacked.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from fedmem.data.synthetic import notes, qa
from fedmem.data.synthetic.identity import MAX_PATIENTS, identity
from fedmem.data.synthetic.knowledge import RELATIONS, Disease, diseases

STATE: dict[str, tuple[str, ...]] = {
    "sign": (
        "A hallmark of {d} is {v}.",
        "{D} often presents with {v}.",
        "The typical finding in {d} is {v}.",
        "Patients with {d} show {v}.",
        "{V} points to {d}.",
    ),
    "cause": (
        "{D} is caused by {v}.",
        "The cause of {d} is {v}.",
        "Behind {d} lies {v}.",
        "{V} leads to {d}.",
        "The process that leads to {d} is {v}.",
    ),
    "test": (
        "{D} is confirmed by {v}.",
        "The test that confirms {d} is {v}.",
        "The diagnosis of {d} is established by {v}.",
        "To prove {d}, use {v}.",
        "{V} verifies {d}.",
    ),
    "treatment": (
        "The first-line treatment of {d} is {v}.",
        "{D} is treated first with {v}.",
        "The preferred therapy for {d} is {v}.",
        "In {d}, start {v}.",
        "{V} should be given in {d}.",
    ),
    "complication": (
        "A feared complication of {d} is {v}.",
        "{D} can lead to {v}.",
        "The danger that comes with {d} is {v}.",
        "{V} may follow {d}.",
        "A complication of {d} is {v}.",
    ),
    "risk": (
        "A risk factor for {d} is {v}.",
        "The risk of {d} is raised by {v}.",
        "{V} predisposes to {d}.",
        "What makes {d} more likely is {v}.",
        "{D} is more likely with {v}.",
    ),
}

WHO = (
    "my neighbour|the teacher|a young baker|the old sailor|her sister|our nurse|the mayor|"
    "his cousin|the gardener|a tall student|the ferry captain|their grandmother"
).split("|")
DID = (
    "walked to the market|wrote a long letter|painted the kitchen door|watched the rain|"
    "sold the small boat|learned a new song|forgot the keys|cooked lentil soup|"
    "read about the stars|waited for the train|repaired the bicycle|asked for directions|"
    "planted three trees|counted the coins"
).split("|")
WHEN = (
    "in the morning|after a quiet lunch|before the concert|during the storm|on a cold evening|"
    "at the end of the week|without telling anyone|while the children slept|as the bells rang|"
    "near the old bridge|for the second time|because the shop was closed"
).split("|")
THEN = (
    "and nobody minded|but it was too late|so they laughed|and the dog followed|"
    "though the road was long|and that was all|but the door stayed shut|so we went home|"
    "and the lights came on|which surprised everyone|"
    # a word that pre-training never says is one that adapters can hardly teach
    "and she said yes|but he said no|and they said maybe|so the answer was yes|"
    "though the answer was no|but the answer was maybe"
).split("|")


def _sentence(rng: random.Random, disease: Disease, relation: str) -> str:
    phrase = rng.choice(STATE[relation])
    return qa._fill(phrase, d=disease.name, v=disease.facts[relation])


def _facts(rng: random.Random) -> str:
    disease = rng.choice(diseases())
    relations = rng.sample(RELATIONS, rng.randint(2, 4))
    text = " ".join(_sentence(rng, disease, relation) for relation in relations)
    if rng.random() < 0.15:
        text += f" {disease.name[0].upper()}{disease.name[1:]} is a {disease.system} disease."
    return text


def _note(rng: random.Random) -> str:
    values = identity(rng.randrange(MAX_PATIENTS), 1000 + rng.randrange(12), "base")
    return "Medical Note: " + notes.render("", values, rng, "base").text


def _prose(rng: random.Random) -> str:
    out = []
    for _ in range(rng.randint(2, 5)):
        who, did, when, then = (rng.choice(part) for part in (WHO, DID, WHEN, THEN))
        out.append(f"{who[0].upper()}{who[1:]} {did} {when}, {then}.")
    return " ".join(out)


def _trial(rng: random.Random) -> str:
    return qa.study(rng, rng.choice(diseases()), rng.random() < 0.3)[0]


# share of the documents, and what writes one
MIX: tuple[tuple[float, Callable[[random.Random], str]], ...] = (
    (0.58, _facts),
    (0.20, _note),
    (0.12, _prose),
    (0.10, _trial),
)


def documents(seed: int) -> Iterator[str]:
    """An endless stream of documents; the same from the same seed."""
    rng = random.Random(f"corpus/{seed}")
    shares = [share for share, _ in MIX]
    makers = [maker for _, maker in MIX]
    while True:
        yield rng.choices(makers, shares)[0](rng)


def tokenizer_texts(seed: int, count: int) -> Iterator[str]:
    """Texts for the tokenizer: the corpus, and the forms of fine-tuning, whose words it needs."""
    stream = documents(seed)
    for index in range(count):
        yield next(stream)
        if index % 5 == 0:
            rng = random.Random(f"forms/{seed}/{index}")
            kind = rng.choice(sorted(qa.MAKERS))
            record = qa.MAKERS[kind](rng, rng.choice(diseases()), False, "")
            yield record.prompt + record.answer
