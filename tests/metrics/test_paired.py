"""Changes of utility between two runs, question by question."""

import pytest

from fedmem.metrics.utility import paired


def row(task, question, nll, right=None):
    return {"task": task, "question": question, "nll": nll, "right": right}


def test_pairs_by_task_and_question_and_leaves_the_rest():
    ours = [row("mcq", "a", 1.0, True), row("mcq", "b", 2.0, False), row("mcq", "new", 9.0, True)]
    theirs = [row("mcq", "b", 1.5, True), row("mcq", "a", 0.0, True), row("open", "a", 9.0)]
    (found,) = paired(ours, theirs)
    assert (found["task"], found["n"], found["scored"]) == ("mcq", 2, 2)
    assert (found["nll"], found["nll_was"]) == (1.5, 0.75)
    assert found["nll_change"][0] == pytest.approx(0.75)  # (1.0 + 0.5) / 2
    assert (found["accuracy"], found["accuracy_was"]) == (0.5, 1.0)
    assert found["accuracy_change"][0] == -0.5


def test_pairing_is_tighter_than_two_samples():
    base = [row("mcq", str(n), 0.1 * n) for n in range(60)]
    ours = [row("mcq", str(n), 0.1 * n + 0.2 + 0.01 * (n % 3)) for n in range(60)]
    low, high = paired(ours, base)[0]["nll_change"][1:]
    assert 0.2 < low < 0.21 < high < 0.22  # though the NLLs themselves spread from 0 to 6


def test_all_tasks_first_and_an_id_used_twice_is_paired_in_order():
    ours = [row("mcq", "a", 1.0), row("mcq", "a", 5.0), row("open", "a", 3.0)]
    theirs = [row("mcq", "a", 0.5), row("mcq", "a", 5.0), row("open", "a", 3.0)]
    found = paired(ours, theirs)
    assert [(line["task"], line["n"]) for line in found] == [("all", 3), ("mcq", 2), ("open", 1)]
    assert found[1]["nll_change"][0] == pytest.approx(0.25)
    assert found[0]["accuracy"] is None and found[0]["scored"] == 0


def test_nothing_in_common():
    assert paired([row("mcq", "a", 1.0)], [row("mcq", "b", 1.0)]) == []
