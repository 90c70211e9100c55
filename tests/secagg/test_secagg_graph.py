"""Neighbours and threshold: the bounds against an independent computation, and what is refused."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import hypergeom

from fedmem.secagg.graph import SIGMA, plan, ring

SMALL = 2.0**-SIGMA


@pytest.mark.parametrize("clients", [100, 300, 1000])
@pytest.mark.parametrize(("corrupted", "lost"), [(0.05, 0.05), (0.2, 0.2), (0.34, 0.1)])
def test_a_sparse_graph_fails_once_in_2_to_the_40(
    clients: int, corrupted: float, lost: float
) -> None:
    made = plan(clients, corrupted=corrupted, lost=lost)
    k, t = made.neighbours, made.threshold
    bad, gone = int(corrupted * clients + 1e-9), int(lost * clients + 1e-9)
    assert 2 <= k < clients - 1 and k % 2 == 0
    # t corrupted neighbours of an honest client; fewer than t holders left of a lost client's key,
    # or of a survivor's own secret, of which it holds a share itself
    assert clients * hypergeom.sf(t - 1, clients - 1, bad, k) <= SMALL * (1 + 1e-6)
    assert clients * hypergeom.sf(k - t, clients - 1, gone - 1, k) <= SMALL * (1 + 1e-6)
    assert clients * hypergeom.sf(k + 1 - t, clients - 1, gone, k) <= SMALL * (1 + 1e-6)
    gap = clients * 1.0
    for j in range(k // 2):
        gap *= max(0, bad + gone - j) / (clients - j)
    assert gap <= SMALL
    assert made.survivors == clients - gone


@pytest.mark.parametrize("clients", [3, 4, 5, 10, 30])
def test_few_clients_are_all_neighbours(clients: int) -> None:
    made = plan(clients)
    bad = clients * 34 // 100
    assert made.neighbours == clients - 1
    assert bad + 2 <= made.threshold == made.survivors <= clients
    # one may get lost, unless the two left would each know the other's update
    assert made.survivors < clients or clients == 3
    # of n holders no lie about who was lost gives t shares of either kind
    assert 2 * made.threshold > clients + bad or made.survivors == clients - 1


def test_three_clients_that_trust_each_other_may_lose_one() -> None:
    assert plan(3, corrupted=0.0).survivors == 2
    assert plan(3, threshold=2).survivors == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"clients": 2}, "of two, each could take its own update off the sum"),
        ({"clients": 5000}, "takes 2048 at most"),
        ({"clients": 10, "threshold": 11}, "threshold: 11 shares of 10"),
        ({"clients": 10, "threshold": 3}, "3 corrupted clients of 10 could hold them"),
        ({"clients": 10, "neighbours": 12}, "neighbours: 12, and a client has 9 others"),
        ({"clients": 10, "neighbours": 5}, "neighbours: 5 is odd"),
        ({"clients": 30, "neighbours": 8}, "too few for 10 corrupted and 3 lost"),
        ({"clients": 4, "corrupted": 0.9}, "fewer than two honest"),
        ({"clients": 1000, "threshold": 900}, "could hold|that there are to count on|survivors"),
    ],
)
def test_an_impossible_plan_is_refused(arguments: dict[str, int], said: str) -> None:
    if arguments == {"clients": 1000, "threshold": 900}:  # more neighbours make it possible
        assert plan(**arguments).neighbours == 999
        return
    with pytest.raises(ValueError, match=said):
        plan(**arguments)  # type: ignore[arg-type]


@given(st.integers(3, 60), st.integers(1, 30))
def test_a_ring_is_regular_and_mutual(clients: int, half: int) -> None:
    order = list(range(clients))
    random.Random(clients).shuffle(order)
    graph = ring(order, 2 * half)
    for who, neighbours in graph.items():
        assert len(neighbours) == min(2 * half, clients - 1) == len(set(neighbours))
        assert neighbours == sorted(neighbours) and who not in neighbours
        assert all(who in graph[other] for other in neighbours)
