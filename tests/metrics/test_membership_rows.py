"""Members against twins: which rows there are, and what they say, of figures counted by hand."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest

from fedmem.attacks.membership import ATTACKS, NEED_BASE
from fedmem.config.attack import FREE, Membership
from fedmem.metrics.membership import rows
from fedmem.metrics.outcomes import Owned
from fedmem.metrics.tokens import Tokens, TokenTable

LEVELS = {1: 4, 10: 6, 0: 8}


def plan(levels: dict[int, int] = LEVELS) -> dict[str, Owned]:
    return {
        f"{copies}-{n}": Owned(
            f"{copies}-{n}", f"p{copies}-{n}", ("a",), copies, not copies, 6, 9, 0
        )
        for copies, number in levels.items()
        for n in range(number)
    }


def one(mean: float, n: int = 5) -> Tokens:
    logprob = np.full(n, mean, np.float32)
    wrong = np.zeros(n, bool)
    flat = np.ones(n, np.float32)
    return Tokens(wrong, logprob, np.ones(n, np.int32), -flat, flat, np.empty((0, n)), 50)


def table(canaries: dict[str, Owned]) -> TokenTable:
    """Round 1: those written ten times are likelier than any other; round 0: all as they come."""
    found = {}
    for number, (name, canary) in enumerate(canaries.items()):
        start = -2 - 0.01 * ((7 * number) % 18)
        gain = 1.0 if canary.copies == 10 else 0.0
        found[0, "global", name] = one(start)
        found[1, "global", name] = one(start + gain)
    return found


def pick(found: list[dict[str, Any]], **keys: Any) -> dict[str, Any]:
    chosen = [row for row in found if all(row[key] == value for key, value in keys.items())]
    assert len(chosen) == 1
    return chosen[0]


def test_every_attack_has_its_name_in_the_config() -> None:
    assert set(get_args(Membership)) == set(ATTACKS) > set(FREE) > set(NEED_BASE)


def test_levels_are_told_from_twins_and_joined() -> None:
    canaries = plan()
    found = rows(table(canaries), canaries, ["loss", "reference", "loss"])
    assert len(found) == 2 * 2 * 3
    ten = pick(found, round=1, attack="loss", copies=10)
    assert (ten["auc"], ten["members"], ten["twins"], ten["clear"]) == (1.0, 6, 8, True)
    assert ten["reason"] is None and ten["tpr_1"] is None and "8 twins" in ten["tpr_1_reason"]
    assert not pick(found, round=1, attack="loss", copies=1)["clear"]
    joined = pick(found, round=1, attack="loss", copies=None)
    assert joined["members"] == 10 and 0.5 < joined["auc"] < 1
    before = pick(found, round=0, attack="loss", copies=10)
    assert before["low"] < 0.5 < before["high"] and before["clear"] is None
    assert ten["base"] == {key: before[key] for key in ("auc", "low", "high")}
    assert pick(found, round=1, attack="reference", copies=10)["base"] is None
    assert pick(found, round=1, attack="reference", copies=1)["auc"] == 0.5  # all unchanged: ties


def test_members_that_were_easier_from_the_start_are_no_find() -> None:
    canaries = plan({10: 12, 0: 20})
    tokens = {}
    for number, (name, canary) in enumerate(canaries.items()):
        easy = 1.0 if canary.copies and number else 0.0
        for round_ in (0, 1):
            tokens[round_, "global", name] = one(easy - 2 - 0.01 * number)
    before, after = rows(tokens, canaries, ["loss"])
    assert after["low"] > 0.5 and after["auc"] == before["auc"] and after["clear"] is False
    (alone,) = rows({k: v for k, v in tokens.items() if k[0]}, canaries, ["loss"])
    assert alone["base"] is None and alone["clear"]  # a model without its base: as it stands


def test_the_base_is_no_reference_to_itself() -> None:
    canaries = plan()
    found = rows(table(canaries), canaries, list(NEED_BASE))
    for row in found:
        if row["round"] == 0:
            assert row["auc"] is None and "its own reference" in row["reason"]
        else:
            assert row["auc"] is not None
    without = {key: value for key, value in table(canaries).items() if key[0]}
    for row in rows(without, canaries, list(NEED_BASE)):
        assert row["auc"] is None and row["left_out"] == row["members"] + row["left_out"] > 0


def test_one_level_has_no_joined_row_and_no_twins_no_claim() -> None:
    canaries = plan({10: 3})
    found = rows(table(canaries), canaries, ["loss"])
    assert [row["copies"] for row in found] == [10, 10]
    assert all(row["auc"] is None and "no twins" in row["reason"] for row in found)
    assert all(row["members"] == 3 for row in found)


def test_notes_of_one_patient_count_once_and_scoreless_ones_not() -> None:
    canaries = plan({10: 4, 0: 4})
    same = {"10-0", "10-1"}
    canaries = {
        name: Owned(*(name, "p" if name in same else c.patient), *list(vars(c).values())[2:])
        for name, c in canaries.items()
    }
    tokens = table(canaries)
    tokens[1, "global", "10-3"] = one(0.0, n=0)
    tokens[1, "global", "0-0"] = one(np.nan)
    row = pick(rows(tokens, canaries, ["loss"]), round=1)
    assert (row["members"], row["twins"], row["left_out"]) == (2, 3, 2)


@pytest.mark.parametrize("attack", ATTACKS)
def test_models_of_their_own_are_judged_on_their_own(attack: str) -> None:
    canaries = plan({10: 2, 0: 2})
    tokens = {
        (round_, model, name): one(-1.0)
        for round_ in (0, 1)
        for model, names in (("a", ("10-0", "0-0")), ("b", ("10-1", "0-1")))
        for name in names
    }
    found = rows(tokens, canaries, [attack])
    assert [(row["round"], row["model"]) for row in found] == [
        *((0, "a"), (0, "b"), (1, "a"), (1, "b"))
    ]
    assert all(row["members"] + row["twins"] + row["left_out"] >= 2 for row in found)
