"""Differences between consecutive models: planted participation is found, noise is chance."""

from __future__ import annotations

import numpy as np
import pytest

from fedmem.metrics import differencing
from fedmem.metrics.differencing import EVERY, contrasted, gains, known, own_effects, spans
from fedmem.metrics.outcomes import Owned
from fedmem.metrics.tokens import Tokens, TokenTable

CLIENTS = ("a", "b", "c")
SOMETIMES = {1: ["a", "b"], 2: ["b", "c"], 3: ["a", "c"], 4: ["a", "b"], 5: ["c"], 6: ["b"]}
N = 20  # tokens a note, less one


def owned(name: str, owner: str, copies: int, patient: str | None = None) -> Owned:
    return Owned(name, patient or f"p-{name}", (owner,), copies, copies == 0, N + 1, 90, 3)


def plan(each: int = 8) -> dict[str, Owned]:
    """`each` canaries written once, ten times, and twins, dealt to the clients."""
    found = {}
    for copies in (1, 10, 0):
        for n in range(each * 3):
            name = f"{copies}x-{n:02d}"
            found[name] = owned(name, CLIENTS[n % 3], copies)
    return found


def tokens_of(nats: np.ndarray) -> Tokens:
    flat = np.asarray(nats, np.float32)
    none = np.zeros(len(flat), np.float32)
    return Tokens(flat > -0.5, flat, none.astype(np.int32), none, none + 1, none[None], 100)


def table(
    canaries: dict[str, Owned],
    participants: dict[int, list[str]],
    gain: float,
    forget: float = 0.0,
    seed: int = 0,
) -> TokenTable:
    """Each round lifts notes of those who take part by `gain` (copies 10; a third of it for 1).

    Between, they fall by `forget`. All notes rise by what is learned in general, and by noise.
    """
    rng = np.random.default_rng(seed)
    found: TokenTable = {}
    for name, canary in canaries.items():
        level = rng.normal(-3, 0.5)
        shape = rng.normal(0, 1, N)
        found[0, "global", name] = tokens_of(level + shape)
        for round_, names in participants.items():
            there = canary.owners[0] in names
            weight = {0: 0.0, 1: 1 / 3, 10: 1.0}[canary.copies]
            level += 0.3 / round_ + rng.normal(0, 0.02)
            level += weight * (gain if there else -forget)
            found[round_, "global", name] = tokens_of(level + shape)
    return found


def one(rows: list[dict], **wanted: object) -> dict:
    found = [row for row in rows if all(row.get(k) == v for k, v in wanted.items())]
    assert len(found) == 1, (len(found), wanted)
    return found[0]


def test_planted_truth_is_found() -> None:
    canaries = plan()
    tokens = table(canaries, SOMETIMES, 0.1, 0.05)
    rows = differencing.rows(tokens, canaries, SOMETIMES, CLIENTS)
    for attack in differencing.SCORES:
        row = one(rows, figure="membership", attacker=EVERY, attack=attack, copies=10)
        assert row["clear"] and row["members"] == row["twins"] == 24
    # forgotten between: the contrast beats what is left at the end
    final, contrast = (
        one(rows, figure="membership", attacker=EVERY, attack=name, copies=1)
        for name in ("final", "contrast")
    )
    assert contrast["auc"] > final["auc"] + 0.1 and contrast["participation"] == "granted"
    there = one(rows, figure="participation", attacker=EVERY, notes="written")
    assert there["clear"] and (there["auc"], there["n"]) == (1.0, 6)
    assert (there["present"], there["absent"]) == (10, 8)
    twins = one(rows, figure="participation", attacker=EVERY, notes="twins")
    assert twins["low"] < 0.5 < twins["high"]
    best = one(rows, figure="best_round")
    assert best["auc"] >= best["last_auc"] and best["rounds_tried"] == 6


def test_a_client_has_only_its_rounds_and_only_others_notes() -> None:
    canaries = plan(2)
    tokens = table(canaries, SOMETIMES, 0.1)
    gained = gains(tokens)
    assert known(gained, SOMETIMES, "c") == [0, 1, 2, 3, 4, 5]
    assert known(gained, {5: ["c"]}, "c") == [0, 4, 5]
    assert known(gained, SOMETIMES, EVERY) == [0, 1, 2, 3, 4, 5, 6]
    seen = spans(gained, [0, 4, 5], SOMETIMES)
    assert [sorted(span.present) for span in seen] == [["a", "b", "c"], ["c"]]
    name = "10x-00"
    base = tokens[0, "global", name].logprob.mean()
    assert gained[4][name] == pytest.approx(tokens[4, "global", name].logprob.mean() - base, 1e-5)
    assert seen[1].change[name] == pytest.approx(gained[5][name] - gained[4][name])
    rows = differencing.rows(tokens, canaries, SOMETIMES, ("c",))
    mine = one(rows, figure="membership", attacker="c", attack="final")
    assert mine["members"] == 8 and mine["twins"] == 4 and mine["spans"] == 5
    # another note of a patient that the attacker knows does not count
    canaries["10x-00"] = owned("10x-00", "a", 10, "shared")
    canaries["10x-02"] = owned("10x-02", "c", 10, "shared")
    rows = differencing.rows(tokens, canaries, SOMETIMES, ("c",))
    assert one(rows, figure="membership", attacker="c", attack="final")["members"] == 7


