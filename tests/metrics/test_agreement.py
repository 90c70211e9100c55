"""Attack against attack: rank correlations against scipy, areas of planted scores."""

from __future__ import annotations

import numpy as np
import pytest

from fedmem.metrics import agreement
from fedmem.metrics.leakage import passes
from fedmem.metrics.outcomes import Key, Outcome, Owned
from fedmem.metrics.tokens import Tokens


def tokens(level):
    n = 5
    logprob = np.full(n, -level, np.float32)
    flat, none = np.zeros(n, np.float32), np.empty((0, n), np.float32)
    return Tokens(np.zeros(n, bool), logprob, np.ones(n, np.int32), flat, flat + 1, none, 50)


def run():
    """Twelve notes, eight twins; the loss and the longest run know members, values do not."""
    canaries, found, table = {}, {}, {}
    for n in range(20):
        name, copies = f"n{n:02d}", 10 if n < 12 else 0
        canaries[name] = Owned(name, name, ("a",), copies, copies == 0, 6, 30, 1)
        for round_ in (0, 1):
            out = bool(round_ and n < 12)
            one = Outcome(longest=20 + n if out else 3, tokens=5, phi={0: False})
            found[Key(round_, "global", "*", "true_prefix", name)] = one
            table[round_, "global", name] = tokens(1.0 - 0.01 * n if out else 2.0 + 0.01 * n)
    return table, passes(found, canaries, {1: ["a"]}), canaries


def test_areas_and_agreement():
    rows = agreement.rows(*run(), ["loss", "loss"])
    areas = {row["attack"]: row for row in rows if row["figure"] == "auc"}
    assert set(areas) == {"phi", "run", "loss"}
    assert (areas["loss"]["auc"], areas["run"]["auc"], areas["phi"]["auc"]) == (1.0, 1.0, 0.5)
    assert (areas["loss"]["members"], areas["loss"]["twins"]) == (12, 8)
    pairs = {(r["attack"], r["other"]): r for r in rows if r["figure"] == "correlation"}
    assert pairs["run", "loss"]["rho"] == pytest.approx(1.0) and pairs["run", "loss"]["n"] == 12
    assert pairs["phi", "run"]["rho"] is None and "the same of all" in pairs["phi", "run"]["reason"]


def test_nothing_to_compare():
    table, found, canaries = run()
    assert agreement.rows(table, {}, canaries, ["loss"]) == []
    rows = agreement.rows({}, found, canaries, ["loss"])  # a run of an earlier version
    assert {row["attack"] for row in rows} == {"phi", "run"}
    few = agreement.correlation(np.arange(3.0), np.arange(3.0))
    assert few["rho"] is None and few["reason"] == "3 notes; it takes 4"


def test_spearman_is_scipy_s():
    stats = pytest.importorskip("scipy.stats", reason="scipy is no dependency; compared if there")
    rng = np.random.default_rng(0)
    for n in (5, 12, 60):
        x, y = rng.integers(0, 6, n).astype(float), rng.normal(size=n)
        y += x
        found = agreement.spearman(x, y)
        assert found.point == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
        assert found.low < found.point < found.high
