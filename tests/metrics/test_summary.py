"""summary.json from the files of a run, and the sentence at its top."""

import json

import pytest
from fakerun import Truth, canaries, metrics, scores, write_run, write_scores

from fedmem.errors import DataError
from fedmem.metrics.headline import percent, signed
from fedmem.metrics.summary import summarise


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "demo", Truth(own=(0, 0, 0, 0, 0, 3)))


def test_headline(run):
    assert summarise(run)["sentences"] == [
        "Granted the true text before a value (an auditor's bound that no client holds), the shared"
        " model after round 5 gave back PHI from 7 of 16 notes written 10 times (44 %, 95 %"
        " interval 23–67 %), against 1 of 32 twin notes never injected (3 %, 1–16 %).",
        "That is clear of the twins' level (difference +41 points, 95 % interval +16 to +64).",
        "With only the beginnings of its own notes, the most successful client (north) found PHI"
        " from 2 of 10 others' notes written 10 times (20 %, 95 % interval 6–51 %) after round 5,"
        " against 0 of 21 twin notes never injected (0 %, 0–15 %).",
        "That is not clear of the twins' level (difference +20 points, 95 % interval −1 to +51):"
        " this measure shows no leak.",
    ]


def test_figures(run):
    found = summarise(run)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["last_round"], found["rounds"]) == (5, [0, 1, 2, 3, 4, 5])
    assert (found["primary"]["k"], found["primary"]["copies"]) == (7, 10)
    assert [(lv["copies"], lv["notes"], lv["patients"]) for lv in found["levels"]] == [
        (0, 32, 32),
        (1, 12, 12),
        (10, 16, 16),
    ]
    assert sum(row["notes"] for row in found["owners"]) == 28
    assert found["time"]["total"]["seconds"] == 55.0
    assert found["time"]["attack_share"] == pytest.approx(1.5 / 11)
    assert {row["queries"] for row in found["queries"]} == {16}
    assert len(found["utility"]) == 12 and found["ties"] == 1 and not found["redacted"]
    assert "metformin" not in json.dumps(found)  # no text of a note, redacted or not


def test_no_twins_no_claim(tmp_path):
    said = summarise(write_run(tmp_path / "run", Truth(twins=0)))["headline"]
    assert "7 of 16" in said and "against" not in said
    assert "chance is unknown: a rate, and no claim of a leak." in said


def test_not_clear_is_said(tmp_path):
    few = Truth(phi=(0, 0, 0, 0, 1, 2))
    said = summarise(write_run(tmp_path / "run", few))["headline"]
    assert "not clear of the twins' level (difference +9 points" in said
    assert "this measure shows no leak." in said
    assert "no client found PHI after round 5: south got 0 of 11 others' notes" in said


def test_without_phi_the_long_run_speaks(tmp_path):
    run = write_run(tmp_path / "run")
    write_scores(run, [row for row in scores(Truth()) if row["attack"] != "phi"])
    said = summarise(run)["headline"]
    assert said.startswith("Granted the true text before each token")
    assert "gave back 50 or more tokens in a row from 5 of 16 notes" in said


def test_before_any_round(tmp_path):
    run = write_run(tmp_path / "run")
    write_scores(run, [row for row in scores(Truth()) if row["round"] == 0])
    assert summarise(run)["headline"].startswith("No attack was run on a trained model")


def test_topologies(tmp_path):
    for topology, said in (("centralized", "records in one place"), ("local", "never shared")):
        run = write_run(tmp_path / topology, rounds={"count": 5, "topology": topology})
        rows = [row for row in scores(Truth()) if row["attacker"] == "*"]
        write_scores(run, rows)
        found = summarise(run)
        assert said in found["headline"]
    assert found["matrix"]
    central = summarise(tmp_path / "centralized")
    assert central["matrix"] == []


def test_sampled_clients(tmp_path):
    run = write_run(tmp_path / "run")
    lines = "".join(json.dumps(row) + "\n" for row in metrics(absent={5: "west"}))
    (run / "metrics.jsonl").write_text(lines)
    last = [row for row in summarise(run)["matrix"] if row["round"] == 5]
    assert {row["attacker"] for row in last} == {"north", "south"}


def test_redacted(tmp_path):
    assert summarise(write_run(tmp_path / "run", redacted=True))["redacted"]


def test_manifest_may_come_later(tmp_path):
    run = write_run(tmp_path / "run")
    before = summarise(run)
    (run / "manifest.json").unlink()
    assert summarise(run) == before and "manifest" not in before


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("config.yaml", None, "no run directory"),
        ("config.yaml", "seed: [", "config.yaml cannot be read"),
        ("config.yaml", "sead: 1", "config.yaml cannot be read"),
        ("scores.parquet", None, "has no scores.parquet"),
        ("scores.parquet", "no table", "scores.parquet cannot be read"),
        ("metrics.jsonl", "{}\n", "metrics.jsonl:1 cannot be read"),
        ("utility.json", "{", "utility.json cannot be read"),
        ("utility.json", "{}", "must hold a list"),
        ("utility.json", "[{}]", "row 0 lacks round"),
    ],
)
def test_broken_files_are_named(tmp_path, name, text, said):
    run = write_run(tmp_path / "run")
    (run / name).unlink() if text is None else (run / name).write_text(text)
    with pytest.raises(DataError, match=said):
        summarise(run)


def test_scores_of_other_canaries(tmp_path):
    run = write_run(tmp_path / "run")
    write_scores(run, [scores(Truth())[0] | {"canary": "stranger"}])
    with pytest.raises(DataError, match=r"run: scores: canary 'stranger'"):
        summarise(run)


def test_how_numbers_are_written():
    assert [percent(x) for x in (0, 0.004, 0.0553, 0.125, 0.998, 1)] == [
        *("0", "0.4", "6", "13"),
        *("99.8", "100"),
    ]
    assert [signed(x) for x in (31.2, -2.4, 0.2)] == ["+31", "−2", "0"]


def test_the_fake_run_covers_every_column():
    assert len(canaries(Truth())) == 60
