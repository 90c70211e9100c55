import json
import pickle
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict

from fedmem.config.sources import DiskSource
from fedmem.data import sources
from fedmem.data.adapters import read_records
from fedmem.errors import DataError

ROWS = [{"prompt": f"q{n}", "completion": "a"} for n in range(600)]


def read(path: Path, **more: Any) -> list[str]:
    source = DiskSource(kind="disk", path=path, adapter="generic", **more)
    return [r.prompt for r in read_records(source, None, "error", Counter())]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "saved"
    Dataset.from_list(ROWS).save_to_disk(path)
    return path


@pytest.fixture
def splits(tmp_path: Path) -> Path:
    path = tmp_path / "splits"
    parts = {"train": Dataset.from_list(ROWS[:3]), "test": Dataset.from_list(ROWS[3:5])}
    DatasetDict(parts).save_to_disk(path)
    return path


def test_a_saved_set_is_read_over_batches_in_order(saved, capfd):
    assert read(saved) == [row["prompt"] for row in ROWS]
    assert capfd.readouterr() == ("", "")


def test_a_split_is_named_where_there_are_several(splits):
    assert read(splits, split="test") == ["q3", "q4"]
    for named in ({}, {"split": "dev"}):
        with pytest.raises(DataError, match=r"splits: holds the splits train, test; name one"):
            read(splits, **named)
    source = DiskSource(kind="disk", path=splits, adapter="generic", split="test")
    assert sources.name(source) == f"{splits.as_posix()}/test"


def test_a_set_without_splits_has_none_to_name(saved):
    with pytest.raises(DataError, match=r"saved: holds no split 'test' but one set"):
        read(saved, split="test")


def test_an_order_that_was_saved_along_is_kept(tmp_path):
    Dataset.from_list(ROWS[:9]).select([4, 2, 7]).save_to_disk(tmp_path / "chosen")
    assert read(tmp_path / "chosen") == ["q4", "q2", "q7"]


def test_a_bad_row_is_named_by_its_number(tmp_path):
    Dataset.from_list([ROWS[0], {"prompt": "q", "completion": None}]).save_to_disk(tmp_path / "s")
    with pytest.raises(DataError, match=r"s row 2: 'completion' must be str, not null"):
        read(tmp_path / "s")


class Trap:
    def __reduce__(self):
        return (Path("unpickled").touch, ())


def _pickled(folder: Path) -> None:
    for file in folder.iterdir():
        file.write_bytes(pickle.dumps(Trap()))


def _torn(folder: Path) -> None:
    file = next(folder.glob("*.arrow"))
    file.write_bytes(file.read_bytes()[:-2000])


def _emptied(folder: Path) -> None:
    next(folder.glob("*.arrow")).write_bytes(b"")


def _gone(folder: Path) -> None:
    next(folder.glob("*.arrow")).unlink()


def _no_state(folder: Path) -> None:
    (folder / "state.json").unlink()


def _other_json(folder: Path) -> None:
    (folder / "state.json").write_text("[1, 2]")


@pytest.mark.parametrize("harm", [_pickled, _torn, _emptied, _gone, _no_state, _other_json])
def test_a_damaged_folder_is_refused(saved, harm, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    harm(saved)
    with pytest.raises(DataError, match=r"saved.*(is missing or damaged|files are damaged)"):
        read(saved)
    assert not Path("unpickled").exists()


def test_offsets_that_point_outside_the_file_are_no_crash(saved):
    file = next(saved.glob("*.arrow"))
    data = bytearray(file.read_bytes())
    at = data.find((2).to_bytes(4, "little") + (4).to_bytes(4, "little"))  # where q1, q2 end
    assert at > 0
    data[at : at + 4] = (2**30).to_bytes(4, "little")
    file.write_bytes(data)
    with pytest.raises(DataError, match=r"from here on the files are damaged"):
        read(saved)


def test_no_folder_and_a_file(tmp_path):
    with pytest.raises(DataError, match=r"none: no such folder; check `path`"):
        read(tmp_path / "none")
    (tmp_path / "a.jsonl").write_text("{}")
    with pytest.raises(DataError, match=r"a.jsonl: is a file; `path` must name the folder"):
        read(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match=r"is no folder written by save_to_disk"):
        read(tmp_path)


def test_the_fingerprint_is_of_names_and_bytes(saved, tmp_path):
    def digest(path: Path) -> str:
        source = DiskSource(kind="disk", path=path.name, adapter="generic")
        return sources.fingerprint(source, tmp_path)[path.name]

    first = digest(saved)
    copy = Path(shutil.copytree(saved, tmp_path / "copy"))
    assert digest(copy) == first
    (copy / "cache-123.arrow").write_bytes(b"what `datasets` adds by itself")
    assert digest(copy) == first
    state = json.loads((copy / "state.json").read_text())
    (copy / "state.json").write_text(json.dumps(state | {"_split": "x"}))
    assert digest(copy) != first
