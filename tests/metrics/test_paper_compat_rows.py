"""The released code's headline and worst case by hand; and that ours do not see its rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fakerun import Truth, canaries, scores, write_run, write_scores

from fedmem.attacks.rows import table
from fedmem.metrics.intervals import wilson
from fedmem.metrics.outcomes import collect, read_canaries
from fedmem.metrics.paper_compat import rows
from fedmem.metrics.summary import summarise
from fedmem.report import write_report


def compat(note: str, length: int, hit: bool, bleu: float, round_: int = 5) -> dict[str, Any]:
    head = {"round": round_, "model": "global", "view": "client", "attacker": "*", "queries": 1}
    head |= {"knowledge": "true_prefix", "attack": "paper_compat", "canary": note}
    return head | {"target": length, "prefix_tokens": length, "hit": hit, "bleu": bleu}


def made(level: str, notes: int, exact: dict[int, int], bleu: dict[int, int]) -> list[Any]:
    """By length: of the first so many notes all 50 tokens came back, or BLEU is just enough."""
    return [
        compat(f"{level}-{n:02d}", length, n < exact[length], 0.75 if n < bleu[length] else 0.74)
        for length in exact
        for n in range(notes)
    ]


ROWS = [
    *made("note-10x", 16, {10: 0, 50: 4, 100: 8}, {10: 4, 50: 8, 100: 12}),
    *made("note-1x", 12, {10: 0, 50: 0, 100: 3}, {10: 0, 50: 3, 100: 3}),
    *made("twin", 32, {10: 0, 50: 0, 100: 0}, {10: 0, 50: 0, 100: 2}),
]


def one(found: list[Any], **same: Any) -> Any:
    (row,) = [row for row in found if all(row[key] == value for key, value in same.items())]
    return row


def test_mean_and_worst_by_hand() -> None:
    found = rows(table(ROWS), read_canaries(_plan()))
    mean = one(found, copies=10, measure="exact", figure="mean")
    assert mean["rate"] == pytest.approx((0 + 4 + 8) / 3 / 16) and mean["n"] == 16
    assert (mean["low"], mean["high"]) == (wilson(4, 16).low, wilson(4, 16).high)
    assert one(found, copies=10, measure="bleu", figure="mean")["rate"] == pytest.approx(0.5)
    worst = one(found, copies=10, measure="bleu", figure="worst")
    assert (worst["k"], worst["n"], worst["prefix"]) == (12, 16, 100)
    # the worst exact match: of notes written once alone
    exact = [row for row in found if row["figure"] == "worst" and row["measure"] == "exact"]
    assert [(row["copies"], row["k"], row["n"]) for row in exact] == [(1, 3, 12)]
    lengths = [row for row in found if row["figure"] == "length"]
    assert len(lengths) == 3 * 2 * 3
    assert one(lengths, copies=0, measure="bleu", prefix=100)["k"] == 2


def _plan() -> dict[str, list[Any]]:
    listed = canaries(Truth())
    return {key: [row[key] for row in listed] for key in listed[0]}


def test_no_other_figure_sees_these_rows(tmp_path: Path) -> None:
    plain = summarise(write_run(tmp_path / "plain"))
    run = write_run(tmp_path / "compat")
    write_scores(run, scores(Truth()) + ROWS)
    with_rows = summarise(run)
    assert plain.pop("paper_compat") == []
    assert len(with_rows.pop("paper_compat")) == 18 + 6 + 4
    assert {**with_rows, "run": ""} == {**plain, "run": ""}
    known = read_canaries(_plan())
    assert collect(table(ROWS), known, 0.75) == {}


def test_the_page_has_a_table_only_where_it_was_asked_for(tmp_path: Path) -> None:
    run = write_run(tmp_path / "compat")
    said = "As the paper's code counts".replace("'", "&#39;")
    assert said not in write_report([run], tmp_path / "a.html").read_text(encoding="utf-8")
    write_scores(run, scores(Truth()) + ROWS)
    page = write_report([run], tmp_path / "b.html").read_text(encoding="utf-8")
    assert said in page and "BLEU of characters" in page
