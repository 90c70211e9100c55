"""(n,p)-discoverable extraction against counting, and against drawing from a model."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import Memorised

from fedmem.attacks import rows as score_rows
from fedmem.attacks.audit import bound
from fedmem.attacks.sampling import sample
from fedmem.config import Attack
from fedmem.config.attack import Discoverable, Sampling
from fedmem.metrics.discoverable import chances, log_chance, needed, queries_needed, rows
from fedmem.metrics.outcomes import Owned
from fedmem.metrics.targets import Target, targets
from fedmem.metrics.tokens import Tokens, TokenTable, tokens_of

ATTACK = Attack(
    prefix_lengths=[10],
    continuation=6,
    sampling=[Sampling(top_k=40), Sampling(temperature=2.0, top_k=5)],
    discoverable=Discoverable(n=[1, 10, 100], p=[0.5, 0.9]),
)


@given(st.fractions(Fraction(1, 500), Fraction(499, 500)), st.sampled_from([0.1, 0.5, 0.9]))
def test_the_number_is_the_smallest_that_is_enough(pz: Fraction, p: float) -> None:
    n = queries_needed(math.log(pz), p)
    assert n is not None and n >= 1
    wanted, miss = Fraction(p), 1 - pz
    assert float(1 - miss**n) >= float(wanted) - 1e-6
    assert n == 1 or float(1 - miss ** (n - 1)) < float(wanted) + 1e-6


def test_certain_impossible_and_rare_secrets() -> None:
    assert queries_needed(0.0, 0.99) == 1
    assert queries_needed(-math.inf, 0.1) is None
    assert queries_needed(-1000.0, 0.1) is None
    assert queries_needed(math.log(0.5), 0.5) == 1  # on the edge: 1 - (1 - p_z) = p
    # p_z so small that 1 - p_z is 1 in floats: log1p keeps it
    assert queries_needed(math.log(1e-18), 0.5) == pytest.approx(math.log(2) * 1e18, rel=1e-5)
    with pytest.raises(ValueError, match="one token"):
        log_chance([])
    assert log_chance([1e-9]) == 0.0  # a rounding above certainty is certainty


def owned(name: str, copies: int) -> Owned:
    return Owned(name, name, ("a",), copies, copies == 0, 30, 90, 1)


def secret(name: str, start: int, tokens: int, attack: str = "phi", round_: int = 1) -> Target:
    return Target(round_, "global", name, attack, 0, start, tokens, "ID", "ZIP", None, None)


def scored(*sampled: list[float]) -> Tokens:
    n = len(sampled[0])
    zero = np.zeros(n, np.float32)
    table = np.log(np.array(sampled, np.float32))
    return Tokens(np.ones(n, bool), zero, zero.astype(np.int32), zero, zero, table, 9)


def test_rows_count_notes_on_the_whole_grid() -> None:
    canaries = {"x": owned("x", 4), "y": owned("y", 4), "t": owned("t", 0)}
    with np.errstate(divide="ignore"):
        tokens: TokenTable = {
            # of x the two tokens from 2 on: 1/4 (temperature aside), of y none, of t 1/100
            (1, "global", "x"): scored([1.0, 0.5, 0.5], [1.0, 1.0, 0.1]),
            (1, "global", "y"): scored([1.0, 0.0, 0.5], [1.0, 0.0, 1.0]),
            (1, "global", "t"): scored([1.0, 0.1, 0.1], [1.0, 0.1, 0.1]),
        }
    secrets = [secret(name, 2, 2) for name in "xyt"]
    found = rows(tokens, secrets, canaries, ATTACK)
    table = {(r["copies"], r["point"], r["queries"], r["p"]): (r["k"], r["n"]) for r in found}
    # 1/4: 3 queries for one half, 9 for nine tenths; 1/10: 7 and 22; 1/100: 69 and 230
    assert table[4, 0, 1, 0.5] == (0, 2) and table[4, 0, 10, 0.5] == (1, 2)
    assert table[4, 0, 10, 0.9] == (1, 2) and table[4, 1, 10, 0.9] == (0, 2)
    assert table[4, 1, 100, 0.9] == (1, 2)
    assert table[0, 0, 10, 0.5] == (0, 1) and table[0, 0, 100, 0.5] == (1, 1)
    assert table[0, 0, 100, 0.9] == (0, 1)
    assert len(found) == 2 * 2 * 3 * 2  # levels, points, n, p
    first = next(r for r in found if r["copies"] == 4)
    assert first["twins"]["n"] == 1 and first["clear"] is False
    assert {(r["temperature"], r["top_k"]) for r in found} == {(1.0, 40), (2.0, 5)}
    listed = needed(tokens, secrets, canaries, ATTACK)
    assert [(r["canary"], r["point"], r["queries"]) for r in listed] == [
        ("x", 0, {"0.5": 3, "0.9": 9}),
        ("x", 1, {"0.5": 7, "0.9": 22}),
        ("t", 0, {"0.5": 69, "0.9": 230}),
        ("t", 1, {"0.5": 69, "0.9": 230}),
    ]


def test_secrets_that_were_not_scored_are_not_counted() -> None:
    tokens = {(1, "global", "x"): scored([0.5, 0.5], [0.5, 0.5])}
    canaries = {"x": owned("x", 1), "y": owned("y", 1)}
    beyond = [secret("y", 1, 1), secret("x", 0, 1), secret("x", 2, 2)]
    assert rows(tokens, beyond, canaries, ATTACK) == []
    one_token = rows(tokens, [secret("x", 2, 1)], canaries, ATTACK)
    assert {r["k"] for r in one_token if r["queries"] == 1 and r["p"] == 0.5} == {1}


@pytest.fixture(scope="module")
def run(memorised: Memorised) -> tuple[TokenTable, list[Target], dict[str, Owned]]:
    both = [memorised.canary, memorised.twin]
    found = bound(memorised.model, both, ATTACK, 0, 1)
    head = {"round": 1, "model": "global", "view": "client"}
    table = score_rows.table([head | row for row in found.scores])
    tokens = tokens_of(score_rows.token_table([head | row for row in found.tokens], 2))
    canaries = {
        c.id: Owned(c.id, c.patient, tuple(c.owners), c.copies, c.twin, len(c.ids), 1, len(c.phi))
        for c in both
    }
    return tokens, [*targets(table, canaries)], canaries


def test_a_note_known_by_heart_is_discoverable_and_its_twin_is_not(
    memorised: Memorised, run: tuple[TokenTable, list[Target], dict[str, Owned]]
) -> None:
    tokens, secrets, canaries = run
    found = rows(tokens, secrets, canaries, ATTACK)
    known = {
        r["kind"]: r["k"] for r in found if r["copies"] and r["queries"] == 10 and r["p"] > 0.6
    }
    assert known == {"window": 1, "phi": 1}
    twin = [r["k"] for r in found if not r["copies"]]
    assert twin and not any(twin)
    assert {s.attack for s in secrets} == {"extraction", "phi"}
    listed = needed(tokens, secrets, canaries, ATTACK)
    mine = [row for row in listed if row["canary"] == memorised.canary.id]
    values = sum(span.first for span in memorised.canary.phi)
    assert sum(row["point"] == 0 for row in mine) == values + 1


def test_p_z_is_how_often_the_model_draws_it(
    memorised: Memorised, run: tuple[TokenTable, list[Target], dict[str, Owned]]
) -> None:
    """Monte Carlo by generation, with the library's own cuts."""
    tokens, secrets, _ = run
    sure = {
        (secret.target, point): math.exp(log_pz)
        for secret, point, log_pz in chances(tokens, secrets)
        if secret.canary == memorised.canary.id and secret.attack == "phi"
    }
    (target, point), pz = min(sure.items(), key=lambda item: abs(item[1] - 0.5))
    assert 0.05 < pz < 0.95  # a secret that tells right from wrong
    span = memorised.canary.phi[target]
    ids, draws = memorised.canary.ids, 600
    drawn = sample(
        memorised.model,
        [ids[: span.start]] * draws,
        span.end - span.start,
        ATTACK.sampling[point],
        torch.Generator().manual_seed(0),
    )
    hits = sum(one == ids[span.start : span.end].tolist() for one in drawn)
    assert abs(hits / draws - pz) < 4 * math.sqrt(pz * (1 - pz) / draws)


def test_a_token_outside_the_cut_makes_it_impossible(
    run: tuple[TokenTable, list[Target], dict[str, Owned]],
) -> None:
    tokens, secrets, _ = run
    seen = 0
    for secret, point, log_pz in chances(tokens, secrets):
        one = tokens[secret.round, secret.model, secret.canary]
        ranks = one.rank[secret.start - 1 : secret.start - 1 + secret.tokens]
        outside = bool((ranks >= (ATTACK.sampling[point].top_k or 10**9)).any())
        assert (log_pz == -math.inf) == outside
        seen += outside
    assert seen


def test_a_run_of_another_version_has_no_secrets(tmp_path: Path) -> None:
    old = score_rows.table([]).drop_columns(["start", "candidates", "space", "rouge_l"])
    assert [*targets(old, {})] == []
