"""Trackers: figures arrive, nothing of a note does, and none of them can end a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tiny import config

from fedmem import tracking
from fedmem.config import Config
from fedmem.errors import ConfigError
from fedmem.loading import config_hash8
from fedmem.progress import Event
from fedmem.simulation import run
from fedmem.tracking import TRACKERS, Trackers, check, wanted


def plan(base: Path, output: Path, **sections: Any) -> Config:
    sections = {"rounds": {"count": 1}, **sections}
    return config(base, output=str(output), **sections)


def test_the_short_dict_holds_every_tracker_of_the_config(base_folder: Path) -> None:
    chosen = config(base_folder, tracking={"tensorboard": True, "wandb": {}})
    assert set(TRACKERS) == set(chosen.tracking.model_dump())
    assert wanted(chosen) == ["tensorboard", "wandb"]
    assert wanted(config(base_folder)) == []


def test_tracking_does_not_make_it_another_run(base_folder: Path) -> None:
    hashes = {
        config_hash8(config(base_folder, tracking={"tensorboard": on})) for on in (True, False)
    }
    assert len(hashes) == 1


def test_a_package_that_is_missing_is_said_before_anything_is_written(
    base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    chosen = plan(base_folder, tmp_path / "runs", tracking={"tensorboard": True})
    with pytest.raises(
        ConfigError, match=r"tracking\.tensorboard: .*pip install 'fedmem\[track\]'"
    ):
        run(chosen)
    assert not (tmp_path / "runs").exists()
    check(config(base_folder))  # who asks for none needs none


class Broken:
    """A tracker that breaks from round `at` on."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.told: list[int] = []

    def log(self, round_: int, figures: dict[str, float]) -> None:
        if round_ >= self.at:
            raise OSError(28, "No space left\non device")
        self.told.append(round_)

    def close(self) -> None:
        raise TimeoutError("no network")


