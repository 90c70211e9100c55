"""Attacks on models that are trained already: a run's rows come out again; files stay unwritten."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from tiny import config, overfit, save_base

from fedmem.attacks.printed import lines
from fedmem.attacks.standalone import Attacked, attack
from fedmem.config.model import Model
from fedmem.data.encoding import Coder
from fedmem.data.records import Note
from fedmem.data.synthetic import notes
from fedmem.data.windows import window
from fedmem.errors import ConfigError, DataError
from fedmem.model.base import load
from fedmem.progress import Event
from fedmem.simulation import run

LIKE_TINY = ["attack.prefix_lengths=[5,10]", "attack.continuation=8", "training.max_length=160"]


def row_of(note: Note, **more: Any) -> dict[str, Any]:
    tags = [
        {"start": s.start, "end": s.end, "category": s.category, "type": s.type} for s in note.phi
    ]
    return {"id": note.id, "patient": note.patient, "text": note.text, "phi": tags, **more}


def write(file: Path, rows: Iterable[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def scores(path: Path) -> list[dict[str, Any]]:
    table = pq.read_table(path / "scores.parquet")
    return list(table.filter(pc.equal(table["knowledge"], "true_prefix")).to_pylist())


@pytest.fixture(scope="module")
def done(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(config(base_folder, output=str(tmp_path_factory.mktemp("runs")))).path


@pytest.fixture(scope="module")
def own_notes(done: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's canaries and twins as a file of notes."""
    plan = {row["canary"]: row for row in pq.read_table(done / "canaries.parquet").to_pylist()}
    drawn = [note for note in notes.generate(12, 0) if note.id in plan]
    assert len(drawn) == 7
    rows = [row_of(note, copies=plan[note.id]["copies"]) for note in drawn]
    return write(tmp_path_factory.mktemp("notes") / "notes.jsonl", rows)


@pytest.mark.parametrize(
    ("topology", "method", "rule"),
    [
        ("federated", "lora", "product"),
        ("federated", "lora", "freeze_a"),
        ("local", "full", "fedavg"),
        ("centralized", "full", "fedavg"),
    ],
)
def test_a_runs_own_rows_come_out_again(
    base_folder: Path, tmp_path: Path, topology: str, method: str, rule: str
) -> None:
    sections = {"rounds": {"topology": topology, "count": 2}, "aggregation": {"rule": rule}}
    made = run(config(base_folder, output=str(tmp_path), model={"method": method}, **sections))
    again = attack(str(made.path), out=tmp_path / "again")
    assert scores(again.path) == scores(made.path)
    held, new = (pq.read_table(p / "canaries.parquet") for p in (made.path, again.path))
    assert held.equals(new)
    summary = json.loads((made.path / "summary.json").read_text())
    bound = [row for row in summary["leakage"] if row["knowledge"] == "true_prefix"]
    assert again.summary["leakage"] == bound
    assert again.summary["levels"] == summary["levels"]


def test_one_round_and_another_continuation(done: Path, tmp_path: Path) -> None:
    told: list[Event] = []
    changes = ["attack.continuation=12", "attack.prefix_lengths=[7]"]
    again = attack(
        str(done), out=tmp_path / "again", round_=1, changes=changes, progress=told.append
    )
    found = scores(again.path)
    assert {row["round"] for row in found} == {0, 1}
    extraction = [row for row in found if row["attack"] == "extraction"]
    assert {(row["target"], row["tokens"]) for row in extraction} == {(7, 12)}
    assert any("attacking" in event.stage for event in told)


def test_an_adapters_rows_are_those_of_its_run(done: Path, own_notes: Path, tmp_path: Path) -> None:
    folder = done / "adapters" / "round_002"
    again = attack(str(folder), own_notes, tmp_path / "again", changes=LIKE_TINY)
    assert again.summary["kind"] == "adapter"
    wanted = {
        (min(row["round"], 1), row["canary"], row["attack"], row["target"]): row
        for row in scores(done)
        if row["round"] != 1
    }
    found = scores(again.path)
    assert len(found) == len(wanted)
    for row in found:
        other = wanted[row["round"], row["canary"], row["attack"], row["target"]]
        assert (row["matched"], row["hit"]) == (other["matched"], other["hit"])
        assert row["logprob"] == pytest.approx(other["logprob"], abs=1e-4)


