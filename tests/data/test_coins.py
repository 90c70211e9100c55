"""Coin-flip canaries: in a shard if and only if the coin says so, and nobody else's business."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from scipy.stats import binomtest
from tiny import config, make_tokenizer

from fedmem.config.audit import Audit
from fedmem.data.build import ALL, Dataset, build
from fedmem.data.canaries import Drawn, disjoint
from fedmem.data.coins import toss
from fedmem.data.preview import plan_table
from fedmem.data.records import Note, PhiSpan
from fedmem.errors import DataError

TOKENIZER = make_tokenizer()


def made(canaries: int | None = 30, **sections: Any) -> Dataset:
    attack = {"audit": {"canaries": canaries}} if canaries else {}
    return build(config("unused", attack=attack, **sections), TOKENIZER)  # type: ignore[arg-type]


def examples(dataset: Dataset, client: str) -> Counter[tuple[str | None, bytes]]:
    return Counter((e.canary, e.ids.tobytes()) for e in dataset.shards[client].examples)


@pytest.fixture(scope="module")
def audited() -> Dataset:
    return made()


def test_a_note_is_written_once_where_its_coin_says_so_and_nowhere_else(audited: Dataset) -> None:
    assert [c.id for c in audited.audit] == [f"audit-{n:03d}" for n in range(30)]
    assert {c.copies for c in audited.audit} == {0, 1}
    for canary in audited.audit:
        assert canary.owners == {next(iter(canary.owners)): canary.copies}
        for name in audited.shards:
            times = sum(
                e.ids.tobytes() == canary.ids.tobytes() for e in audited.shards[name].examples
            )
            assert times == canary.owners.get(name, 0)
    owners = Counter(next(iter(c.owners)) for c in audited.audit)
    assert owners == {"a": 15, "b": 15}
    for name, counts in audited.stats["clients"].items():
        assert counts["audit_canaries"] == sum(c.owners.get(name, 0) for c in audited.audit)
        assert counts["examples"] == len(audited.shards[name].examples)


def test_everything_else_is_as_without_an_audit(audited: Dataset) -> None:
    plain = made(None)
    assert plain.audit == () and "audit_canaries" not in plain.stats["clients"]["a"]
    assert plan_table(audited).equals(plan_table(plain))
    assert audited.stats["canaries"] == plain.stats["canaries"]
    ids = {c.id for c in audited.audit}
    for name, shard in audited.shards.items():
        assert shard.canaries == plain.shards[name].canaries and not ids & set(shard.canaries)
        kept = Counter({k: n for k, n in examples(audited, name).items() if k[0] not in ids})
        assert kept == examples(plain, name)
    assert [q.id for q in audited.heldout] == [q.id for q in plain.heldout]


def test_no_note_shares_anything_with_another(audited: Dataset) -> None:
    everybody = [*audited.canaries, *audited.audit]
    assert len({c.patient for c in everybody}) == len(everybody)
    names = [s.value for c in everybody for s in c.phi if s.type in ("MEDICALRECORD", "PHONE")]
    of_each = Counter(value for c in everybody for value in {s.value for s in c.phi})
    assert names and all(of_each[value] == 1 for value in names)


def test_the_coins_are_fair_and_hang_on_the_seed_alone(audited: Dataset) -> None:
    flips = [c.copies for seed in range(6) for c in made(50, seed=seed).audit]
    assert binomtest(sum(flips), len(flips)).pvalue > 1e-3
    # neither the canaries, nor the owners, nor the way of training change a coin
    other = made(30, rounds={"topology": "centralized"}, training={"lr": 1e-4, "max_length": 120})
    assert [c.copies for c in other.audit] == [c.copies for c in audited.audit]
    inside = Counter(e.canary for e in other.shards[ALL].examples)
    assert [inside[c.id] for c in other.audit] == [c.copies for c in other.audit]


def test_files_must_hold_enough_notes() -> None:
    def note(number: int) -> Note:
        body = " ".join(f"w{number}x{i}" for i in range(20))
        return Note(f"n{number}", f"p{number}", f"N{number} {body}", (PhiSpan(0, 2, "NAME", "X"),))

    def prepare(item: Note, index: int) -> Drawn | None:
        from fedmem.data.encoding import Coder
        from fedmem.data.windows import window

        found = window(Coder(TOKENIZER), item, 400, "error")
        return found and Drawn(item, found)

    notes = [note(n) for n in range(9)]
    taken = list(disjoint(notes[:3], prepare, Counter()))
    drawn = toss(Audit(canaries=6), notes, taken, ["b", "a"], 0, prepare)
    assert {c.patient for c in drawn} == {f"p{n}" for n in range(3, 9)}
    with pytest.raises(DataError) as caught:
        toss(Audit(canaries=7), [*notes, note(8)], taken, ["a"], 0, prepare)
    assert str(caught.value) == (
        "attack.audit.canaries: 7 notes are needed besides canaries and twins; of the 7 there are, "
        "6 can be used (left out: 1 same_patient); lower it, or give more notes"
    )
