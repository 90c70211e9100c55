"""`fedmem attack` and `fedmem evaluate` on the command line: what is printed, and exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import Result
from tiny import config
from typer.testing import CliRunner

from fedmem.cli import app
from fedmem.data.synthetic import notes
from fedmem.simulation import run


@pytest.fixture(scope="module")
def done(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = str(tmp_path_factory.mktemp("runs"))
    return run(config(base_folder, output=output, rounds={"count": 2})).path


def command(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


def refused(result: Result, code: int = 2) -> str:
    assert result.exit_code == code, result.output
    (line,) = [one for one in result.stderr.splitlines() if one.startswith("fedmem: error: ")]
    assert result.stderr.splitlines()[-1] == line
    return line


@pytest.mark.parametrize("name", ["attack", "evaluate"])
def test_help_has_an_example(name: str) -> None:
    result = command(name, "--help")
    assert result.exit_code == 0
    assert f"Example:  fedmem {name} " in result.output


def test_a_run_is_attacked_again(done: Path, tmp_path: Path) -> None:
    result = command("attack", done, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    assert "round 2: notes written 4 times" in result.stdout
    assert "0 of 3 (0 %, 0–56 %)" in result.stdout  # the twins
    assert result.stdout.splitlines()[-1] == f"attack: {tmp_path / 'out'}"
    assert "attacking global, round 2: 7 notes" in result.stderr
    table = pq.read_table(tmp_path / "out" / "scores.parquet")
    assert table.num_rows > 100


def test_a_base_is_attacked_with_a_file(
    base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    drawn = notes.generate(3, 0)
    rows = [{"id": f"n{i}", "text": note.text} for i, note in enumerate(drawn)]
    Path("notes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = command(
        *("attack", base_folder, "--canaries", "notes.jsonl", "attack.continuation=8"),
        "attack.prefix_lengths=[5]",
    )
    assert result.exit_code == 0, result.stderr
    assert "3 used" in result.stdout
    assert "no claim of a leak" in result.stdout
    (folder,) = Path("attacks").iterdir()
    assert (folder / "summary.json").is_file()
    words = {word for note in drawn for word in note.text.split() if len(word) > 12}
    assert not [word for word in words if word in result.output]


def test_a_run_is_evaluated_again(done: Path, tmp_path: Path) -> None:
    out = tmp_path / "u.json"
    result = command("evaluate", done, "--out", out, "--round", "1")
    assert result.exit_code == 0, result.stderr
    head, *table = result.stdout.splitlines()
    assert head.split()[:4] == ["round", "model", "task", "questions"]
    rows = json.loads(out.read_text())
    assert [line.split()[0] for line in table] == [str(row["round"]) for row in rows] == ["0", "1"]


def test_errors_are_one_line(done: Path, base_folder: Path, tmp_path: Path) -> None:
    assert "--round 9" in refused(command("attack", done, "--round", "9"))
    assert "give notes by --canaries" in refused(command("attack", base_folder))
    file = tmp_path / "notes.jsonl"
    file.write_text('{"id": "1", "text": "a note", "copies": "often"}\n')
    line = refused(command("attack", base_folder, "--canaries", file))
    assert f"{file}:1: 'copies' must be a whole number" in line
    line = refused(command("evaluate", done, "--questions", file, "--adapter", "medmcq"))
    assert "did you mean `medmcqa`" in line
    asked = ("--questions", file, "--adapter", "generic")
    assert "./none: no such folder" in refused(command("evaluate", "./none", *asked))
    line = refused(command("evaluate", base_folder, *asked, "questions.prompt=id"))
    assert "the column 'completion' is missing" in line
    line = refused(command("evaluate", base_folder, *asked, "questions.completion=text"))
    assert "the column 'prompt' is missing" in line
