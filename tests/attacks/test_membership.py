"""Membership scores: by hand, at the edges, and on a model that learned some notes only."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import canary, config, overfit

from fedmem.attacks import neighbourhood, recall
from fedmem.attacks.audit import audit
from fedmem.attacks.membership import ATTACKS, NEED_BASE
from fedmem.attacks.rows import token_table
from fedmem.attacks.scoring import score
from fedmem.config import Config
from fedmem.data.records import Canary
from fedmem.data.synthetic import notes
from fedmem.metrics.membership import rows
from fedmem.metrics.outcomes import Owned
from fedmem.metrics.tokens import Tokens, TokenTable, tokens_of
from fedmem.model.base import load


def made(logprob: list[float], ok: list[bool] | None = None, **more: Any) -> Tokens:
    n = len(logprob)
    logs = np.array(logprob, np.float32)
    right = np.array(ok or [False] * n)
    mu, sigma = np.full(n, -2, np.float32), np.full(n, 0.5, np.float32)
    rank = np.zeros(n, np.int32)
    return Tokens(right, logs, rank, mu, sigma, np.empty((0, n), np.float32), 40, **more)


def test_scores_by_hand() -> None:
    tokens = made([-1, -2, -3, -4, -5, -6, -7, -8, -9, -10], recall=-4.4, neighbours=-7.0)
    base = made([-2, -2, -2, -4, -5, -6, -7, -8, -9, -12])
    found = {name: attack(tokens, base) for name, attack in ATTACKS.items()}
    assert found == pytest.approx(
        {
            "loss": -5.5,
            "zlib": -5.5 / 40,
            "reference": 0.2,
            "min_k": -9.5,  # the lowest two of ten
            "min_k_pp": -15.0,  # (-9.5 + 2) / 0.5
            "ez": 3 / 4,  # gains 1 + 2, losses 1
            "recall": 0.8,
            "neighbourhood": 1.5,
        }
    )


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_note_of_no_token_but_its_first_has_no_score(attack: str) -> None:
    assert ATTACKS[attack](made([]), made([])) is None


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_note_of_one_token_more_has_one(attack: str) -> None:
    tokens, base = made([-3.0], recall=-3.3, neighbours=-4.0), made([-4.0])
    assert ATTACKS[attack](tokens, base) == pytest.approx(
        {
            **{"loss": -3, "zlib": -3 / 40, "reference": 1, "min_k": -3, "min_k_pp": -2},
            **{"ez": 1, "recall": 1.1, "neighbourhood": 1},
        }[attack]
    )


def test_without_a_base_or_a_pass_there_is_no_score() -> None:
    for attack in (*NEED_BASE, "recall", "neighbourhood"):
        assert ATTACKS[attack](made([-1.0, -2.0]), None) is None


def test_ez_where_the_published_ratio_has_no_value() -> None:
    ez = ATTACKS["ez"]
    base = made([-2.0, -2.0])
    assert ez(made([-1.0, -1.0], [True, True]), base) == 1  # errs nowhere
    assert ez(made([-1.0, -1.5]), base) == 1  # no losses
    assert ez(made([-2.0, -2.0]), base) == 0.5  # no change
    assert ez(made([-1.0, -3.0], [True, False]), base) == 0  # gains elsewhere do not count
    # the same order as the published ratio of gains to losses
    pairs = [(1.0, 4.0), (2.0, 1.0), (1.0, 1.0), (5.0, 0.5)]
    ours = [ez(made([-4 + gain, -4 - lost]), made([-4.0, -4.0])) for gain, lost in pairs]
    ratio = [gain / lost for gain, lost in pairs]
    assert np.argsort(np.array(ours, float)).tolist() == np.argsort(ratio).tolist()
    assert ours == pytest.approx([r / (1 + r) for r in ratio], rel=1e-6)


def test_a_certain_distribution_does_not_divide_by_zero() -> None:
    sure = Tokens(
        *(np.array([True]), np.array([0.0], np.float32), np.array([0], np.int32)),
        *(np.zeros(1, np.float32), np.zeros(1, np.float32), np.empty((0, 1), np.float32), 9),
    )
    assert ATTACKS["min_k_pp"](sure, None) == 0


# --- on models -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Planted:
    """A model trained on `members`, and the same before; `twins` were never seen."""

    before: Any
    after: Any
    members: list[Canary]
    twins: list[Canary]
    config: Config
    prefix: np.ndarray


@pytest.fixture(scope="module")
def planted(base_folder: Path) -> Planted:
    made = config(
        base_folder,
        model={"method": "full"},
        attack={
            **{"membership": list(ATTACKS), "recall_tokens": 60, "neighbours": 4},
            **{"prefix_lengths": [5], "continuation": 5},
        },
    )
    before, tokenizer = load(made.model, 0)
    after, _ = load(made.model, 0)
    drawn = notes.generate(20, 11)
    members = [canary(tokenizer, note, 90, owners={"a": 10}) for note in drawn[:8]]
    twins = [canary(tokenizer, note, 90) for note in drawn[8:]]
    overfit(after, base_folder, [one.ids for one in members], 60)
    prefix = recall.prefix(tokenizer, made.attack.recall_tokens)
    return Planted(before.eval(), after.eval(), members, twins, made, prefix)


@pytest.fixture(scope="module")
def audited(planted: Planted) -> TokenTable:
    """tokens.parquet of round 0, the untouched model, and round 1, the trained one."""
    canaries = [*planted.members, *planted.twins]
    found = []
    for round_, model in enumerate((planted.before, planted.after)):
        found += audit(
            *(model, canaries, planted.config, round_, "global", 1, planted.prefix)
        ).tokens
    return tokens_of(token_table(found, len(planted.config.attack.sampling)))


def owned(planted: Planted) -> dict[str, Owned]:
    return {
        c.id: Owned(c.id, c.patient, tuple(c.owners), c.copies, c.twin, len(c.ids), 0, 0)
        for c in (*planted.members, *planted.twins)
    }


@pytest.mark.parametrize("attack", ATTACKS)
def test_every_attack_finds_what_was_learned(
    planted: Planted, audited: TokenTable, attack: str
) -> None:
    before, after = rows(audited, owned(planted), [attack])
    assert (after["members"], after["twins"], after["left_out"]) == (8, 12, 0)
    assert after["clear"], after
    if attack not in NEED_BASE:
        assert before["low"] <= 0.5 <= before["high"], before


def test_recall_reads_the_note_behind_the_prefix(planted: Planted, audited: TokenTable) -> None:
    for one in (planted.members[0], planted.twins[3]):
        joined = np.concatenate((planted.prefix, one.ids[1:]))
        (plain,) = score(planted.after, [joined])
        expected = plain.logprob[len(planted.prefix) - 1 :].mean()
        assert audited[1, "global", one.id].recall == pytest.approx(expected, abs=1e-4)


def test_without_bos_as_many_tokens_are_compared(planted: Planted) -> None:
    one = planted.members[0]
    bare = Canary(**{**vars(one), "ids": one.ids[1:]})
    (found,) = recall.behind(planted.after, [bare], planted.prefix, bos=0)
    (plain,) = score(planted.after, [np.concatenate((planted.prefix, bare.ids))])
    assert found == pytest.approx(plain.logprob[len(planted.prefix) :].mean(), abs=1e-4)


def test_the_prefix_is_fiction_of_its_own(planted: Planted) -> None:
    assert len(planted.prefix) == 60 and planted.prefix[0] == 1
    fiction = {note.patient for note in notes.generate(3, recall.SEED, recall.POOL)}
    assert not fiction & {one.patient for one in (*planted.members, *planted.twins)}


def test_neighbours_differ_in_few_tokens_that_the_model_finds_likely(planted: Planted) -> None:
    one = planted.members[0]
    logits = planted.after(input_ids=torch.from_numpy(one.ids).long()[None]).logits[0, :-1]
    likely = logits.topk(neighbourhood.PROPOSALS).indices.numpy()
    for seed in range(5):
        new = neighbourhood.neighbour(one.ids, likely, random.Random(seed))
        places = np.flatnonzero(new != one.ids)
        assert len(places) == round((len(one.ids) - 1) * neighbourhood.SHARE) > 1
        assert all(new[place] in likely[place - 1] for place in places)


def test_neighbours_are_scored_one_by_one_alike(planted: Planted) -> None:
    both = [planted.members[0], planted.twins[0]]
    together = neighbourhood.around(planted.after, both, 3, seed=5)
    alone = [neighbourhood.around(planted.after, [one], 3, seed=5)[0] for one in both]
    assert together == pytest.approx(alone, abs=1e-4)
    other = neighbourhood.around(planted.after, both, 3, seed=6)
    assert other != pytest.approx(together, abs=1e-6)


def test_own_passes_are_made_only_where_asked_for(planted: Planted) -> None:
    free = planted.config.model_copy(
        update={"attack": planted.config.attack.model_copy(update={"membership": ["loss"]})}
    )
    found = audit(planted.after, planted.twins[:2], free, 1, "global").tokens
    assert all("recall" not in row and "neighbours" not in row for row in found)


def test_notes_of_one_and_two_tokens_go_through(planted: Planted) -> None:
    short = [
        Canary(**{**vars(planted.twins[k]), "ids": planted.twins[k].ids[: k + 1], "phi": ()})
        for k in (0, 1)
    ]
    found = audit(planted.after, short, planted.config, 1, "global", 1, planted.prefix)
    table = tokens_of(token_table(found.tokens, 1))
    assert [len(one.ok) for one in table.values()] == [0, 1]
    empty, one = table.values()
    assert empty.recall is None and one.recall is not None
    loss = [row for row in found.scores if row["attack"] == "loss"]
    assert [row["tokens"] for row in loss] == [0, 1]
    assert loss[0]["margin"] is None and not loss[0]["hit"]
