"""Models that saw nothing, 200 times: the intervals hold the truth as often as they say.

A cheap setting: figures drawn from a null (`nullworld`), through the metrics that a report uses.
One interval a world and name, so that the worlds are the sample; one-sided binomial test against
95 %, Holm over all names. In the same setting with a planted leak, each attack finds it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest
from nullworld import (
    CLIENTS,
    CONTINUATION,
    LAST,
    LISTED,
    ROUNDS,
    World,
    world,
)
from scipy.stats import binom

from fedmem.attacks.membership import ATTACKS
from fedmem.metrics import (
    agreement,
    candidates,
    clients,
    coverage,
    differencing,
    exposure,
    membership,
    skew,
    verdict,
)
from fedmem.metrics.intervals import wilson
from fedmem.metrics.leakage import note_shares, value_shares
from fedmem.metrics.pairs import matrix

pytestmark = pytest.mark.slow
SEEDS = 200
Seen = tuple[str, float, Any, Any]  # name, truth, low, high
BITS = math.log2(LISTED) - float(np.mean(np.log2(np.arange(1, LISTED + 2))))


@pytest.fixture(scope="module")
def worlds() -> list[World]:
    return [world(seed) for seed in range(SEEDS)]


def areas(made: World, found: Any) -> Iterator[dict[str, Any]]:
    """Every area under a ROC curve that a report states, with the name of its attack."""
    for row in membership.rows(_ends(made), made.canaries, list(ATTACKS)):
        if row["round"] == LAST:
            yield row | {"name": f"membership {row['attack']} {row['copies']}"}
    for row in agreement.rows({}, found, made.canaries, []):
        if row["figure"] == "auc":
            yield row | {"name": f"extraction {row['attack']} {row['copies']}"}
    for row in differencing.rows(made.tokens, made.canaries, ROUNDS, CLIENTS):
        if row["figure"] == "membership" and row["attacker"] in ("*", "b"):
            name = f"{row['attack']} {row['attacker']} {row['copies']}"
            yield row | {"name": f"differencing {name}"}
    for row in clients.user_inference(_ends(made), made.canaries):
        if row["client"] in ("b", None):
            yield row | {"name": f"user inference {row['client']}"}


def _ends(made: World) -> Any:
    return {key: one for key, one in made.tokens.items() if key[0] in (0, LAST)}


def shares(made: World, found: Any) -> Iterator[Seen]:
    """Rates, and differences to twins, of what was never trained on."""
    for row in note_shares(found, made.canaries, CONTINUATION):
        bound = (row["attacker"], row["knowledge"]) == ("*", "true_prefix")
        if row["round"] == LAST and bound and row["prefix"] is None:
            name = f"{row['attack']} {row['copies']}"
            truth = {"phi": made.phi, "exact": made.exact}.get(row["attack"])
            if truth is not None:
                yield f"rate {name}", truth, row["low"], row["high"]
            if row["difference"]:
                gap = row["difference"]
                yield f"difference {name}", 0.0, gap["low"], gap["high"]
    for row in verdict.rows(found, made.canaries, CONTINUATION):
        if row["figure"] == "rate" and row["owners"] == ["b"] and row["knowledge"] == "true_prefix":
            name = f"{row['attack']} {row['copies']} {row['over']}"
            yield f"verdict {name}", 0.0, row["difference"]["low"], row["difference"]["high"]


def means(made: World, found: Any) -> Iterator[Seen]:
    """Shares of values, places among candidates, exposures, correlations, tails."""
    bound = {key: notes for key, notes in found.items() if key[0] == LAST and key[2] == "*"}
    for row in value_shares(bound, made.canaries):
        yield f"values {row['copies']}", made.value, row["low"], row["high"]
    own = {key: notes for key, notes in found.items() if key[0] == LAST and key[2] == "a"}
    for row in coverage.rows(own, made.canaries):
        if (row["round"], row["attacker"]) == (LAST, "a"):
            yield f"coverage {row['copies']}", made.value, row["low"], row["high"]
    for row in candidates.rows(made.secrets, made.canaries):
        if row["round"] == LAST and row["category"] is None:
            name = f"inference {row['score']} {row['top']} {row['copies']}"
            yield name, row["top"] / (LISTED + 1), row["low"], row["high"]
    for row in exposure.rows(made.secrets, made.canaries):
        if row["round"] == LAST:
            name = f"exposure {row['score']} {row['form']} {row['copies']}"
            yield name, BITS, row["low"], row["high"]
    for row in agreement.rows(_ends(made), found, made.canaries, ["min_k_pp"]):
        named = row["figure"] == "correlation" and "phi" in (row["attack"], row["other"])
        if named and row["rho"] is not None:
            yield f"correlation {row['attack']} {row['other']}", 0.0, row["low"], row["high"]
    tails = [row for row in skew.rows(found, made.canaries) if row["figure"] == "tail"]
    for copies, at in product((0, 1, 10, None), (1, 3)):
        same = [row for row in tails if (row["measure"], row["copies"]) == ("prefix", copies)]
        row = next((row for row in same if row["at"] >= at), None)  # the curve's step there
        if row:
            yield f"tail {at} {copies}", made.on**at, row["low"], row["high"]
    for row in clients.source_inference(made.tokens, made.canaries, ROUNDS):
        yield f"source {row['copies']}", row["chance"], row["low"], row["high"]


def survival(hits: int, n: int, p: float) -> float:
    """P(X <= hits), X ~ Binomial(n, p)."""
    return float(binom.cdf(hits, n, p))


def holm(chances: dict[str, float], level: float = 0.05) -> list[str]:
    """The names that are rejected."""
    rejected = []
    for i, name in enumerate(sorted(chances, key=lambda name: chances[name])):
        if chances[name] > level / (len(chances) - i):
            break
        rejected.append(name)
    return rejected


def short(found: Iterable[Seen]) -> list[str]:
    """The names whose intervals hold the truth too seldom, with their counts."""
    hits: dict[str, list[bool]] = defaultdict(list)
    for name, truth, low, high in found:
        hits[name].append(low <= truth <= high)
    chances = {name: survival(sum(of), len(of), 0.95) for name, of in hits.items()}
    assert min(map(len, hits.values())) >= SEEDS / 2, "some name has hardly any interval"
    return [f"{name}: {sum(hits[name])} of {len(hits[name])}" for name in holm(chances)]


def test_holm_and_the_binomial_tail() -> None:
    assert survival(2, 2, 0.95) == pytest.approx(1.0)
    assert survival(180, 200, 0.95) == pytest.approx(0.00267, abs=1e-4)
    assert holm({"a": 0.01, "b": 0.02, "c": 0.2}) == ["a", "b"]
    assert holm({"a": 0.02, "b": 0.03, "c": 0.2}) == []


def test_areas(worlds: list[World]) -> None:
    seen = [
        (row["name"], 0.5, row["low"], row["high"])
        for made in worlds
        for row in areas(made, made.found)
        if row["auc"] is not None
    ]
    assert short(seen) == []


def test_shares(worlds: list[World]) -> None:
    assert short(one for made in worlds for one in shares(made, made.found)) == []


def test_means(worlds: list[World]) -> None:
    assert short(one for made in worlds for one in means(made, made.found)) == []


def test_claims_are_seldom_false(worlds: list[World]) -> None:
    """A leak is claimed by the lower end alone: in one world of 40 at most, by name."""
    claims: dict[str, list[bool]] = defaultdict(list)
    for made in worlds:
        found = made.found
        for row in verdict.rows(found, made.canaries, CONTINUATION):
            if row["figure"] == "rate" and row["clear"] is not None:
                bound = row["knowledge"] == "true_prefix"
                key = (bound, row["owners"][0], row["attack"], row["copies"], row["over"])
                claims[f"verdict {key}"].append(row["clear"])
        for row in note_shares(found, made.canaries, CONTINUATION):
            if row["clear"] is not None and row["round"] == LAST and row["prefix"] is None:
                key = (row["attacker"], row["attack"], row["copies"])
                claims[f"rate {key}"].append(row["clear"])
    chances = {
        name: 1 - survival(sum(of) - 1, len(of), 0.025) if sum(of) else 1.0
        for name, of in claims.items()
    }
    assert len(claims) > 60
    assert [f"{name}: {sum(claims[name])}" for name in holm(chances)] == []


def test_wilson_holds_on_average_and_not_at_every_rate() -> None:
    """What every score interval has: of 16 notes at a chance of 1 %, it holds 85 % of the time."""
    n = 16
    ends = [wilson(k, n) for k in range(n + 1)]

    def cover(p: float) -> float:
        return math.fsum(
            math.comb(n, k) * p**k * (1 - p) ** (n - k)
            for k in range(n + 1)
            if ends[k].low <= p <= ends[k].high
        )

    rates = np.linspace(0.0005, 0.9995, 1000)
    covered = [cover(p) for p in rates]
    assert np.mean(covered) > 0.95 and 0.83 < min(covered) < 0.9
    assert cover(0.01) == pytest.approx(0.851, abs=0.001)


def test_each_membership_attack_finds_a_planted_leak() -> None:
    found: dict[str, list[float]] = defaultdict(list)
    for seed in range(6):
        made = world(seed, planted=True)
        for row in areas(made, made.found):
            if row.get("copies") == 10 or row.get("client") == "b":
                found[row["name"]].append(row["auc"])
    assert len(found) == len(ATTACKS) + 3 + 4 + 1
    assert {name: np.mean(of) for name, of in found.items() if np.mean(of) < 0.65} == {}


@pytest.mark.parametrize("seed", range(3))
def test_the_other_attacks_find_it_too(seed: int) -> None:
    made = world(seed, planted=True)
    found = made.found
    spans = differencing.rows(made.tokens, made.canaries, ROUNDS, CLIENTS)
    (contrast,) = [
        row
        for row in spans
        if (row["figure"], row["attacker"]) == ("membership", "*")
        and (row["attack"], row["copies"]) == ("contrast", 10)
    ]
    assert contrast["clear"]
    (best,) = [row for row in spans if row["figure"] == "best_round"]
    assert best["clear"]
    (named,) = [
        row
        for row in clients.source_inference(made.tokens, made.canaries, ROUNDS)
        if (row["attacker"], row["copies"]) == ("*", 10)
    ]
    assert named["low"] > named["chance"]
    told = {
        (row["attack"], tuple(row["owners"]))
        for row in verdict.rows(found, made.canaries, CONTINUATION)
        if row["figure"] == "rate" and row["copies"] == 10 and row["clear"]
    }
    assert {attack for attack, _ in told} == {"phi", "window", "exact"}
    for rows, figure in ((candidates, "rate"), (exposure, "bits")):
        for row in rows.rows(made.secrets, made.canaries):
            if row["round"] == LAST and row["copies"] == 10 and row.get("category") is None:
                assert row["clear"] and row[figure] > row["twins"][figure]
    longest = {
        row["copies"]: row["median"]
        for row in skew.rows(found, made.canaries)
        if row["figure"] == "length" and row["round"] == LAST and row["measure"] == "run"
    }
    assert longest[10] > longest[0]
    every = matrix(made.outcomes, made.canaries, ROUNDS, CLIENTS, CLIENTS, CONTINUATION)[0]
    hits = [row for row in every if row["knowledge"] == "own_prefix" and row["round"] == LAST]
    rates = {
        level: np.mean([row["rate"] for row in hits if row["copies"] == level]) for level in (0, 10)
    }
    assert rates[10] > rates[0] + 0.2
