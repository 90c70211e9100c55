"""The panels of the attack bench: the verdict client by client, price, tails, audit."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakerun import Truth, write_run

from fedmem.metrics import audit as audit_rows
from fedmem.report import write_report
from fedmem.report.attacks import against, audited
from fedmem.report.clients import by_client, over_rounds, price, verdicts
from fedmem.report.page import load_arms
from fedmem.report.ranked import ranked
from fedmem.report.tail import tails
from fedmem.report.view import Arm


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Arm:
    run = write_run(tmp_path_factory.mktemp("run") / "run", Truth(own=(0, 0, 0, 0, 1, 2)))
    return load_arms([run])[0]


def test_verdict_by_client(arm: Arm) -> None:
    found = {one.owners: one for one in verdicts(arm)}
    assert set(found) == {"north", "south", "west"}
    # notes 0, 3, 6 of the seven that leak are north's, of six written ten times
    assert found["north"].lead[0] == (
        "Of north's 4 notes written once 0 gave back PHI, 95 % interval 0–49 %; of its 6 written "
        "10 times, 3, 19–81 %; twins 1 of 32, 1–16 %. The first came out in round 2. "
        "Clear of the twins' level: those written 10 times."
    )
    assert "No other client got PHI out of west's notes itself" in found["west"].lead[1]
    panel = by_client([arm])
    assert [figure.heading for figure in panel.figures][-1] == "Most exposed patients"
    assert all(len(row) == len(table.head) for table in panel.tables for row in table.rows)


def test_over_rounds_and_price(arm: Arm) -> None:
    heats = {heat.caption: heat for heat in over_rounds([arm])}
    assert len(heats) == 2
    (own,) = [heat for caption, heat in heats.items() if "own beginnings" in caption]
    assert own.victims == ["1", "2", "3", "4", "5"]
    lines = {name: [cell and cell[0] for cell in cells] for name, cells in own.rows}
    assert lines["south ← north"] == ["0 of 6"] * 3 + ["1 of 6"] * 2
    panel = price([arm])
    assert len(panel.figures) == 1 and "1 / 80" in panel.figures[0].plot


def test_without_token_scores_the_rest_is_shown(arm: Arm) -> None:
    panel = against([arm])  # a run of an earlier version has no tokens.parquet
    assert [figure.heading for figure in panel.figures] == ["Notes written 1×", "Notes written 10×"]
    assert "LOSS" not in panel.figures[0].plot and "longest run" in panel.figures[0].plot
    assert [figure.heading for figure in tails([arm]).figures][-1] == "Missing the worst case"
    assert ranked([arm]).figures == []


def test_a_bound_beside_what_was_accounted(arm: Arm) -> None:
    assert audited([arm]).figures == []
    head = {"level": 0.95, "epsilon": 1.5, "ceiling": 3.2, "gaussian": 1.7, "guesses": 40}
    head |= {"correct": 33, "what": "DP-SGD", "unit": "record", "claimed": 8.0}
    row = head | {"accounted": 8.0, "delta": 1e-5, "verdict": audit_rows.BELOW}
    arm = Arm(arm.name, arm.look, arm.summary | {"audit": [row]}, arm.config, {}, arm.path)
    panel = audited([arm])
    plot = panel.figures[0].plot
    assert "≥ 1.50" in plot and "≤ 8.00" in plot
    assert "DP-SGD claims 8.00" in panel.said[0]


def test_a_run_without_twins_claims_nothing(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", Truth(twins=0))
    text = write_report([run], tmp_path / "a.html").read_text(encoding="utf-8")
    section = text[text.index('id="clients"') : text.index('id="rounds"')]
    assert "rates, and no claim." in section and "Clear of the twins" not in section