def test_nothing_of_a_note_from_a_file_is_written(
    done: Path, own_notes: Path, tmp_path: Path
) -> None:
    given = [json.loads(line) for line in own_notes.read_text().splitlines()]
    for number, note in enumerate(given):
        note |= {"id": f"n{number}", "patient": f"record-{number}"}
    own_notes = write(tmp_path / "given.jsonl", given)
    values = [note["text"][tag["start"] : tag["end"]] for note in given for tag in note["phi"]]
    secrets = {value for value in values if len(value) > 4} | {note["patient"] for note in given}
    again = attack(str(done), own_notes, tmp_path / "again")
    files = sorted(again.path.iterdir())
    assert [file.name for file in files] == [
        *("canaries.parquet", "scores.parquet", "summary.json", "tokens.parquet")
    ]
    written = "".join(
        str(pq.read_table(file).to_pydict()) if file.suffix == ".parquet" else file.read_text()
        for file in files
    )
    assert given[0]["id"] in written
    # digits within a longer number, as logarithms have them, are no value
    alone = (rf"(?<![\d.]){re.escape(secret)}(?!\d)" for secret in sorted(secrets))
    assert not [pattern for pattern in alone if re.search(pattern, written)]
    assert again.summary["redacted"]
    # a run has never seen a file's notes unless the file says so
    assert {level["copies"] for level in again.summary["levels"]} == {0, 1, 4}
    plain = [{"id": note["id"], "text": note["text"]} for note in given]
    twins = attack(str(done), write(tmp_path / "p.jsonl", plain), tmp_path / "twins")
    assert [level["copies"] for level in twins.summary["levels"]] == [0]
    assert not any(row["clear"] for row in twins.summary["leakage"])
    assert not any("clear of the twins" in line for line in lines(twins.summary))


def test_each_model_of_a_local_run_is_attacked_with_a_file(
    base_folder: Path, own_notes: Path, tmp_path: Path
) -> None:
    made = run(config(base_folder, output=str(tmp_path), rounds={"topology": "local", "count": 1}))
    again = attack(str(made.path), own_notes, tmp_path / "again")
    models = {(row["round"], row["model"]) for row in scores(again.path)}
    assert models == {(0, "a"), (0, "b"), (1, "a"), (1, "b")}
    tried = {row["n"] for row in again.summary["leakage"] if row["copies"] == 4}
    assert tried == {2}  # a note is one note, however many models are asked


@pytest.fixture(scope="module")
def leaky(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Note]]:
    """A whole checkpoint that knows the first four of twelve notes by heart."""
    model, tokenizer = load(Model(base=str(base_folder), method="full"), 0)
    drawn = notes.generate(12, 0)
    found = [window(Coder(tokenizer), note, 64, "window") for note in drawn[:4]]
    overfit(model, base_folder, [one.ids for one in found if one], 200)
    folder = tmp_path_factory.mktemp("leaky")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, drawn


SHORT = ["attack.prefix_lengths=[5,10]", "attack.continuation=8", "training.max_length=64"]


def test_a_checkpoint_that_leaks_is_told_apart_from_its_twins(
    leaky: tuple[Path, list[Note]], tmp_path: Path
) -> None:
    folder, drawn = leaky
    rows = [row_of(note, copies=10 * (index < 4)) for index, note in enumerate(drawn)]
    out = attack(str(folder), write(tmp_path / "n.jsonl", rows), tmp_path / "out", changes=SHORT)
    assert out.summary["kind"] == "model"
    assert {row["round"] for row in out.summary["leakage"]} == {1}
    phi = [row for row in out.summary["leakage"] if row["copies"] == 10 if row["attack"] == "phi"]
    assert [(row["k"], row["n"], row["clear"]) for row in phi] == [(4, 4, True)]
    assert phi[0]["twins"]["k"] == 0
    printed = list(lines(out.summary))
    assert any("clear of the twins" in line for line in printed)
    assert not any("untouched base" in line for line in printed)


def test_without_twins_rates_are_shown_and_nothing_is_claimed(
    leaky: tuple[Path, list[Note]], tmp_path: Path
) -> None:
    folder, drawn = leaky
    file = write(tmp_path / "n.jsonl", [row_of(note) for note in drawn[:4]])
    out = attack(str(folder), file, tmp_path / "out", changes=SHORT)
    assert [level["copies"] for level in out.summary["levels"]] == [1]  # trained on once, if unsaid
    assert {row["clear"] for row in out.summary["leakage"]} == {None}
    printed = "\n".join(lines(out.summary))
    assert "4 of 4 (100 %" in printed
    assert "clear of the twins" not in printed
    assert "no claim" in printed


