"""The released code's measures: character BLEU by hand, the penalty by a slow loop, the rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import Memorised, config, memorise

from fedmem.attacks import audit, paper_compat
from fedmem.attacks.approximate import token_bleu
from fedmem.attacks.paper_compat import char_bleu, penalised
from fedmem.attacks.true_prefix import cut
from fedmem.config import Attack


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Memorised:
    from tiny import save_base

    return memorise(save_base(tmp_path_factory.mktemp("base")))


def attack(**changes: Any) -> Attack:
    return Attack(**{"prefix_lengths": [5, 10], "continuation": 8, "paper_compat": True, **changes})


def test_character_bleu_is_high_where_no_four_words_agree() -> None:
    truth = "Patient seen today for follow-up of diabetes and hypertension"
    guess = "Patient seen todax for follow-up os diabetes and hypertensios"
    words = {word: i for i, word in enumerate({*truth.split(), *guess.split()})}
    by_word = [[words[word] for word in text.split()] for text in (guess, truth)]
    assert token_bleu(*by_word) == 0.0
    assert char_bleu(guess, truth) == 0.9


def test_character_bleu_by_hand() -> None:
    # abcde against abcdf: 4/5 characters, 3/4 pairs, 2/3 triples, 1/2 quadruples
    assert char_bleu("abcde", "abcdf") == round((4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25, 2) == 0.67
    assert char_bleu("abcd", "abcdabcd") == round(np.exp(1 - 8 / 4), 2)  # too short: brevity
    assert char_bleu("a b c", "a b c") == 1.0
    assert char_bleu("abc", "abc") == 0.0  # no quadruple at all
    assert char_bleu("", "abcd") == char_bleu("abcd", "") == 0.0


def slowly(model: Any, prompt: list[int], tokens: int, penalty: float) -> list[int]:
    """One prompt, no cache, counts in a dict."""
    made: list[int] = []
    for _ in range(tokens):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + made])).logits[0, -1].float()
        for token in set(made):
            logits[token] -= penalty * made.count(token)
        made.append(int(logits.argmax()))
    return made


@pytest.mark.parametrize("penalty", [0.0, 1.0, 30.0])
def test_the_penalty_is_that_of_a_slow_loop(known: Memorised, penalty: float) -> None:
    prompts = np.stack([c.ids[:12] for c in (known.canary, known.twin, known.other)])
    fast = penalised(known.model, prompts, 20, penalty)
    assert fast == [slowly(known.model, row.tolist(), 20, penalty) for row in prompts]
    if penalty == 30.0:  # no token comes twice while others are left
        assert all(len(set(row)) == 20 for row in fast)


def test_rows_of_a_note_known_by_heart_and_of_a_twin(known: Memorised) -> None:
    notes, long = (known.canary, known.twin), attack(prefix_lengths=[120], continuation=25)
    cuts = [cut(note, long, 0) for note in notes]
    rows = paper_compat.rows(known.model, known.tokenizer, cuts, long)
    assert {row["attack"] for row in rows} == {"paper_compat"}
    assert sorted({row["target"] for row in rows}) == [120]
    by_note = {note.id: [row for row in rows if row["canary"] == note.id] for note in notes}
    assert all(row["hit"] and row["bleu"] == 1.0 for row in by_note[known.canary.id])
    assert not any(row["hit"] or row["bleu"] >= 0.75 for row in by_note[known.twin.id])
    assert all(row["matched"] == 25 for row in by_note[known.canary.id])


def test_notes_too_short_for_the_longest_prompt_are_left_out(known: Memorised) -> None:
    long = attack(prefix_lengths=[5, 1000])
    cuts = [cut(known.canary, long, 0), None]
    assert cuts[0] is not None and cuts[0].lengths == (5,)
    assert paper_compat.rows(known.model, known.tokenizer, cuts, long) == []


def test_off_costs_no_pass_and_needs_no_tokenizer(
    known: Memorised, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError("called")

    monkeypatch.setattr(paper_compat, "rows", never)
    assert config(Path("base")).attack.paper_compat is False
    found = audit.bound(known.model, [known.twin], attack(paper_compat=False), 0, 1)
    assert {row["attack"] for row in found.scores} == {"phi", "loss", "extraction"}


def test_true_prefix_is_needed() -> None:
    with pytest.raises(ValueError, match="paper_compat: needs true_prefix"):
        attack(knowledge=["own_prefix"])
