from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from fedmem.cli import app
from fedmem.data import i2b2
from fedmem.data.records import Note

GOOD = {"prompt": "q", "completion": "a", "ward": "w"}


def check(
    tmp_path: Path, *sources: dict, notes: dict | None = None, **more
) -> tuple[int, list[str]]:
    """(exit code, lines on both streams)"""
    clients = [
        {"name": f"c{n}", "source": {"kind": "jsonl", "adapter": "generic"} | source}
        for n, source in enumerate(sources)
    ]
    tree = {"data": {"root": str(tmp_path), "clients": clients}} | more
    if notes:
        tree["data"]["canaries"] = {"source": notes}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(tree))
    done = CliRunner().invoke(app, ["data", "check", str(tmp_path / "c.yaml")])
    return done.exit_code, done.output.splitlines()


def test_good_sources_are_counted_and_synthetic_ones_passed_over(tmp_path, write_jsonl):
    write_jsonl("a.jsonl", [GOOD] * 1200)
    i2b2.write([Note("n", "p", "x")], tmp_path / "notes")
    synthetic = {"kind": "synthetic", "adapter": "mcq"}
    code, lines = check(
        tmp_path,
        {"path": "a.jsonl"},
        {"path": "a.jsonl"},
        synthetic,
        notes={"kind": "i2b2_xml", "path": "notes"},
    )
    assert (code, lines) == (
        0,
        [
            "a.jsonl: 1,200 rows, 0 bad, 0 with an id seen before",
            "notes: 1 rows, 0 bad, 0 with an id seen before",
        ],
    )


def test_each_fault_is_named_with_its_first_place_up_to_twenty_of_a_source(tmp_path, write_jsonl):
    options = {f"op{letter}": letter for letter in "abcd"}
    many = [options | {"question": "q", "cop": n} for n in range(4, 29)]  # each its own fault
    write_jsonl("a.jsonl", [GOOD, *["broken"] * 25, GOOD | {"id": "x"}, GOOD | {"id": "x"}])
    write_jsonl("b.jsonl", [GOOD | {"completion": 3}])
    write_jsonl("c.jsonl", many)
    code, lines = check(tmp_path, {"path": "a.jsonl"}, {"path": "b.jsonl"})
    assert code == 2
    told = "not JSON: Expecting value at column 1 (and 24 rows more)"
    assert lines[0] == f"  {tmp_path}/a.jsonl:2: {told}"
    assert lines[2:4] == [
        "a.jsonl: 28 rows, 25 bad, 1 with an id seen before",
        f"  {tmp_path}/b.jsonl:1: 'completion' must be str, not int",
    ]
    assert lines[-1].startswith("fedmem: error: bad rows: 27; mend them, check the source's")
    _, lines = check(tmp_path, {"path": "c.jsonl", "adapter": "medmcqa"})
    assert len([line for line in lines if line.startswith(f"  {tmp_path}/c.jsonl:")]) == 20
    assert "  and 5 other bad rows" in lines


def test_sources_that_cannot_be_read_do_not_hide_the_others(tmp_path, write_jsonl):
    write_jsonl("a.jsonl", [GOOD])
    write_jsonl("empty.jsonl", [])
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    code, lines = check(
        tmp_path,
        {"path": "none.jsonl"},
        {"path": "empty.jsonl"},
        {"kind": "parquet", "path": "t.parquet"},
        {"path": "a.jsonl"},
    )
    assert code == 2
    assert "none.jsonl: no such file" in lines[0]
    assert "empty.jsonl: holds no rows" in lines[2]
    assert "t.parquet: is no Parquet file" in lines[4]
    assert "a.jsonl: 1 rows, 0 bad" in lines[6]
    assert "sources that cannot be read: 3; mend them, or the config" in lines[7]
    assert "skip" not in lines[7]


def test_the_column_of_a_split_and_the_sources_of_arms_are_looked_at(tmp_path, write_jsonl):
    write_jsonl("a.jsonl", [GOOD, GOOD | {"ward": " "}])
    write_jsonl("b.jsonl", [GOOD, "broken"])
    assert check(tmp_path, {"path": "a.jsonl"})[0] == 0
    arms = {"x": {"data.clients.0.source.path": "b.jsonl"}}
    code, lines = check(tmp_path, {"path": "a.jsonl"}, arms=arms)
    assert code == 2
    assert "b.jsonl:2: not JSON" in lines[0]
    tree = yaml.safe_load((tmp_path / "c.yaml").read_text())
    tree["data"]["clients"][0]["split"] = {"kind": "natural", "clients": 1, "column": "ward"}
    tree["arms"] = {}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(tree))
    done = CliRunner().invoke(app, ["data", "check", str(tmp_path / "c.yaml")])
    assert done.exit_code == 2
    assert "a.jsonl:2: 'ward' is empty" in done.output


@pytest.mark.parametrize("adapter", ["medqa", "mmlu"])
def test_real_files_hold_no_bad_row(real_data, tmp_path, adapter):
    name = {"medqa": "medqa_4options.jsonl", "mmlu": "mmlu_medical.jsonl"}[adapter]
    code, lines = check(tmp_path, {"path": str(real_data / name), "adapter": adapter})
    assert code == 0, lines
