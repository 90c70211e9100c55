"""What README says of the bundled base: it knows the stated facts, and not yet how to be asked."""

from __future__ import annotations

import random

import numpy as np

from fedmem.config.model import Model
from fedmem.data.encoding import Coder
from fedmem.data.records import EncodedQA
from fedmem.data.synthetic import corpus, qa
from fedmem.data.synthetic.knowledge import diseases
from fedmem.evaluation.options import option_logprobs
from fedmem.model.base import load_base, load_tokenizer

RELATIONS = ("sign", "cause", "test")


def share_right(form: str) -> float:
    """Accuracy over all diseases and three relations, four options each."""
    model, coder = load_base(Model()).eval(), Coder(load_tokenizer(Model()))
    rng, questions = random.Random(1), []
    for disease in diseases():
        for relation in RELATIONS:
            options = [
                disease.facts[relation],
                *qa.distractors(rng, disease, relation, 3),
            ]
            if form == "statement":
                start = qa._fill(corpus.STATE[relation][0], d=disease.name, v="@").split(" @")[0]
            else:
                asked = qa._fill(qa.ASK[relation][0][0], d=disease.name)
                start = f"Open Question: {asked}\nThe answer is:"
            questions.append(
                EncodedQA(
                    id="",
                    task=form,
                    prompt=np.array([*coder.bos, *coder.encode(start)], dtype=np.int32),
                    options=tuple(
                        np.array(coder.encode(f" {option}"), dtype=np.int32) for option in options
                    ),
                    correct=0,
                    scored=True,
                )
            )
    scored = option_logprobs(model, questions)
    return float(np.mean([np.argmax([one.mean() for one in s]) == 0 for s in scored]))


def test_the_bundled_base_knows_the_stated_facts() -> None:
    assert share_right("statement") >= 0.99


def test_it_has_to_be_taught_the_form_of_a_question() -> None:
    assert 0.2 < share_right("question") < 0.6
