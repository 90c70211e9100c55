"""What `fedmem data preview` and `fedmem data build` print."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tiny import config

from fedmem.preview import build_lines, preview_lines

SPLIT = {"kind": "iid", "clients": 25}


def files(folder: Path) -> list[dict[str, Any]]:
    rows = [f'{{"input": "What is {i}?", "output": "It is {i}."}}\n' for i in range(90)]
    (folder / "cards.jsonl").write_text("".join(rows), encoding="utf-8")
    path = str(folder / "cards.jsonl")
    source = {"kind": "jsonl", "path": path, "adapter": "medical_meadow"}
    return [{"name": "site", "source": source, "split": SPLIT}]


def test_many_clients_are_shown_in_few_lines(base_folder: Path, tmp_path: Path) -> None:
    made = config(base_folder, data={"clients": files(tmp_path)})
    lines = list(preview_lines(made))
    assert lines[0].split()[:2] == ["client", "examples"]
    assert [line.split()[0] for line in lines[1:11]] == [f"site-{i}" for i in range(1, 11)]
    assert lines[11].split() == ["(15", "more)"]
    heads = lines[0].replace("canary copies", "canary_copies").split()
    at = heads.index("records")
    least, median, most = (line.split() for line in lines[12:15])
    assert [row[0] for row in (least, median, most)] == ["least", "median", "most"]
    assert [row[at] for row in (least, median, most)] == ["3", "3", "4"]
    assert len(lines) < 25


def test_build_says_what_was_encoded_for_each_arm(base_folder: Path, tmp_path: Path) -> None:
    synthetic = {"kind": "synthetic", "adapter": "mcq", "records": 5}
    clients = [*files(tmp_path), {"name": "made", "source": synthetic}]
    made = config(
        base_folder,
        data={"clients": clients, "cache": str(tmp_path / "cache")},
        arms={"long": {}, "short": {"training.max_length": 120}},
    )
    lines = list(build_lines(made))
    assert len(lines) == 2 * 26 + 1
    assert lines[0].startswith("long: site-1: 4 records, ")
    assert lines[0].endswith(" bytes of text, encoded now")
    assert lines[25].startswith("long: made: 5 records, ")
    assert lines[25].endswith("generated, not cached")
    assert lines[26].startswith("short: site-1: 4 records, ")
    assert lines[26].endswith("found in the cache")
    assert lines[-1] == f"cache: {tmp_path / 'cache'}"