def test_notes_that_cannot_count_are_counted(base_folder: Path, tmp_path: Path) -> None:
    a, b, c, d = notes.generate(4, 0)
    named = next(span for span in a.phi if span.type == "PATIENT")
    rows = [
        row_of(a, copies=2),
        {**row_of(b, copies=1), "patient": a.patient},
        {"id": "named", "text": f"Seen: {a.value(named)} today.", "copies": 1}
        | {"phi": [{"start": 6, "end": 6 + len(a.value(named)), "category": "NAME"}]},
        {"id": "same", "text": c.text, "copies": 0},
        row_of(c, copies=3),
        {"id": "short", "text": "No fever.", "copies": 1},
        row_of(d, copies=0),
    ]
    rows[2]["phi"][0]["type"] = "PATIENT"
    changes = [*LIKE_TINY, "attack.prefix_lengths=[40]"]
    file = write(tmp_path / "n.jsonl", rows)
    out = attack(str(base_folder), file, tmp_path / "out", changes=changes)
    assert out.summary["notes"] == {
        "used": 4,
        "same_patient": 1,
        "shared_value": 1,
        "near_duplicate": 1,
        "bad_rows": 0,
        "duplicate_ids": 0,
        "cut_to_a_window": 3,
        "without_phi": 1,
        "too_short_for_extraction": 1,
    }
    # the twin gave way to the note that was trained on, though it stands before it
    held = pq.read_table(out.path / "canaries.parquet").column("canary").to_pylist()
    assert c.id in held
    assert "same" not in held
    assert "1 left out: another note of the same patient" in "\n".join(lines(out.summary))


