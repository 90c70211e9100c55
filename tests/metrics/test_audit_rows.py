"""The audit's rows: guesses fixed beforehand, claims as they hold for a record, verdicts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fedmem.auditing.one_run import ceiling, gaussian_lower_bound, lower_bound
from fedmem.config.audit import Audit
from fedmem.metrics import audit
from fedmem.metrics.audit import BELOW, BUG, NONE, WARNING, right, rows


def table(leak: float, m: int = 100, seed: int = 0) -> pa.Table:
    """audit.parquet of a run in which being trained on is worth `leak` standard deviations."""
    rng = np.random.default_rng(seed)
    coins = rng.integers(0, 2, m).astype(bool)
    tokens = rng.integers(50, 150, m)
    base = -3.0 * tokens + rng.normal(size=m)
    gains = rng.normal(coins * leak, 1.0)
    columns = {
        "canary": [f"audit-{n:03d}" for n in range(m)],
        "owner": ["a"] * m,
        "included": coins,
        "tokens": tokens.astype(np.int32),
        "base": base,
        "final": base + tokens * gains,
    }
    return pa.table(columns, schema=audit.SCHEMA)


def claim(epsilon: float | None, unit: str = "record", delta: float = 1e-5) -> dict[str, Any]:
    return {"what": "DP-SGD", "unit": unit, "epsilon": epsilon, "delta": delta}


def test_the_upper_half_is_guessed_in_and_the_lower_out() -> None:
    ids, coins = ["a", "b", "c", "d", "e"], np.array([True, False, True, True, False])
    scores = np.array([5.0, 4.0, 3.0, 2.0, 1.0])
    assert right(scores, coins, ids, 5) == 1 + 0 + 1 + 0 + 1  # a b c in, d e out
    assert right(scores, coins, ids, 2) == 2
    assert right(scores, coins, ids, 3) == 1 + 0 + 1
    assert right(-scores, coins, ids, 5) == 3  # e d c in, b a out: d, c and b are right
    # ties are broken by id, which knows no coin
    assert right(np.zeros(5), coins, ids[::-1], 2) == right(-scores, coins, ids, 2)


def test_a_row_for_each_level_with_everything_a_report_needs() -> None:
    found = rows(table(2.0), Audit(), [claim(None)])
    assert [row["level"] for row in found] == [0.95, 0.999]
    for row in found:
        assert row["canaries"] == row["guesses"] == row["n"] == 100
        assert row["verdict"] == NONE and row["accounted"] is None and row["delta"] == 1e-5
        counts = (100, 100, row["correct"], 1e-5, row["level"])
        assert row["epsilon"] == lower_bound(*counts) > 0
        assert row["gaussian"] == gaussian_lower_bound(*counts) > row["epsilon"]
        assert row["ceiling"] == ceiling(100, 1e-5, row["level"])
        assert row["low"] < row["rate"] == row["correct"] / 100 < row["high"]
    assert found[1]["epsilon"] < found[0]["epsilon"] < found[0]["ceiling"]
    assert audit.warning(found) is None and audit.bug(found) is None
    assert "no epsilon is claimed" in audit.said(found[0])


def test_the_number_of_guesses_is_the_configs() -> None:
    (row, _) = rows(table(2.0), Audit(guesses=0.3), [])
    assert row["guesses"] == 30 and row["correct"] <= 30
    assert row["ceiling"] == ceiling(100, 1e-5, 0.95, guesses=30)
    assert Audit(canaries=5, guesses=0.01).guessed == 2


def test_verdicts() -> None:
    shown = {row["level"]: row["epsilon"] for row in rows(table(2.0), Audit(), [])}
    low, high = shown[0.999], shown[0.95]
    below = rows(table(2.0), Audit(), [claim(high + 0.01)])
    assert [row["verdict"] for row in below] == [BELOW, BELOW]
    assert audit.warning(below) is audit.bug(below) is None
    between = rows(table(2.0), Audit(), [claim((low + high) / 2)])
    assert [row["verdict"] for row in between] == [WARNING, BELOW]
    assert "one run in 20 does so by chance" in str(audit.warning(between))
    assert audit.bug(between) is None
    above = rows(table(2.0), Audit(), [claim(low - 0.01)])
    assert [row["verdict"] for row in above] == [WARNING, BUG]
    said = str(audit.bug(above))
    assert "\n" not in said and "DP-SGD claims" in said and "bug" in said
    # several claims: each is held against its own
    both = rows(table(2.0), Audit(), [claim(50.0), claim(low - 0.01)])
    assert [row["verdict"] for row in both] == [BELOW, WARNING, BELOW, BUG]


def test_a_clients_epsilon_is_doubled_for_a_record() -> None:
    """One record more makes another client: one leaves, one joins."""
    found = rows(table(2.0), Audit(), [claim(0.5, "client")])
    assert found[0]["accounted"] == 1.0 and found[0]["claimed"] == 0.5
    assert found[0]["delta"] == pytest.approx((1 + math.exp(0.5)) * 1e-5)
    assert "client, which is 1.00 for a record" in audit.said(found[0])
    # so large that it says nothing of a record
    assert [row["verdict"] for row in rows(table(2.0), Audit(), [claim(13, "client")])] == [
        NONE
    ] * 2
    assert rows(table(2.0), Audit(), [claim(2000.0, "client")])[0]["accounted"] is None


def test_over_two_hundred_runs_that_learned_nothing() -> None:
    """The bound is 0 in nine of ten, and warnings of an epsilon of 0 come in no more than 5 %."""
    from scipy.stats import binom

    found = [rows(table(0.0, seed=seed), Audit(), [claim(1e-9)]) for seed in range(200)]
    assert sum(row[0]["epsilon"] == 0 for row in found) >= 180
    warned = sum(row[0]["verdict"] == WARNING for row in found)
    assert warned <= binom.ppf(0.999, 200, 0.05)
    assert sum(row[1]["verdict"] == BUG for row in found) <= 2
    # and over twenty runs that learned their notes, the leak is always found
    assert all(rows(table(3.0, seed=s), Audit(), [])[0]["epsilon"] > 0.5 for s in range(20))
