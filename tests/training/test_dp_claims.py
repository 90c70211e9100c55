"""What a DP-SGD run may claim, and when it must not."""

from __future__ import annotations

import math
from typing import Any

import pytest
from fakerun import config as fake_config

from fedmem.accounting import Step, epsilon
from fedmem.claims import NO_DP, Claim, History
from fedmem.config import Config
from fedmem.training.dp_claims import as_group, claim, shared

TOLD = {
    "dp_noise_multiplier": 1.0,
    "dp_sample_rate": 0.05,
    "dp_steps": 20.0,
    "dp_units": 160.0,
    "dp_largest": 10.0,
    "dp_holders": 1.0,
    "dp_clipped": 0.5,
}


def config(**sections: Any) -> Config:
    dp = {"noise_multiplier": 1.0, "delta": 1e-5} | sections.pop("dp", {})
    return Config.model_validate(
        fake_config(**sections, training={"dp": dp, "max_grad_norm": None, "batch_size": 8})
    )


def history(*rounds: dict[str, dict[str, float]], names: tuple[str, ...] = ("a", "b")) -> History:
    return History(names, tuple(tuple(told) for told in rounds), rounds, ({},) * len(rounds))


def of(steps: list[Step]) -> float:
    return epsilon(steps, 1e-5).pld


def noted(found: Claim, words: str) -> bool:
    return any(words in note for note in found.notes)


def test_the_epsilon_is_that_of_the_client_with_the_largest_over_all_rounds() -> None:
    larger = TOLD | {"dp_sample_rate": 0.1, "dp_units": 80.0}
    found = claim(config(), history({"a": TOLD, "b": larger}, {"a": TOLD}))
    assert found.epsilon == max(of([Step(1.0, 0.05, 40)]), of([Step(1.0, 0.1, 20)]))
    assert found.epsilon_rdp is not None and found.epsilon_rdp > found.epsilon
    assert (found.guarantee, found.delta) == ("differential privacy of a record", 1e-5)
    assert found.unit == "record, with all its copies at a client"
    assert found.adjacency == "one record added or removed"
    assert found.sampling == "Poisson, rate 0.05 to 0.1"
    assert "server, the other clients" in found.trust
    assert found.figures["steps"] == 40 and found.figures["mean_clipped"] == 0.5
    for words in ("early stopping", "the seed", "sampling of clients", "not cryptographic"):
        assert noted(found, words)


def test_a_unit_at_several_clients_is_composed_over_as_many() -> None:
    told = TOLD | {"dp_holders": 2.0}
    found = claim(config(), history({"a": told, "b": told, "c": TOLD}, names=("a", "b", "c")))
    assert found.epsilon == of([Step(1.0, 0.05, 40)])
    assert noted(found, "lies at 2 clients")
    every = [[Step(1.0, 0.05, 20)], [Step(2.0, 0.1, 20)]]
    assert shared(every, 2, 1e-5).pld == of([s for steps in every for s in steps])
    assert shared(every, 1, 1e-5).pld == max(of(steps) for steps in every)


def test_single_examples_say_what_ten_copies_have() -> None:
    found = claim(config(dp={"unit": "example"}), history({"a": TOLD}))
    assert found.epsilon == of([Step(1.0, 0.05, 20)])
    group = found.figures["epsilon_of_largest_group"]
    assert group > 10 * found.epsilon
    assert group == of([Step(0.1, 1 - 0.95**10, 20)])
    assert noted(found, "written 10 times at a client, and at 1, is not covered")


def test_a_group_of_one_is_the_unit_itself_and_larger_ones_are_worse() -> None:
    alone = [Step(1.0, 0.05, 20)]
    (same,) = as_group(alone, 1)
    assert same.sample_rate == pytest.approx(0.05, rel=1e-12) and same.noise_multiplier == 1.0
    assert of(as_group(alone, 2)) > of(alone)
    assert as_group([Step(1.0, 1.0, 3)], 4) == [Step(0.25, 1.0, 3)]


@pytest.mark.parametrize(
    "lost",
    [
        {},
        {k: v for k, v in TOLD.items() if k != "dp_steps"},
        TOLD | {"dp_steps": 0.0},
        TOLD | {"dp_sample_rate": 1.5},
        TOLD | {"dp_noise_multiplier": math.nan},
        TOLD | {"dp_noise_multiplier": 0.0},
    ],
)
def test_a_round_that_is_not_accounted_leaves_no_epsilon(lost: dict[str, float]) -> None:
    found = claim(config(), history({"a": TOLD, "b": TOLD}, {"a": TOLD, "b": lost}))
    assert (found.guarantee, found.epsilon, found.delta) == (NO_DP, None, None)
    assert noted(found, "round 2, client b: accountant state lost")


def test_a_client_that_says_nothing_leaves_no_epsilon() -> None:
    silent = History(("a", "b"), (("a", "b"),), ({"a": TOLD},), ({},))
    assert claim(config(), silent).guarantee == NO_DP


def test_a_delta_that_is_too_large_is_said() -> None:
    assert noted(claim(config(dp={"delta": 0.01}), history({"a": TOLD})), "not below 1 / 160")
    assert not noted(claim(config(), history({"a": TOLD})), "not below")


def test_under_secure_aggregation_the_target_is_claimed_and_no_more() -> None:
    settings = config(
        dp={"noise_multiplier": None, "target_epsilon": 4.0},
        aggregation={"secure": {"enabled": True}},
    )
    names = settings.data.clients
    told = {client.name: {"bytes_up": 1.0} for client in names}
    clients = tuple(told)
    found = claim(settings, history({**told, "all": {"dp_holders": 1.0}}, names=clients))
    assert (found.epsilon, found.epsilon_rdp, found.delta) == (4.0, None, 1e-5)
    spread = claim(settings, history({**told, "all": {"dp_holders": 1.4}}, names=clients))
    assert spread.epsilon == 4.0 * len(clients)
    assert spread.delta == pytest.approx(1e-5 * len(clients))


def test_in_deployment_disjoint_records_are_taken_on_trust() -> None:
    found = claim(config(engine={"kind": "deployment"}), history({"a": TOLD, "b": TOLD}))
    assert noted(found, "taken on trust") and not noted(found, "the seed")


def test_figures_that_are_not_the_configs_leave_no_epsilon() -> None:
    found = claim(config(), history({"a": TOLD, "b": TOLD | {"dp_noise_multiplier": 10.0}}))
    assert (found.guarantee, found.epsilon) == (NO_DP, None)
    assert noted(found, "accountant state changed")


def test_a_delta_of_a_unit_in_all_is_no_guarantee() -> None:
    many = TOLD | {"dp_units": 1e9}
    found = claim(config(), history({"a": many, "b": many}))
    assert (found.guarantee, found.epsilon) == (NO_DP, None)
