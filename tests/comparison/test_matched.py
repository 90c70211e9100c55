"""Arm against arm: by hand, in worlds without a difference, and where one was planted."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from armworlds import arms
from scipy.stats import binomtest

from fedmem.comparison import matched
from fedmem.comparison.draws import Axis
from fedmem.comparison.matched import compare
from fedmem.comparison.observations import SCHEMA, is_validation
from fedmem.comparison.sheets import arm, only
from fedmem.comparison.sides import Case
from fedmem.errors import DataError
from fedmem.metrics.intervals import paired_share

CASE = Case(Axis("facts"), "phi", 10)
WORLDS = 200


def rows(leaks: dict[float, list[list[bool]]], gain: list[float], seed: int = 1) -> pa.Table:
    """An arm of two questions and two notes: NLL falls by `gain` a round, at every rate alike."""
    reported, chooses = (
        next(f"q{i}" for i in range(99) if is_validation(f"q{i}") == half) for half in (False, True)
    )
    table = []
    for rate, rounds in leaks.items():
        for number, (hits, gained) in enumerate(zip(rounds, gain, strict=True)):
            head = {"seed": seed, "lr": rate, "round": number}
            for question in (reported, chooses):
                table.append(head | {"unit": question, "task": "mcq", "nll": 2.0 - gained})
            for i, (hit, copies) in enumerate(zip(hits, (10, 10, 0), strict=True)):
                note = {"unit": f"n{i}", "copies": copies, "nll": 1.0}
                table.append(head | note | {"phi": hit, "window": hit, "exact": None})
    return pa.Table.from_pylist(table, schema=SCHEMA)


NONE, ONE, BOTH = [False, False, False], [True, False, False], [True, True, False]


def test_by_hand() -> None:
    gain = [0.0, 0.5, 1.0]
    full = arm("full", rows({1e-3: [NONE, BOTH, BOTH], 1e-4: [NONE, ONE, BOTH]}, gain))
    lora = arm("lora", rows({1e-3: [NONE, NONE, ONE]}, gain))
    best, same = compare(full, lora, CASE, shares=(0.75,), draws=200)
    assert best["way"] == "own best" and best["round_a"] == best["round_b"] == 2
    assert best["leak_a"][0] == 1.0 and best["leak_b"][0] == 0.5
    # at 0.75 of a gain of 1.0, half way from round 1 to 2; the slower rate leaks less there
    assert same["gain"] == pytest.approx(0.75) and same["rate_a"] == 1e-4
    assert same["round_a"] == same["round_b"] == pytest.approx(1.5)
    assert same["leak_a"][0] == pytest.approx(0.75) and same["leak_b"][0] == pytest.approx(0.25)
    assert same["difference"][0] == pytest.approx(0.5) and same["early"] == []
    assert same["ratio"] is None  # two notes: the interval of lora's share holds 0
    early = compare(full, lora, CASE, shares=(0.25,), draws=50)[1]
    assert early["early"] == ["full", "lora"] and early["leak_a"][0] == pytest.approx(0.25)


def test_twins_are_taken_off() -> None:
    guessed = [[False, False, False], [True, True, True]]
    one = arm("one", rows({1e-3: guessed}, [0.0, 1.0]))
    best = compare(one, one, CASE, draws=50)[0]
    assert best["leak_a"][0] == 0.0


def test_an_arm_that_learns_nothing_cannot_be_compared() -> None:
    full = arm("full", rows({1e-3: [NONE, BOTH]}, [0.0, 1.0]))
    idle = arm("idle", rows({1e-3: [NONE, NONE]}, [0.0, 0.0]))
    told = compare(full, idle, CASE, draws=50)[1]
    assert told["verdict"] == "cannot tell: an arm learned nothing on this axis"


def test_a_utility_that_is_not_surely_reached() -> None:
    one, other = arms(np.random.default_rng(2))
    assert "reach" not in compare(one, other, CASE, shares=(1.0,), draws=200)[1]["verdict"]
    row = compare(one, other, CASE, shares=(1.0,), draws=200, fixed=True)[1]
    assert row["verdict"].startswith("cannot tell: one and other may not reach")


def test_arms_that_share_no_seed_or_other_notes() -> None:
    one = arm("one", rows({1e-3: [NONE, BOTH]}, [0.0, 1.0]))
    later = arm("later", rows({1e-3: [NONE, BOTH]}, [0.0, 1.0], seed=2))
    assert compare(one, later, CASE)[0]["verdict"] == "cannot tell: no seed in common"
    table = rows({1e-3: [NONE, BOTH]}, [0.0, 1.0]).to_pylist()
    for row in table:
        row["unit"] = row["unit"].replace("n1", "n7")
    other = arm("other", pa.Table.from_pylist(table, schema=SCHEMA))
    assert compare(one, other, CASE)[0]["verdict"] == "cannot tell: not the same notes"


def test_seeds_count_only_with_all_rates() -> None:
    whole = rows({1e-3: [NONE, BOTH], 1e-4: [NONE, ONE]}, [0.0, 1.0])
    part = rows({1e-3: [NONE, BOTH]}, [0.0, 1.0], seed=2)
    assert list(arm("a", pa.concat_tables([whole, part])).seeds) == [1]
    half = rows({1e-4: [NONE, ONE]}, [0.0, 1.0], seed=3)
    with pytest.raises(DataError, match="arm a: no seed was run at all of its rates"):
        arm("a", pa.concat_tables([part, half]))
    with pytest.raises(DataError, match="differ in rounds, questions or notes"):
        arm("a", whole.slice(1))


def test_one_rate_alone() -> None:
    both = arm("full", rows({1e-3: [NONE, BOTH], 1e-4: [NONE, ONE]}, [0.0, 1.0]))
    assert only(both, 1e-4).seeds[1].hits["phi"][0, 1].tolist() == [1.0, 0.0, 0.0]
    with pytest.raises(DataError, match=r"has no rate 0\.5"):
        only(both, 0.5)


def test_same_draws_same_figures() -> None:
    one, other = arms(np.random.default_rng(0))
    assert compare(one, other, CASE, draws=100) == compare(one, other, CASE, draws=100)


def test_what_arms_share_cancels_but_no_interval_has_no_width() -> None:
    one, other = arms(np.random.default_rng(0))
    alike, apart = (compare(one, b, CASE, draws=100)[0]["difference"] for b in (one, other))
    notes, twins = paired_share(0, 0, 24), paired_share(0, 0, 72)
    assert alike[0] == 0.0
    assert alike[2] == -alike[1] == pytest.approx(math.hypot(notes.high, twins.high))
    assert apart[2] - apart[1] > 1.5 * (alike[2] - alike[1])
    row = compare(one, one, CASE, draws=100)[0]
    assert row["leak_a"][1] < row["leak_a"][0] < row["leak_a"][2]


# --- calibration ------------------------------------------------------------------------------


def verdicts(
    count: int, spread: float, leak: tuple[float, float] = (0.0, 0.0), **worlds: float
) -> list[list[str]]:
    """For each world its verdicts at own best, and at 50, 75 and 100 % of the smaller gain."""
    rng = np.random.default_rng(5)
    found = []
    for world in range(count):
        made = arms(rng, leak, seed_spread=spread, **worlds)
        told = compare(*made, CASE, shares=(0.5, 0.75, 1.0), draws=300, seed=world)
        found.append([row["verdict"] for row in told])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.0, 0.6])
def test_arms_that_are_alike_are_seldom_told_apart(spread: float) -> None:
    for told in zip(*verdicts(WORLDS, spread), strict=True):
        wrong = sum(verdict in ("less", "more") for verdict in told)
        assert binomtest(wrong, WORLDS, 0.05, "greater").pvalue > 0.05 / 4, (told[0], wrong)


@pytest.mark.slow
def test_an_arm_that_can_learn_more_is_seldom_called_the_safer_one() -> None:
    """At the other's best it has several rates to stand at, and stands where it leaks least."""
    alike = [world[1:] for world in verdicts(WORLDS, 0.6, seeds=4, reach=1.35)]
    for told in zip(*alike, strict=True):
        wrong = sum(verdict in ("less", "more") for verdict in told)
        assert binomtest(wrong, WORLDS, 0.05, "greater").pvalue > 0.05 / 3, (told[0], wrong)


@pytest.mark.slow
def test_a_planted_difference_is_found_and_has_its_sign() -> None:
    told = [verdict for world in verdicts(30, 0.3, (2.5, -2.5)) for verdict in world]
    assert told.count("less") > 0.8 * len(told) and "more" not in told


def test_the_frontier_rises_and_ends_before_it_is_out_of_reach() -> None:
    one, _ = arms(np.random.default_rng(3), seed_spread=0.0)
    steps = matched.frontier(one, CASE, points=8, draws=200)
    gains = [gain for gain, _ in steps]
    assert 4 <= len(steps) <= 8 and gains == sorted(gains)
    assert steps[0][1][0] < steps[-1][1][0]
    course = matched.courses(one, CASE)
    assert [rate for rate, _ in course] == list(one.rates) and course[0][1][0] == (0.0, 0.0)
