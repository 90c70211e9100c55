"""The study `experiments/lora_vs_full`: its configs, its rule, and its tables from its results."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fedmem.grid import points
from fedmem.loading import load_config

HERE = Path(__file__).parents[1] / "experiments" / "lora_vs_full"
sys.path.insert(0, str(HERE))

import claims  # noqa: E402
import show  # noqa: E402
import study  # noqa: E402

RANKS = ("r1", "r4", "r16", "r64")


@pytest.mark.parametrize("part", ["federated", "centralized"])
def test_every_arm_has_four_rates_and_all_levels_in_each_run(part: str) -> None:
    made = points(load_config(HERE / f"{part}.yaml"))
    config = study.config_of(part, False, None)
    arms: dict[str, set[float]] = {}
    for point in made.values():
        name = study._arm_name(point.config.name)
        arms.setdefault(name, set()).add(point.config.training.lr)
        assert [level.copies for level in point.config.data.canaries.levels] == [1, 3, 10, 30]
        assert point.config.rounds.topology == part
    assert set(arms) == {"full", *RANKS} and {len(rates) for rates in arms.values()} == {4}
    assert len(made) == 20 * len(config.sweep["seed"])


def test_each_defended_arm_has_its_plain_one_at_the_same_rate() -> None:
    plain = {
        (study._arm_name(point.config.name), point.config.training.lr)
        for point in points(load_config(HERE / "federated.yaml")).values()
    }
    for point in points(load_config(HERE / "defended.yaml")).values():
        name = study._arm_name(point.config.name)
        key = max((key for key in show.PLAIN if name.startswith(key)), key=len)
        assert (key.partition("-")[0], point.config.training.lr) in plain


def test_a_smoke_run_is_small() -> None:
    config = study.config_of("federated", True, None)
    assert len(points(config)) == 4 and config.rounds.count == 2
    assert config.sweep == {"seed": [900]}  # the pilots' seed: no confirmatory one is touched


# --- the rule ---------------------------------------------------------------------------------

NOTHING = (0.0, -0.1, 0.1)


def row(**given: object) -> claims.Row:
    beside = {"new skill": given.pop("skill", NOTHING)}
    return {"b": "r16", "verdict": "less", "beside": beside, "ratio": None, **given}


@pytest.mark.parametrize(
    ("difference", "expected"),
    [
        ((0.4, 0.1, 0.6), "reproduced"),
        ((0.0, -0.05, 0.09), "not reproduced"),
        ((-0.3, -0.5, -0.1), "not reproduced"),
        ((0.2, -0.1, 0.4), "inconclusive"),
        (None, "inconclusive"),
    ],
)
def test_less_at_the_same_utility(difference: object, expected: str) -> None:
    assert claims.less_at_same_utility(row(difference=difference))[0] == expected


def test_a_utility_that_may_not_be_reached_decides_nothing() -> None:
    told = row(difference=(0.4, 0.1, 0.6), verdict="cannot tell: full may not reach this utility")
    assert claims.less_at_same_utility(told)[0] == "inconclusive"


def test_arms_that_learned_different_things_are_said_to() -> None:
    told = claims.less_at_same_utility(row(difference=(0.4, 0.1, 0.6), skill=(0.5, 0.2, 0.8)))
    assert told[0] == "reproduced" and told[1].endswith("the arms differ in the new skill")


@pytest.mark.parametrize(
    ("cost", "skill", "expected"),
    [
        ((0.0, -0.04, 0.04), NOTHING, "reproduced"),
        ((0.03, -0.01, 0.07), NOTHING, "inconclusive"),
        ((0.1, 0.06, 0.2), NOTHING, "not reproduced"),
        ((0.0, -0.04, 0.04), (0.5, 0.2, 0.8), "not reproduced"),
    ],
)
def test_no_significant_cost(cost: object, skill: object, expected: str) -> None:
    assert claims.no_cost(row(gain_difference=cost, skill=skill))[0] == expected


def test_ten_times() -> None:
    free = {"gain_difference": (0.0, -0.04, 0.04)}
    far, near = row(ratio=(20.0, 11.0, 40.0), **free), row(ratio=(2.0, 1.1, 4.0), **free)
    assert claims.up_to_ten_times([near, far])[0] == "reproduced"
    assert claims.up_to_ten_times([near, near])[0] == "not reproduced"
    assert claims.up_to_ten_times([near, row(**free)])[0] == "inconclusive"
    dear = far | {"gain_difference": (0.2, 0.1, 0.3)}
    assert claims.up_to_ten_times([near, dear])[0] == "inconclusive"


def test_combination_and_base() -> None:
    cheap = {"gain_difference": (0.0, -0.04, 0.04)}
    assert claims.combines(row(difference=(0.1, -0.1, 0.2), **cheap))[0] == "reproduced"
    assert claims.combines(row(difference=(-0.3, -0.5, -0.1), **cheap))[0] == "not reproduced"
    assert claims.fair({"full": 1.0, "r4": 0.95}) and not claims.fair({"full": 1.0, "r4": 0.8})


# --- the results ------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_tables_are_what_the_results_say() -> None:
    """Figures to the last digit shown: whoever repeats `study.py show` gets the table again."""
    made = "\n".join(show.document(show.load(HERE / "results"))) + "\n"
    assert made == (HERE / "RESULTS.md").read_text(encoding="utf-8")


def test_results_hold_no_text() -> None:
    for file in (HERE / "results").glob("*.parquet"):
        assert file.stat().st_size < 400_000
