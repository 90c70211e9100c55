"""Noise: its size and place, repeatable in a simulation, and never called private."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from toys import toy_config

from fedmem.claims import NO_DP, History
from fedmem.config import defences as cfg
from fedmem.defences import Chain

SHAPE = (100, 200)


def at_client(at: str, sigma: float = 0.01, seed: int = 0, engine: str = "inline", round_: int = 1):
    defence = {"kind": "gaussian_noise", "sigma": sigma, "at": at}
    chain = Chain(toy_config(seed=seed, engine={"kind": engine}, defences=[defence]))
    received = {"w": np.full(SHAPE, 0.5, np.float32)}
    update = {"w": np.full(SHAPE, 0.02, np.float32)}
    return (*chain.at_client("c0", round_, received, update, {}), chain)


@pytest.mark.parametrize("at", ["update", "weights"])
def test_a_clients_noise_is_gaussian_of_the_size_asked_for(at: str) -> None:
    after, figures, _ = at_client(at)
    noise = (after["w"] - np.float32(0.02)).ravel() / 0.01
    assert stats.kstest(noise, "norm").pvalue > 1e-3
    assert figures["1.gaussian_noise.sigma"] == 0.01
    # the ratio of L2 norms: 0.02 / 0.01 against the update, (0.5 + 0.02) / 0.01 against the weights
    assert figures["1.gaussian_noise.snr"] == pytest.approx(2 if at == "update" else 52, rel=1e-5)


def test_the_servers_noise_is_on_the_joined_update_alone() -> None:
    after, figures, chain = at_client("aggregate")
    assert (after["w"] == np.float32(0.02)).all() and not figures
    mean, _, told = chain.at_server(1, 3, after, after, {}, lambda n: np.zeros(()))
    assert stats.kstest((mean["w"] - np.float32(0.02)).ravel() / 0.01, "norm").pvalue > 1e-3
    assert told["1.gaussian_noise.snr"] == pytest.approx(2, rel=1e-5)


def test_a_simulation_repeats_its_noise_and_a_deployment_does_not() -> None:
    first, _, _ = at_client("update")
    assert first["w"].tobytes() == at_client("update")[0]["w"].tobytes()
    assert first["w"].tobytes() != at_client("update", seed=1)[0]["w"].tobytes()
    assert first["w"].tobytes() != at_client("update", round_=2)[0]["w"].tobytes()
    real = [at_client("update", engine="deployment")[0]["w"].tobytes() for _ in range(2)]
    assert real[0] != real[1]


@pytest.mark.parametrize("at", ["update", "aggregate", "weights"])
def test_it_says_that_it_is_no_dp(at: str) -> None:
    chain = at_client(at)[2]
    claim = chain.parts["1.gaussian_noise"].claim(History((), (), (), ()))
    assert claim.guarantee == NO_DP and claim.epsilon is None and claim.figures["sigma"] == 0.01


@pytest.mark.parametrize("sigma", [0, -0.1, float("nan"), float("inf")])
def test_a_sigma_out_of_range_is_refused(sigma: float) -> None:
    with pytest.raises(ValueError, match="sigma"):
        cfg.GaussianNoise(sigma=sigma)