def test_a_tracker_that_fails_is_said_once_and_the_run_ends_well(
    base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Broken(at=1)
    monkeypatch.setattr(tracking, "find_spec", lambda name: name)
    monkeypatch.setitem(TRACKERS, "tensorboard", lambda *_: broken)
    events: list[Event] = []
    chosen = plan(base_folder, tmp_path, rounds={"count": 2}, tracking={"tensorboard": True})
    done = run(chosen, events.append)
    said = [event.stage for event in events if event.lasting]
    assert said == [
        "tracking.tensorboard failed in round 1 "
        "(OSError: [Errno 28] No space left on device); the run goes on"
    ]
    assert broken.told == [0]
    manifest = json.loads((done.path / "manifest.json").read_text())
    assert manifest["status"] == "finished"
    assert manifest["tracking_failures"] == {"tensorboard": 3}  # rounds 1, 2 and the end


def test_one_that_cannot_be_opened_is_not_tried_in_every_round(
    base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def refuse(config: Config, path: Path, first: int) -> Broken:
        tried.append(first)
        raise ConnectionError("no network")

    monkeypatch.setitem(TRACKERS, "wandb", refuse)
    said: list[str] = []
    trackers = Trackers(config(base_folder, tracking={"wandb": {}}), tmp_path, said.append)
    for round_ in (0, 1, 2):
        trackers.log(round_, {"x": 1.0})
    trackers.close()
    assert tried == [0] and len(said) == 1 and trackers.failures == {"wandb": 3}


# --- the real ones ---------------------------------------------------------------------------


def secrets(run: Path) -> set[bytes]:
    """Runs of three words, PHI values and ids of a run's notes; synthetic, so it keeps them."""
    found: set[str] = set()
    for row in pq.read_table(run / "canaries.parquet").to_pylist():
        words = row["text"].split()
        found |= {" ".join(words[i : i + 3]) for i in range(len(words) - 2)}
        found |= {value for value in row["phi_values"] if len(value) > 6}
        found |= {row["canary"], row["patient"]}
    return {text.encode() for text in found if len(text) > 3}


@pytest.fixture(scope="module")
def tracked(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that told both trackers; skips where they are not installed."""
    for package in ("tensorboard", "wandb"):
        pytest.importorskip(package, reason=f"{package} is not installed: fedmem[track]")
    output = tmp_path_factory.mktemp("runs")
    return run(plan(base_folder, output, tracking={"tensorboard": True, "wandb": {}})).path


@pytest.mark.parametrize("folder", ["tensorboard", "wandb"])
def test_no_byte_of_a_note_is_sent(tracked: Path, base_folder: Path, folder: str) -> None:
    files = [file for file in (tracked / folder).rglob("*") if file.is_file()]
    assert files
    held = b"\n".join(file.read_bytes() for file in files)
    assert b"leak_true_prefix/phi/4x" in held  # figures are there, uncompressed
    looked_for = secrets(tracked)
    assert len(looked_for) > 200
    assert [text for text in looked_for if text in held] == []
    # the search does find what is there
    page = (tracked / "report.html").read_bytes()
    assert any(text in page for text in looked_for)
    assert str(base_folder).encode() not in held  # the base's place, as a path of the config


def test_tensorboard_holds_the_figures_of_metrics_and_utility(tracked: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tracked / "tensorboard"))
    events.Reload()
    line = json.loads((tracked / "metrics.jsonl").read_text().splitlines()[1])
    (loss,) = events.Scalars("train_loss/a")
    assert loss.step == 1 and loss.value == pytest.approx(line["train"]["a"]["loss"])
    utility = json.loads((tracked / "utility.json").read_text())
    task = utility[0]["task"]
    told = {event.step: event.value for event in events.Scalars(f"nll/{task}")}
    assert told == pytest.approx(
        {row["round"]: row["nll"] for row in utility if row["task"] == task}, rel=1e-5
    )
    rows = json.loads((tracked / "summary.json").read_text())["leakage"]
    for row in rows:
        if row["prefix"] is None and row["attacker"] in ("*", "any"):
            level = f"{row['copies']}x" if row["copies"] else "twins"
            tag = f"leak_{row['knowledge']}/{row['attack']}/{level}"
            shares = {event.step: event.value for event in events.Scalars(tag)}
            assert shares[row["round"]] == pytest.approx(row["rate"]), tag


def test_tracking_changes_no_result(tracked: Path, base_folder: Path, tmp_path: Path) -> None:
    plainly = run(plan(base_folder, tmp_path)).path
    for name in ("scores.parquet", "metrics.jsonl", "utility.json", "MODEL_CARD.md"):
        assert (plainly / name).read_bytes() == (tracked / name).read_bytes(), name


def test_a_run_taken_up_goes_on_in_the_same_folder(base_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed: fedmem[track]")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    class Stop(Exception):
        pass

    def stop(event: Event) -> None:
        if (event.round, event.stage) == (2, "training"):
            raise Stop

    chosen = plan(base_folder, tmp_path, rounds={"count": 2}, tracking={"tensorboard": True})
    with pytest.raises(Stop):
        run(chosen, stop)
    done = run(chosen, resume=True)
    events = EventAccumulator(str(done.path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train_loss/a")] == [1, 2]
    assert len(list((done.path / "tensorboard").iterdir())) == 2


def test_wandb_is_told_no_path_and_no_new_section(base_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed: fedmem[track]")
    from fedmem.tracking.wandb import sent

    text = json.dumps(sent(config(base_folder, data={"root": str(tmp_path)}, output="elsewhere")))
    assert str(base_folder) not in text and str(tmp_path) not in text
    assert "elsewhere" not in text and '"clients": 2' in text and '"lr": 0.01' in text
    hub = config(base_folder, model={"base": "org/small", "revision": "0" * 40})
    assert sent(hub)["model"]["base"] == "org/small"


def test_online_without_an_account_is_refused_before_the_run(
    base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed: fedmem[track]")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(ConfigError, match=r"wandb\.mode: online needs an account"):
        check(config(base_folder, tracking={"wandb": {"mode": "online"}}))
