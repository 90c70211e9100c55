"""The page on arm against arm: what is said, drawn and tabled, from runs whose truth is known."""

from __future__ import annotations

import pytest
from fakerun import Truth, answers, write_answers, write_run

from fedmem.cli import app
from fedmem.errors import DataError
from fedmem.report import write_report
from fedmem.report.matched import differing, matched_arms

LESS = Truth(phi=(0, 0, 0, 0, 0, 1), exact=(0,) * 6)


def learned(rounds=5):
    """Answers whose NLL falls round by round."""
    rows = answers(rounds)
    for row in rows:
        row["nll"] -= 0.1 * row["round"]
    return rows


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    made = [
        write_run(root / "full", name="quick-full", model={"method": "full"}),
        write_run(root / "lora", LESS, name="quick-lora"),
    ]
    for run in made:
        write_answers(run, learned())
    return made


def test_less_leakage_at_equal_utility_is_said_with_its_interval(runs, tmp_path) -> None:
    panel = matched_arms(runs, ["full", "lora"], [])
    same, best, quoted, seeds = panel.said
    assert best.startswith("lora against full, each at its own best (all tasks): PHI from notes")
    assert (
        "full 41 (" in best
        and "lora 3 (" in best
        and best.endswith("lora leaks less, whatever their utility.")
    )
    assert "at the same utility (the smaller of both best gains, all tasks)" in same
    assert quoted.startswith("The figure to quote") and seeds.startswith("One seed an arm")
    text = write_report(runs, tmp_path / "page.html").read_text(encoding="utf-8")
    assert 'id="matched"' in text and 'class="line c0 thin"' in text
    assert text.count("own best (all tasks): PHI") == 1  # in words once, at the top


def test_tasks_can_be_chosen_and_must_be_there(runs, tmp_path) -> None:
    said = matched_arms(runs, ["full", "lora"], ["mcq"]).said
    assert "each at its own best (mcq)" in said[1]
    with pytest.raises(DataError, match="no task is called 'cards' "):
        matched_arms(runs, ["full", "lora"], ["cards"])


def test_seeds_and_rates_of_one_arm_are_nothing_to_compare(tmp_path) -> None:
    made = [
        write_run(tmp_path / f"{seed}", seed=seed, training={"lr": 1e-3 * seed}) for seed in (1, 2)
    ]
    assert matched_arms(made, ["a", "b"], []).said == []
    text = write_report(made, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "These runs are of one arm" in text


def test_arms_of_several_runs_are_named_by_what_sets_them_apart() -> None:
    trees = [{"model.method": "full", "x": "1"}, {"model.method": "lora", "x": "1"}]
    assert differing(trees[1], trees) == "method lora"


def test_the_command_names_a_task_that_is_not_there(runs, tmp_path) -> None:
    from typer.testing import CliRunner

    command = ["report", *map(str, runs), "--utility", "cards", "--out", str(tmp_path / "a.html")]
    for run in runs:
        manifest = run / "manifest.json"
        manifest.write_text('{"status": "finished", "kind": "run", "started": "", "format": 2}')
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2 and "no task is called 'cards'" in result.output


def test_many_runs_are_shown_by_arm(tmp_path) -> None:
    made = []
    for seed in range(5):
        for method, truth in (("full", Truth()), ("lora", LESS)):
            name = f"grid-{method}-seed{seed}"
            run = write_run(
                tmp_path / name, truth, name=name, seed=seed, model={"method": method, "base": "b"}
            )
            write_answers(run, learned())
            made.append(run)
    text = write_report(made, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "10 runs, 2 arms" in text
    assert "method lora against method full, at the same utility" in text
    assert "One seed an arm" not in text and text.count("grid-lora-seed") == 5
    assert "{{" not in text and "<script" not in text