def test_everybody_always_there_is_said_and_not_guessed() -> None:
    canaries, always = plan(2), {r: list(CLIENTS) for r in (1, 2, 3)}
    rows = differencing.rows(table(canaries, always, 0.1), canaries, always)
    contrast = one(rows, figure="membership", attack="contrast", copies=None)
    assert contrast["auc"] is None and "took part" in contrast["reason"]
    there = one(rows, figure="participation", notes="written")
    assert there["auc"] is None and "in no span" in there["reason"]
    assert one(rows, figure="membership", attack="final", copies=10)["clear"]


def test_models_that_learned_nothing_are_chance() -> None:
    found: dict[str, list[bool]] = {}
    for seed in range(60):
        canaries = plan(4)
        rng = np.random.default_rng(seed)
        rounds = {r: sorted(rng.choice(CLIENTS, 2, replace=False)) for r in range(1, 9)}
        tokens = table(canaries, rounds, 0.0, seed=seed)
        for row in differencing.rows(tokens, canaries, rounds):
            if row["auc"] is None or row.get("copies"):
                continue
            key = row.get("attack") or f"{row['figure']} {row.get('notes')}"
            if row["figure"] == "best_round":  # the chosen one: may not speak of members
                found.setdefault(key, []).append(row["low"] <= 0.5)
            else:
                found.setdefault(key, []).append(row["low"] <= 0.5 <= row["high"])
    assert set(found) == {*differencing.SCORES, "best_round None"} | {
        "participation written",
        "participation twins",
    }
    for key, inside in found.items():
        assert sum(inside) >= 53, (key, sum(inside))  # P(fewer) < 1e-2 at 95 %


def test_own_update_is_subtracted() -> None:
    canaries = plan()
    rounds = {1: ["a", "b"], 2: ["a", "b"], 3: ["a"], 4: ["a", "b"]}
    quiet = table(canaries, rounds, 0.1)
    # the attacker's update moves every note, each by its own amount: noise to others' notes
    rng, shares = np.random.default_rng(1), {r: {"a": 0.25} for r in rounds}
    loud, watched = dict(quiet), []
    pushed = dict.fromkeys(canaries, 0.0)
    for round_ in rounds:
        for name in canaries:
            push = rng.normal(0, 0.4)
            before = loud[round_ - 1, "global", name]
            alone = float(before.logprob.mean(dtype=np.float64)) + push / 0.25
            head = {"round": round_, "client": "a", "canary": name}
            watched.append(head | {"tokens": N, "logprob": alone * N})
            pushed[name] += push
            moved = quiet[round_, "global", name].logprob + np.float32(pushed[name])
            loud[round_, "global", name] = tokens_of(moved)
    columns = {key: [row[key] for row in watched] for key in watched[0]}
    own = own_effects(columns, loud, shares)
    rows = differencing.rows(loud, canaries, rounds, ("a",), own)
    without, subtracted = (
        one(rows, figure="membership", attacker="a", attack="contrast", own=flag)
        for flag in (False, True)
    )
    clean = differencing.rows(quiet, canaries, rounds, ("a",))
    best = one(clean, figure="membership", attacker="a", attack="contrast")
    assert subtracted["auc"] == pytest.approx(best["auc"], abs=1e-6)
    assert without["auc"] < best["auc"] - 0.1


def test_little_to_go_by() -> None:
    canaries = plan(1)
    tokens = table(canaries, SOMETIMES, 0.1)
    assert differencing.rows({}, canaries, SOMETIMES, CLIENTS) == []
    base = {key: one for key, one in tokens.items() if key[0] == 0}
    assert differencing.rows(base, canaries, SOMETIMES, CLIENTS) == []
    local = {(r, "a", name): one for (r, _, name), one in tokens.items()}
    assert differencing.rows(local, canaries, SOMETIMES) == []  # nobody gets another's model
    members = {name: c for name, c in canaries.items() if not c.twin}
    alone = {key: one for key, one in tokens.items() if key[2] in members}
    rows = differencing.rows(alone, members, SOMETIMES)
    final = one(rows, figure="membership", attack="final", copies=None)
    assert final["auc"] is None and "no twins" in final["reason"]
    assert not [row for row in rows if row["figure"] == "best_round"]
    sole = {name: owned(name, "a", c.copies) for name, c in canaries.items()}
    rows = differencing.rows(tokens, sole, {r: ["a"] for r in SOMETIMES}, ("a",))
    assert all(row["auc"] is None for row in rows if row["attacker"] == "a")
    series = spans(gains(tokens), [0, 1], SOMETIMES)
    assert contrasted(series, "10x-00", ["a"]) is None