def test_a_csv_file_with_copies(base_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "n.csv"
    file.write_text('id,text,copies\n1,"Seen today, no fever at all, sent home again.",3\n')
    out = attack(str(base_folder), file, tmp_path / "out", changes=LIKE_TINY)
    assert [level["copies"] for level in out.summary["levels"]] == [3]


# --- what is refused -----------------------------------------------------------------------


def one_note(folder: Path, **more: Any) -> Path:
    return write(folder / "one.jsonl", [row_of(notes.generate(1, 0)[0], **more)])


def no_file(tmp: Path, base: Path, done: Path) -> Attacked:
    return attack(str(base), tmp / "none.jsonl", tmp / "out")


def other_suffix(tmp: Path, base: Path, done: Path) -> Attacked:
    return attack(str(base), (tmp / "a.txt").rename(tmp / "b.txt"), tmp / "out")


def bad_copies(tmp: Path, base: Path, done: Path) -> Attacked:
    return attack(str(base), one_note(tmp, copies=-1), tmp / "out")


def no_text(tmp: Path, base: Path, done: Path) -> Attacked:
    return attack(str(base), write(tmp / "n.jsonl", [{"id": "1"}]), tmp / "out")


def nothing(tmp: Path, base: Path, done: Path) -> Attacked:
    return attack(str(base), write(tmp / "n.jsonl", []), tmp / "out")


def no_canaries(tmp: Path, base: Path, done: Path) -> Attacked:
    return attack(str(base), None, tmp / "out")


def there(tmp: Path, base: Path, done: Path) -> Attacked:
    return attack(str(base), one_note(tmp), tmp)


def wrong_round(tmp: Path, base: Path, done: Path) -> Attacked:
    return attack(str(done), out=tmp / "out", round_=7)


def round_of_a_model(tmp: Path, base: Path, done: Path) -> Attacked:
    return attack(str(base), one_note(tmp), tmp / "out", round_=1)


def other_key(tmp: Path, base: Path, done: Path) -> Attacked:
    return attack(str(done), out=tmp / "out", changes=["training.lr=1"])


def wrong_value(tmp: Path, base: Path, done: Path) -> Attacked:
    return attack(str(done), out=tmp / "out", changes=["attack.continuation=0"])


def misspelt(tmp: Path, base: Path, done: Path) -> Attacked:
    return attack(str(done), out=tmp / "out", changes=["attack.continuatio=5"])


def no_model(tmp: Path, base: Path, done: Path) -> Attacked:
    return attack(str(tmp / "nowhere"), one_note(tmp), tmp / "out")


def unfinished(tmp: Path, base: Path, done: Path) -> Attacked:
    shutil.copytree(done, tmp / "run")
    manifest = json.loads((tmp / "run/manifest.json").read_text())
    (tmp / "run/manifest.json").write_text(json.dumps({**manifest, "status": "running"}))
    return attack(str(tmp / "run"), out=tmp / "out")


def other_base(tmp: Path, base: Path, done: Path) -> Attacked:
    torch.manual_seed(0)
    narrow = save_base(tmp / "narrow")
    weights = load(Model(base=str(narrow)), 0)[0].get_base_model()
    weights.config.intermediate_size = 48
    type(weights)(weights.config).save_pretrained(narrow)
    folder = str(done / "adapters" / "round_001")
    changes = [f"model.base={narrow}", *LIKE_TINY]
    return attack(folder, one_note(tmp), tmp / "out", changes=changes)


def pickled(tmp: Path, base: Path, done: Path) -> Attacked:
    shutil.copytree(done / "adapters" / "round_001", tmp / "adapter")
    (tmp / "adapter/adapter_model.safetensors").rename(tmp / "adapter/adapter_model.bin")
    return attack(str(tmp / "adapter"), one_note(tmp), tmp / "out", changes=LIKE_TINY)


def torn(tmp: Path, base: Path, done: Path) -> Attacked:
    shutil.copytree(done, tmp / "run")
    (tmp / "run/adapters/round_002/adapter_model.safetensors").write_bytes(b"no weights")
    return attack(str(tmp / "run"), out=tmp / "out")


def other_windows(tmp: Path, base: Path, done: Path) -> Attacked:
    plan = done / "canaries.parquet"
    shutil.copytree(done, tmp / "run")
    pq.write_table(pq.read_table(plan).slice(1), tmp / "run/canaries.parquet")
    return attack(str(tmp / "run"), out=tmp / "out")


def other_tokenizer(tmp: Path, base: Path, done: Path) -> Attacked:
    shutil.copytree(base, tmp / "bytes")
    file = tmp / "bytes" / "tokenizer.json"
    tree = json.loads(file.read_text())
    tree["model"]["merges"] = tree["model"]["merges"][:20]  # ids as before, notes cut finer
    file.write_text(json.dumps(tree))
    return attack(str(done), out=tmp / "out", changes=[f"model.base={tmp / 'bytes'}"])


@pytest.mark.parametrize(
    ("refused", "kind", "told"),
    [
        (no_file, DataError, "none.jsonl: no such file"),
        (other_suffix, DataError, "must end in .jsonl, .csv, .parquet"),
        (bad_copies, DataError, "one.jsonl:1: 'copies' must be a whole number"),
        (no_text, DataError, "n.jsonl:1: the column 'text' is missing"),
        (nothing, DataError, "holds no rows"),
        (no_canaries, ConfigError, "give notes by --canaries"),
        (there, DataError, "is already there"),
        (wrong_round, ConfigError, "--round 7: .* has the rounds 1 to 2"),
        (round_of_a_model, ConfigError, "--round 1: .* has no rounds"),
        (other_key, ConfigError, "training.lr=1: `training.lr` cannot be changed here"),
        (wrong_value, ConfigError, "attack.continuation: must be greater than or equal to 1"),
        (misspelt, ConfigError, "did you mean `continuation`"),
        (no_model, DataError, "nowhere: no such folder, and no name on the hub"),
        (unfinished, DataError, "still going or was killed"),
        (other_base, DataError, "is of another base: .* has the shape"),
        (pickled, DataError, "pickled weights only, which can run code: refused"),
        (torn, DataError, "round_002.*does not load"),
        (other_windows, DataError, "its canaries come out otherwise now"),
        (other_tokenizer, DataError, "by another training.max_length, tokenizer or version"),
    ],
)
def test_what_cannot_be_attacked_is_one_line_and_leaves_nothing(
    refused: Callable[[Path, Path, Path], Attacked],
    kind: type[Exception],
    told: str,
    tmp_path: Path,
    base_folder: Path,
    done: Path,
) -> None:
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(kind, match=told) as caught:
        refused(tmp_path, base_folder, done)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_run_whose_file_changed_is_refused(base_folder: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "notes.jsonl", [row_of(note) for note in notes.generate(12, 0)])
    source = {"kind": "jsonl", "adapter": "notes", "path": file.name}
    tree = config(base_folder).model_dump(mode="json")["data"]
    tree["canaries"]["source"], tree["root"] = source, str(tmp_path)
    made = run(config(base_folder, output=str(tmp_path / "runs"), data=tree, rounds={"count": 1}))
    assert attack(str(made.path), out=tmp_path / "same").summary["redacted"]

    moved = tmp_path / "elsewhere"
    moved.mkdir()
    file.rename(moved / file.name)
    with pytest.raises(DataError, match=r"notes\.jsonl.*no such file"):
        attack(str(made.path), out=tmp_path / "gone")
    attack(str(made.path), out=tmp_path / "found", changes=[f"data.root={moved}"])
    with (moved / file.name).open("a") as opened:
        opened.write("\n")
    with pytest.raises(DataError, match=r"notes\.jsonl: is not the file .*SHA-256 differs"):
        attack(str(made.path), out=tmp_path / "changed", changes=[f"data.root={moved}"])
