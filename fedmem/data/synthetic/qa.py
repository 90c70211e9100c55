"""Questions rendered from the knowledge base: MCQ, yes/no/maybe with a context, flashcards.

Held-out questions are about diseases that no training question asks about, in phrasings that no
training question uses: the base knows the facts, fine-tuning teaches the form, and utility
measures what carries over. In the closed questions the context decides the answer, so they
measure a skill, not a fact; its numbers and findings are invented and say so ("a trial"). There
the disease, the opening and the question are new, the finding's own wording is not: what is
measured is reading a known verdict off a new case.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from hashlib import blake2s

from fedmem.data import prompts
from fedmem.data.records import QARecord
from fedmem.data.synthetic.knowledge import RELATIONS, Disease, diseases
from fedmem.errors import DataError

HELDOUT = 120  # held-out questions a kind

# relation -> (phrasings for training, phrasings held out)
ASK: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "sign": (
        (
            "What is a hallmark of {d}?",
            "Which finding is typical of {d}?",
            "How does {d} often present?",
        ),
        ("Which sign points to {d}?", "What would a patient with {d} typically show?"),
    ),
    "cause": (
        ("What causes {d}?", "What is the cause of {d}?", "{D} is caused by what?"),
        ("What lies behind {d}?", "Which process leads to {d}?"),
    ),
    "test": (
        (
            "Which test confirms {d}?",
            "How is {d} diagnosed?",
            "What is used to establish {d}?",
        ),
        ("Which investigation proves {d}?", "How would you verify {d}?"),
    ),
    "treatment": (
        (
            "What is the first-line treatment of {d}?",
            "How is {d} treated first?",
            "Which therapy is preferred for {d}?",
        ),
        ("What should a patient with {d} be given?", "Which treatment would you start in {d}?"),
    ),
    "complication": (
        (
            "What is a feared complication of {d}?",
            "What can {d} lead to?",
            "Which complication may follow {d}?",
        ),
        ("Which danger comes with {d}?", "What should be feared in {d}?"),
    ),
    "risk": (
        (
            "What is a risk factor for {d}?",
            "What raises the risk of {d}?",
            "Who is prone to {d}?",
        ),
        ("What makes {d} more likely?", "What predisposes to {d}?"),
    ),
}

OPENERS = (
    (
        "A trial followed {n} adults with {d}.",
        "We studied {n} patients with {d}.",
        "{n} people with {d} took part in a trial.",
    ),
    ("This trial enrolled {n} patients who had {d}.", "Data of {n} adults with {d} were analysed."),
)
FINDINGS: dict[str, tuple[str, ...]] = {
    "yes": (
        "Outcomes were clearly better with {t}",
        "{T} was superior to placebo",
        "The group given {t} improved significantly",
        "A strong benefit of {t} was found",
    ),
    "no": (
        "Outcomes did not differ between {t} and placebo",
        "{T} was no better than placebo",
        "The group given {t} did not improve",
        "No benefit of {t} was found",
    ),
    "maybe": (
        "Results with {t} were inconclusive",
        "{T} helped in one subgroup only",
        "The effect of {t} remained uncertain",
        "Evidence for {t} was mixed",
    ),
}
ENDINGS: dict[str, tuple[str, ...]] = {
    "yes": (" (p = 0.001).", " (p = 0.004).", ", a significant difference."),
    "no": (" (p = 0.81).", " (p = 0.64).", ", no difference at all."),
    "maybe": (" and more data are needed.", "; further trials are needed.", ", unclear so far."),
}
JUDGE = (
    ("Does {t} help in {d}?", "Is {t} effective in {d}?"),
    ("Does {t} work in {d}?", "Is {t} helpful in {d}?"),
)


def is_heldout(disease: Disease) -> bool:
    """Whether only held-out questions ask about this disease (about one in three)."""
    return blake2s(disease.name.encode()).digest()[0] % 3 == 0


def _fill(phrase: str, **values: str) -> str:
    upper = {key.upper(): value[0].upper() + value[1:] for key, value in values.items()}
    return phrase.format(**values, **upper)


def distractors(rng: random.Random, disease: Disease, relation: str, count: int) -> list[str]:
    """Values of the same relation that belong to diseases of other body systems."""
    pool = {
        other.facts[relation]
        for other in diseases()
        if other.system != disease.system and other.facts[relation] != disease.facts[relation]
    }
    return rng.sample(sorted(pool), count)


def _fact_question(
    rng: random.Random, disease: Disease, heldout: bool
) -> tuple[str, tuple[str, ...], int]:
    relation = rng.choice(RELATIONS)
    question = _fill(rng.choice(ASK[relation][heldout]), d=disease.name)
    options = [disease.facts[relation], *distractors(rng, disease, relation, 3)]
    rng.shuffle(options)
    return question, tuple(options), options.index(disease.facts[relation])


def _mcq(rng: random.Random, disease: Disease, heldout: bool, id_: str) -> QARecord:
    question, options, correct = _fact_question(rng, disease, heldout)
    return prompts.mcq_text(id_, question, options, correct)


def _flashcard(rng: random.Random, disease: Disease, heldout: bool, id_: str) -> QARecord:
    question, options, correct = _fact_question(rng, disease, heldout)
    # options that the prompt does not show: they make an open answer's accuracy measurable
    prompt = prompts.open_question(id_, question, "").prompt
    return prompts.choice(id_, "open", prompt, options, correct)


def study(rng: random.Random, disease: Disease, heldout: bool) -> tuple[str, str, str]:
    """(context, treatment, verdict) of an invented trial: the context alone decides the verdict."""
    verdict = rng.choice(prompts.DECISIONS)
    treatment = disease.facts["treatment"]
    context = _fill(
        rng.choice(OPENERS[heldout]), n=str(rng.randint(3, 90) * 10), d=disease.name
    ) + _fill(" " + rng.choice(FINDINGS[verdict]) + rng.choice(ENDINGS[verdict]), t=treatment)
    return context, treatment, verdict


def _closed(rng: random.Random, disease: Disease, heldout: bool, id_: str) -> QARecord:
    context, treatment, verdict = study(rng, disease, heldout)
    question = _fill(rng.choice(JUDGE[heldout]), t=treatment, d=disease.name)
    return prompts.closed(id_, context, question, verdict)


MAKERS: dict[str, Callable[[random.Random, Disease, bool, str], QARecord]] = {
    "mcq": _mcq,
    "closed": _closed,
    "flashcards": _flashcard,
}


def _questions(kind: str, count: int, seed: str, heldout: bool, id_: str) -> Iterator[QARecord]:
    rng = random.Random(f"qa/{seed}/{kind}/{heldout}")
    pool = [disease for disease in diseases() if is_heldout(disease) == heldout]
    seen: set[str] = set()
    in_vain = 0  # rounds over all diseases that brought nothing new
    while len(seen) < count:
        before = len(seen)
        for disease in rng.sample(pool, len(pool)):
            record = MAKERS[kind](rng, disease, heldout, f"{id_}-{kind}-{len(seen):05d}")
            if record.prompt not in seen and len(seen) < count:
                seen.add(record.prompt)
                yield record
        in_vain = 0 if len(seen) > before else in_vain + 1
        if in_vain == 20:
            raise DataError(
                f"synthetic {kind}: {count} questions asked for, about {before} different ones "
                "exist; lower `records`"
            )


def generate(
    adapter: str, records: int, seed: int, client: str
) -> tuple[list[QARecord], list[QARecord]]:
    """(training records of this client, held-out records of this seed, the same for every client).

    `adapter`: a kind of `MAKERS`, or `mixed`: all kinds in equal parts. Ids are unique in a run.
    """
    kinds = list(MAKERS) if adapter == "mixed" else [adapter]
    train: list[QARecord] = []
    heldout: list[QARecord] = []
    for k, kind in enumerate(kinds):
        count = records // len(kinds) + (k < records % len(kinds))
        train += _questions(kind, count, f"{seed}/{client}", False, client)
        heldout += _questions(kind, HELDOUT, f"{seed}", True, "heldout")
    return train, heldout
