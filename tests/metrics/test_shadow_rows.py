"""What shadow runs tell: planted memorization is found, none is chance; files that do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from test_differencing import CLIENTS, one, owned

from fedmem.errors import DataError
from fedmem.manifest import FORMAT
from fedmem.metrics import shadows, tokens
from fedmem.metrics.outcomes import Owned
from fedmem.metrics.shadows import Measured


def notes(each: int = 12) -> list[Owned]:
    """`each` notes a client and level: written once, ten times, twins."""
    return [
        owned(f"{copies}x-{client}{n:02d}", client, copies)
        for copies in (1, 10, 0)
        for client in CLIENTS
        for n in range(each)
    ]


class World:
    """Runs on the same notes: writing one adds `gain` nats a token times log(1 + copies)."""

    def __init__(self, gain: float, seed: int = 0, each: int = 12) -> None:
        self.notes, self.gain = notes(each), gain
        self.rng = np.random.default_rng(seed)
        self.hardness = self.rng.normal(-3, 0.7, len(self.notes)).clip(max=-1)
        self.would = np.array([n.copies or (1, 10)[i % 2] for i, n in enumerate(self.notes)])
        self.target = self.run(np.array([n.copies for n in self.notes]))

    def run(
        self, copies: np.ndarray, left_out: tuple[str, ...] = (), shadow: int | None = None
    ) -> Measured:
        there = np.array([n.owners[0] not in left_out for n in self.notes])
        copies = np.where(there, copies, 0)
        noise = self.rng.normal(0, 0.03, len(copies))
        nats = self.hardness + self.gain * np.log1p(copies) + noise
        phi = (nats > self.hardness + 0.2).astype(float)
        return Measured(nats, np.exp(nats), phi, copies, left_out, shadow)

    def halves(self, count: int) -> list[Measured]:
        found = []
        for number in range(0, count, 2):
            coin = self.rng.random(len(self.notes)) < 0.5
            found.append(self.run(np.where(coin, self.would, 0), shadow=number))
            found.append(self.run(np.where(coin, 0, self.would), shadow=number + 1))
        return found


def test_lira_and_rmia_find_members_that_the_loss_does_not() -> None:
    world = World(0.1)
    rows = shadows.membership(world.target, world.halves(8))
    for attack in ("lira_offline", "lira_online", "rmia_offline", "rmia_online"):
        ten = one(rows, attack=attack, copies=10)
        assert ten["clear"] and ten["auc"] > 0.95 and (ten["members"], ten["twins"]) == (36, 18)
        every = one(rows, attack=attack, copies=None)
        assert every["clear"] and (every["members"], every["twins"]) == (72, 36)
        assert every["tpr_1"] is None and every["shadows"] == 8


def test_nothing_learned_is_chance() -> None:
    inside: dict[str, list[bool]] = {}
    for seed in range(60):
        world = World(0.0, seed, each=5)
        halves = world.halves(4)
        for row in shadows.membership(world.target, halves):
            if row["copies"] is None:
                inside.setdefault(row["attack"], []).append(row["low"] <= 0.5 <= row["high"])
        for row in shadows.counterfactual(world.notes, halves):
            if row["client"] is None and row["measure"] == "nats" and row["copies"] == 10:
                inside.setdefault("counterfactual", []).append(row["low"] <= 0 <= row["high"])
        gone = world.run(world.target.copies, ("a",))
        rows = shadows.without_client(world.notes, world.target, [gone])
        row = one(rows, client="a", copies=None)
        inside.setdefault("without", []).append(row["low"] <= 0.5 <= row["high"])
        inside.setdefault("nats", []).append(row["nats_low"] <= 0 <= row["nats_high"])
    assert len(inside) == 7
    for key, found in inside.items():
        assert len(found) == 60 and sum(found) >= 53, (key, sum(found))


def test_counterfactual_memorization_is_what_was_added() -> None:
    world = World(0.1)
    rows = shadows.counterfactual(world.notes, world.halves(8))
    for copies in (1, 10):
        row = one(rows, measure="nats", copies=copies, client=None)
        assert row["low"] < 0.1 * np.log1p(copies) < row["high"] and row["low"] > 0
        for client in CLIENTS:
            assert one(rows, measure="nats", copies=copies, client=client)["n"] == 18
    by_copies = [one(rows, measure="accuracy", copies=c, client=None)["mean"] for c in (1, 10)]
    assert by_copies[0] < by_copies[1]
    alike = shadows._mean_row(np.zeros(9))
    assert alike["low"] is None and alike["reason"] == "all notes alike"


def test_because_a_client_took_part() -> None:
    world = World(0.1)
    gone = [world.run(world.target.copies, (client,)) for client in CLIENTS]
    rows = shadows.without_client(world.notes, world.target, gone)
    for client in CLIENTS:
        ten = one(rows, client=client, copies=10)
        assert ten["nats_low"] < 0.1 * np.log(11) < ten["nats_high"] and ten["clear"]
        assert ten["phi"] > 0.5 > ten["phi_without"] == 0 and ten["gain_low"] > 0
        twins = one(rows, client=client, copies=0)
        assert twins["nats_low"] < 0 < twins["nats_high"] and "control" in twins["reason"]
    over = one(rows, client=None)
    assert (over["auc"], over["n"]) == (1.0, 3) and over["low"] < 0.5  # three clients are few


def test_too_few_and_missing() -> None:
    world = World(0.1, each=2)
    rows = shadows.membership(world.target, world.halves(2))
    lira = one(rows, attack="lira_offline", copies=None)
    assert lira["auc"] is None and "it takes 4" in lira["reason"]
    assert one(rows, attack="rmia_offline", copies=None)["auc"] is not None
    members = [i for i, note in enumerate(world.notes) if not note.twin]

    def only(run: Measured) -> Measured:
        parts = (run.nats, run.accuracy, run.phi, run.copies)
        return Measured(*(part[members] for part in parts), run.left_out, run.shadow)

    rows = shadows.membership(only(world.target), [only(run) for run in world.halves(4)])
    assert {row["auc"] for row in rows} == {None}
    assert "no twins" in one(rows, attack="lira_online", copies=None)["reason"]


def write(folder: Path, run: Measured, owners: list[Owned], **changes: object) -> Path:
    """The files of a run that are read."""
    folder.mkdir(parents=True)
    ids = [note.id for note in owners]
    config = {"rounds": {"count": 3, "left_out": list(run.left_out)}}
    config["data"] = {"canaries": {"shadow": run.shadow}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    manifest = {"status": "finished", "kind": "run", "started": "", "format": FORMAT, **changes}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    table = {"canary": ids, "owners": [list(n.owners) for n in owners]}
    plan = table | {"owner_copies": [[int(c)] for c in run.copies]}
    pq.write_table(pa.table(plan), folder / "canaries.parquet")
    rows = [
        {"round": round_, "model": "global", "canary": name, "zlib": 9}
        | {"ok": [True, False], "logprob": [v * (round_ + 1) / 4] * 2, "rank": [0, 0]}
        | {"mu": [0.0, 0.0], "sigma": [1.0, 1.0]}
        for round_ in (0, 3)
        for name, v in zip(ids, run.nats, strict=True)
    ]
    pq.write_table(pa.Table.from_pylist(rows, tokens.schema(0)), folder / tokens.TOKENS)
    head = {"round": 3, "attacker": "*", "knowledge": "true_prefix", "attack": "phi"}
    hits = [head | {"canary": i, "hit": bool(h)} for i, h in zip(ids, run.phi, strict=True)]
    pq.write_table(pa.Table.from_pylist(hits), folder / "scores.parquet")
    return folder


def test_from_files_and_files_that_do_not_fit(tmp_path: Path) -> None:
    world = World(0.1, each=3)
    run = write(tmp_path / "run", world.target, world.notes)
    canaries = {note.id: note for note in world.notes}
    assert shadows.rows(run, canaries) == []
    for number, half in enumerate(world.halves(4)):
        write(run / "shadows" / f"half-{number}", half, world.notes)
    gone = world.run(world.target.copies, ("a",))
    write(run / "shadows" / "without", gone, world.notes)
    write(run / "shadows" / "torn", gone, world.notes, status="running")
    rows = shadows.rows(run, canaries)
    assert {row["figure"] for row in rows} == {"membership", "counterfactual", "without_client"}
    assert one(rows, attack="rmia_online", copies=10)["shadows"] == 4
    assert one(rows, figure="without_client", copies=10)["n"] == 3
    names = [note.id for note in world.notes]
    read = shadows.measured(run / "shadows" / "without", names)
    assert read.nats == pytest.approx(gone.nats, rel=1e-6)
    assert read.copies.tolist() == gone.copies.tolist() and read.left_out == ("a",)
    assert read.accuracy.tolist() == [0.5] * len(names)

    write(run / "shadows" / "other", gone, [*world.notes[:-1], owned("x", "c", 0)])
    with pytest.raises(DataError, match="other: has other notes than its run"):
        shadows.rows(run, canaries)
    (run / "shadows" / "other" / "canaries.parquet").unlink()
    with pytest.raises(DataError, match="other: cannot be read"):
        shadows.rows(run, canaries)
    manifest = run / "shadows" / "other" / "manifest.json"
    manifest.write_text(manifest.read_text().replace(f'"format": {FORMAT}', '"format": 1'))
    with pytest.raises(DataError, match="format 1"):
        shadows.rows(run, canaries)
