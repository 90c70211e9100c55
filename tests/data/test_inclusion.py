"""Random halves: fair coins, complementary pairs, and all else as the run had it."""

from __future__ import annotations

import numpy as np
from tiny import config

from fedmem.config.data import Canaries, Level
from fedmem.data.build import build
from fedmem.data.inclusion import shadowed, written
from fedmem.model.base import load


def test_coins_are_fair_and_pairs_complementary() -> None:
    coins = np.array([[written(i, s, 3) for i in range(2000)] for s in range(8)])
    assert (coins[0::2] != coins[1::2]).all()
    assert abs(coins[0::2].mean() - 0.5) < 4 * 0.5 / np.sqrt(8000)
    assert (coins.sum(axis=0) == 4).all()  # each note in exactly half
    pairs = np.corrcoef(coins[0::2].astype(float))
    assert np.abs(pairs[~np.eye(4, dtype=bool)]).max() < 0.1  # pairs know nothing of each other


def test_twins_are_written_as_the_levels_are() -> None:
    canaries = Canaries(
        levels=[Level(copies=1, notes=4), Level(copies=10, notes=4)], twins=8, shadow=0
    )
    roles = [(1, {"a": 1})] * 4 + [(10, {"b": 10})] * 4 + [(0, {"a": 0}), (0, {"b": 0})] * 4
    found = [shadowed(canaries.model_copy(update={"shadow": s}), roles, 2, 0) for s in (0, 1)]
    for one, other in zip(*found, strict=True):
        assert (one[0] == 0) != (other[0] == 0)
        assert sum(one[1].values()) == one[0] and sum(other[1].values()) == other[0]
    would = [max(one[0], other[0]) for one, other in zip(*found, strict=True)]
    assert would == [1] * 4 + [10] * 4 + [1, 1, 10, 10] * 2  # both clients have twins of each
    split = [(3, {"a": 1, "b": 2})]
    lone = Canaries(levels=[Level(copies=3, notes=1)], twins=0, shadow=0)
    both = [shadowed(lone.model_copy(update={"shadow": s}), split, 2, 0)[0] for s in (0, 1)]
    assert sorted(both, key=lambda role: role[0]) == [(0, {"a": 0, "b": 0}), split[0]]


def test_a_shadow_holds_the_same_notes_and_records(base_folder) -> None:  # type: ignore[no-untyped-def]
    whole = config(base_folder)
    _, tokenizer = load(whole.model, whole.seed)
    canaries = whole.data.canaries.model_copy(update={"shadow": 0})
    data = whole.data.model_copy(update={"canaries": canaries})
    run, shadow = (
        build(one, tokenizer) for one in (whole, whole.model_copy(update={"data": data}))
    )
    assert [c.id for c in run.canaries] == [c.id for c in shadow.canaries]
    for one, other in zip(run.canaries, shadow.canaries, strict=True):
        assert (one.ids == other.ids).all() and [*one.owners] == [*other.owners]
        assert other.twin == (other.copies == 0)
        assert one.twin or other.copies in (0, one.copies)
    held = {c.id for c in shadow.canaries if c.copies}
    assert 0 < len(held) < len(run.canaries)
    for name, shard in shadow.shards.items():
        own = [e for e in shard.examples if e.canary is None]
        before = [e for e in run.shards[name].examples if e.canary is None]
        assert sorted(e.ids.tobytes() for e in own) == sorted(e.ids.tobytes() for e in before)
        assert {e.canary for e in shard.examples} - {None} <= held
    assert {q.id for q in run.heldout} == {q.id for q in shadow.heldout}
