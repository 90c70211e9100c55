"""Defences in whole rounds: order, what is sent, state from round to round, and resuming."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError
from toys import NAMES, Rounds, kept, toy_config

from fedmem.defences.turn import l2
from fedmem.engine.inline import run_inline
from fedmem.rounds import Round, Start


def run(**sections: object) -> Rounds:
    config = toy_config(**sections)
    kept(config)
    told = Rounds()
    run_inline(config, told)
    return told


def change(told: Rounds, round_: int) -> dict[str, np.ndarray]:
    before, after = (told.models[i]["global"] for i in (round_ - 1, round_))
    return {name: after[name] - before[name] for name in after}


def test_a_norm_that_nobody_reaches_changes_nothing_but_rounding() -> None:
    plain, clipped = run(), run(defences=[{"kind": "clip", "norm": 1e6}])
    for name in NAMES:
        np.testing.assert_allclose(
            clipped.models[2]["global"][name], plain.models[2]["global"][name], rtol=1e-5
        )
    assert clipped.metrics[1]["c0"]["1.clip.clipped"] == 0


def test_clipping_bounds_what_a_round_does() -> None:
    told = run(defences=[{"kind": "clip", "norm": 0.01}])
    assert 0 < l2(change(told, 1)) <= 0.01 * (1 + 1e-5)
    assert all(m["1.clip.clipped"] == 1 for m in told.metrics[1].values())


def test_the_order_in_the_list_is_the_order_of_application() -> None:
    clip, noise = {"kind": "clip", "norm": 0.01}, {"kind": "gaussian_noise", "sigma": 1.0}
    after, before = run(defences=[noise, clip]), run(defences=[clip, noise])
    assert l2(change(after, 1)) <= 0.01 * (1 + 1e-5) < 0.1 < l2(change(before, 1))
    assert {"1.gaussian_noise.snr", "2.clip.norm"} <= set(after.metrics[1]["c0"])


def test_a_seed_gives_the_same_bytes() -> None:
    defences = [{"kind": "adaptive_clip", "noise": 0.5}, {"kind": "gaussian_noise", "sigma": 0.1}]
    one, two = run(defences=defences), run(defences=defences)
    assert all(
        one.models[2]["global"][n].tobytes() == two.models[2]["global"][n].tobytes() for n in NAMES
    )


def test_what_a_defence_keeps_outlives_the_run_that_was_stopped() -> None:
    config = toy_config(
        rounds={"count": 4}, defences=[{"kind": "adaptive_clip", "norm": 1e-3, "noise": 0.1}]
    )
    done: list[Round] = []
    kept(config)
    run_inline(config, done.append)
    norms = [r.defences["1.adaptive_clip"]["norm"] for r in done[1:]]
    assert norms == sorted(norms) and norms[0] > 1e-3  # everybody is clipped, so the norm grows
    assert done[3].server["1.adaptive_clip.clip_norm"] == norms[1]
    again: list[Round] = []
    run_inline(config, again.append, Start(2, done[2].models, done[2].defences))
    assert [r.number for r in again] == [3, 4]
    last, taken_up = done[4].models["global"], again[-1].models["global"]
    assert all(last[n].tobytes() == taken_up[n].tobytes() for n in NAMES)


def test_topology_local_refuses_defences() -> None:
    with pytest.raises(ValidationError, match="local sends no update"):
        toy_config(rounds={"count": 2, "topology": "local"}, defences=[{"kind": "clip"}])


def test_an_unknown_defence_is_refused_by_name() -> None:
    with pytest.raises(ValidationError, match="magic"):
        toy_config(defences=[{"kind": "magic"}])


def test_a_round_that_poisson_leaves_empty_changes_nothing() -> None:
    rounds = {"count": 8, "clients_per_round": 1, "client_sampling": "poisson"}
    for defences in ([], [{"kind": "adaptive_clip"}]):
        told = run(rounds=rounds, defences=defences)
        empty = [i for i, names in enumerate(told.participants) if not names]
        assert empty
        for i in empty:
            assert all(not change(told, i)[name].any() for name in NAMES)
