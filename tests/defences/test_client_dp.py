"""Client-level DP: sensitivity, noise, accounting, and every way to get it wrong refused."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import stats
from toys import Rounds, kept, toy_config

from fedmem.accounting import Step, epsilon
from fedmem.claims import NO_DP, History
from fedmem.config import Config
from fedmem.defences import Chain
from fedmem.defences.client_dp import ClientDP
from fedmem.defences.turn import l2
from fedmem.engine.inline import run_inline
from server.strategy import sample

SHAPE = (100, 100)
UNIFORM = {"weights": "uniform"}


def config(
    clients: int = 4, rounds: dict | None = None, secure: bool = False, **settings
) -> Config:
    defence = {"kind": "client_dp", "norm": 0.5, "noise_multiplier": 1.0, **settings}
    hidden = {"enabled": True, "range": 100.0, "metrics": "withheld"}
    aggregation = {**UNIFORM, "secure": hidden} if secure else UNIFORM
    rounds = rounds or {"count": 3}
    return toy_config(clients, defences=[defence], aggregation=aggregation, rounds=rounds)


def history(c: Config) -> History:
    names = tuple(client.name for client in c.data.clients)
    count = c.rounds.count
    return History(names, (names,) * count, ({},) * count, ({},) * count)


def part(c: Config) -> ClientDP:
    (found,) = Chain(c).parts.values()
    assert isinstance(found, ClientDP)
    return found


def test_central_the_client_clips_and_the_server_adds_noise_for_a_fixed_denominator() -> None:
    chain = Chain(config())
    zero = {"w": np.zeros(SHAPE, np.float32)}
    update, figures = chain.at_client("c0", 1, zero, {"w": np.ones(SHAPE, np.float32)}, {})
    assert l2(update) <= 0.5 and figures["1.client_dp.clipped"] == 1
    mean, _, told = chain.at_server(1, 4, zero, zero, {}, lambda n: zero["w"])
    sigma = 1.0 * 0.5 / 4
    assert stats.kstest(mean["w"].ravel() / sigma, "norm").pvalue > 1e-3
    assert told["1.client_dp.sigma"] == pytest.approx(sigma)


def test_distributed_the_sum_of_the_honest_parts_has_the_noise_of_the_multiplier() -> None:
    chain = Chain(config(mode="distributed", honest=3, secure=True))
    zero = {"w": np.zeros(SHAPE, np.float32)}
    parts = [chain.at_client(f"c{i}", 1, zero, zero, {})[0]["w"] for i in range(3)]
    assert stats.kstest(sum(parts).ravel() / 0.5, "norm").pvalue > 1e-3  # z C = 0.5
    mean, _, _ = chain.at_server(1, 3, zero, zero, {}, lambda n: zero["w"])
    assert not mean["w"].any()  # the server adds none


def test_the_mean_has_the_sensitivity_that_the_noise_is_made_for() -> None:
    """Without its noise, the release moves by at most C / n_bar when a client is taken away."""
    release = {}
    for clients in (3, 4):
        c = config(4, {"count": 1, "clients_per_round": 4})
        toy = kept(c)
        toy.clients = toy.clients[:clients]  # the denominator stays: n_bar comes from the config
        told = Rounds()
        run_inline(c, told)
        release[clients] = told.models[1]["global"]
    moved = {name: release[4][name] - release[3][name] for name in release[4]}
    assert 0 < l2(moved) <= 0.5 / 4 * (1 + 1e-5)  # the seeded noise is the same and cancels


def test_epsilon_is_the_accountants_over_all_rounds() -> None:
    c = config(rounds={"count": 5})
    claim = part(c).claim(history(c))
    told = epsilon([Step(1.0, 1.0, 5)], 1e-5)
    assert claim.epsilon == pytest.approx(told.pld) and claim.epsilon_rdp == pytest.approx(told.rdp)
    assert claim.unit == "client" and claim.adjacency and claim.delta == 1e-5 and claim.trust


def test_poisson_sampling_amplifies_centrally_and_never_against_the_server() -> None:
    rounds = {"count": 5, "clients_per_round": 3, "client_sampling": "poisson"}
    central = config(10, rounds)
    fixed = {"count": 5, "clients_per_round": 5}
    distributed = config(10, fixed, secure=True, mode="distributed", honest=3)
    assert part(central).step.sample_rate == pytest.approx(0.3)
    assert part(distributed).step.sample_rate == 1.0
    few, many = (part(c).claim(history(c)).epsilon for c in (central, distributed))
    assert few is not None and many is not None and few < many


def test_a_target_is_met_and_not_passed() -> None:
    c = config(noise_multiplier=None, target_epsilon=4.0, rounds={"count": 5})
    spent = part(c).claim(history(c)).epsilon
    assert spent is not None and 3.9 < spent <= 4.0


def test_poisson_draws_each_client_by_its_own_coin() -> None:
    draws = [sample(10, 3, 0, r, poisson=True) for r in range(2000)]
    assert draws == [sample(10, 3, 0, r, poisson=True) for r in range(2000)]
    sizes = [len(d) for d in draws]
    assert stats.binomtest(sum(sizes), 20_000, 0.3).pvalue > 1e-3
    assert min(sizes) == 0 and max(sizes) > 6
    assert np.var(sizes) == pytest.approx(10 * 0.3 * 0.7, rel=0.15)


def test_a_round_of_nobody_releases_noise_alone() -> None:
    rounds = {"count": 6, "clients_per_round": 1, "client_sampling": "poisson"}
    c = config(2, rounds)
    kept(c)
    told = Rounds()
    run_inline(c, told)
    empty = [i for i, names in enumerate(told.participants) if not names]
    assert empty  # with two clients and a rate of a half, one round in four
    for i in empty:
        after, before = told.models[i]["global"], told.models[i - 1]["global"]
        assert 0 < l2({n: after[n] - before[n] for n in after}) < 5 * 1.0 * 0.5 * 5**0.5


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"aggregation": {"weights": "examples"}}, "weights=uniform"),
        ({"aggregation": {**UNIFORM, "rule": "product"}}, "product"),
        ({"rounds": {"count": 2, "clients_per_round": 2}}, "poisson"),
        ({"rounds": {"count": 2, "topology": "centralized"}}, "centralized"),
        ({"rounds": {"count": 2, "topology": "local"}}, "local"),
        ({"rounds": {"count": 2, "client_sampling": "poisson"}}, "clients_per_round"),
    ],
)
def test_what_breaks_the_guarantee_is_refused(changes: dict, why: str) -> None:
    defence = {"kind": "client_dp", "norm": 0.5, "noise_multiplier": 1.0}
    with pytest.raises(ValidationError, match=why):
        toy_config(4, **{"defences": [defence], "aggregation": UNIFORM, **changes})


@pytest.mark.parametrize(
    ("others", "why"),
    [
        ([{"kind": "clip"}], "shrink its noise"),
        ([{"kind": "adaptive_clip"}], "adaptive_clip"),
        ([{"kind": "client_dp", "noise_multiplier": 1}], "twice"),
    ],
)
def test_defences_that_do_not_go_with_it_are_refused(others: list, why: str) -> None:
    defence = {"kind": "client_dp", "norm": 0.5, "noise_multiplier": 1.0}
    with pytest.raises(ValidationError, match=why):
        toy_config(4, defences=[defence, *others], aggregation=UNIFORM)


def test_a_clients_own_noise_does_not_count_against_itself() -> None:
    hidden = {"enabled": True, "range": 100.0, "metrics": "withheld"}
    dp = {"kind": "client_dp", "norm": 0.5, "noise_multiplier": 1.0, "mode": "distributed"}
    sections = {"aggregation": {**UNIFORM, "secure": hidden}}
    with pytest.raises(ValidationError, match="take 3 at most"):
        toy_config(4, defences=[{**dp, "honest": 4}], **sections)
    with pytest.raises(ValidationError, match="3 that may collude"):
        toy_config(10, defences=[{**dp, "honest": 8}], **sections)
    # the others' part alone, as the curious one of 4 sees it, is N(0, (z C)^2)
    chain = Chain(toy_config(4, defences=[{**dp, "honest": 3}], **sections))
    zero = {"w": np.zeros(SHAPE, np.float32)}
    others = sum(chain.at_client(f"c{i}", 1, zero, zero, {})[0]["w"] for i in range(1, 4))
    assert stats.kstest(others.ravel() / 0.5, "norm").pvalue > 1e-3


@pytest.mark.parametrize(
    ("secure", "why"),
    [
        ({"range": 100.0}, "withheld"),
        ({"metrics": "withheld", "range": 1.0}, "range: 1"),
    ],
)
def test_distributed_leaves_no_figure_open_and_has_room_for_its_noise(secure, why) -> None:
    dp = {"kind": "client_dp", "norm": 0.5, "noise_multiplier": 3.0, "mode": "distributed"}
    aggregation = {**UNIFORM, "secure": {"enabled": True, **secure}}
    with pytest.raises(ValidationError, match=why):
        toy_config(5, defences=[{**dp, "honest": 3}], aggregation=aggregation)


def test_in_deployment_the_draw_is_not_the_seeds() -> None:
    draws = [
        [sample(100, 50, 0, 1, poisson=True, secret=s) for _ in range(2)] for s in (False, True)
    ]
    assert draws[0][0] == draws[0][1] and draws[1][0] != draws[1][1] and draws[1][0] != draws[0][0]


def test_no_figure_tells_the_norm_before_the_noise() -> None:
    chain = Chain(config())
    zero = {"w": np.zeros(SHAPE, np.float32)}
    told = [
        chain.at_server(1, 4, zero, {"w": zero["w"] + x}, {}, lambda n: zero["w"])[2]
        for x in (0, 1)
    ]
    assert told[0] == told[1]


def test_a_delta_that_one_client_in_all_may_pay_is_no_guarantee() -> None:
    c = config(12, delta=0.09)
    claim = part(c).claim(history(c))
    assert claim.epsilon is None and claim.guarantee == NO_DP and "1 / 12" in claim.notes[-1]


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"noise_multiplier": 0}, "noise_multiplier"),
        ({"noise_multiplier": 1, "target_epsilon": 1}, "one of them"),
        ({}, "one of them"),
        ({"target_epsilon": -1}, "target_epsilon"),
        ({"noise_multiplier": 1, "delta": 0.1}, "delta"),
        ({"noise_multiplier": 1, "delta": 0}, "delta"),
        ({"noise_multiplier": 1, "norm": 0}, "norm"),
        ({"noise_multiplier": 1, "mode": "distributed"}, "honest"),
        ({"noise_multiplier": 1, "honest": 3}, "honest"),
        ({"noise_multiplier": 1, "mode": "distributed", "honest": 3}, "secure"),
    ],
)
def test_values_out_of_range_are_refused(settings: dict, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        toy_config(4, defences=[{"kind": "client_dp", **settings}], aggregation=UNIFORM)
