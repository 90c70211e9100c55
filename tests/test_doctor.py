"""What doctor tells: the machine, the data, what an arm needs and whether that fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import config

from fedmem import doctor, group, needs, speed
from fedmem.config import Config
from fedmem.errors import DataError
from fedmem.loading import arm_configs

REVISION = "0123456789abcdef0123456789abcdef01234567"


def told(plan: Config) -> str:
    return "\n".join(doctor.config_lines(plan))


def with_source(base: Path, **source: Any) -> Config:
    client = {"name": "a", "source": source}
    return config(base, data={"clients": [client]})


def test_a_token_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_neverShowThis")
    lines = "\n".join(doctor.machine_lines())
    assert "hf_neverShowThis" not in lines and "HF_TOKEN      set" in lines
    monkeypatch.delenv("HF_TOKEN")
    assert "HF_TOKEN      not set" in "\n".join(doctor.machine_lines())


def test_every_arm_has_its_needs(base_folder: Path) -> None:
    arms = {"full": {"model.method": "full"}, "lora": {}}
    lines = told(config(base_folder, arms=arms))
    for arm in arms:
        for what in ("trained", "memory", "peak", "disk"):
            assert f"{what:<13} {arm}: " in lines
    assert "parameters (full)" in lines and "parameters (lora)" in lines
    assert "fits          memory" in lines and "fits          disk" in lines


def test_arms_with_the_same_needs_stand_together(base_folder: Path) -> None:
    arms = {
        "low": {"training.lr": 1e-3},
        "high": {"training.lr": 2e-3},
        "full": {"model.method": "full"},
    }
    said: list[str] = []
    lines = [*doctor.config_lines(config(base_folder, arms=arms), lambda e: said.append(e.stage))]
    trained = [line for line in lines if line.startswith("trained")]
    assert [line.split(": ")[0].split(maxsplit=1)[1] for line in trained] == ["low, high", "full"]
    assert any(line.startswith("tokens        all 3 arms: about ") for line in lines)
    assert said == [f"counting {arm}, {n} of 3" for n, arm in enumerate(arms, 1)]


def test_all_runs_of_a_sweep_are_added_up(
    base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group, "cores", lambda: 2)
    monkeypatch.setattr(speed, "product", lambda *_: 1e6)
    arms = {"low": {"training.lr": 1e-3}, "full": {"model.method": "full"}}
    plan = config(base_folder, arms=arms, sweep={"seed": [1, 2, 3]})
    made = [needs.Needs(arm, needs.model_of(arm.model), 0) for arm in arm_configs(plan).values()]
    whole = 3 * sum(sum(one.work.values()) for one in made if one.work) / 2 / (speed.CPU * 1e6)
    lines = told(plan)
    assert f"in all        6 runs, 2 side by side: about {speed.duration(whole)} in 1 th" in lines
    assert "at once       2 of 6 runs" in lines and "sweep of seed (3 values)" in lines
    assert "in all" not in told(config(base_folder))  # one run: its own line says it


def test_a_gpu_that_is_not_here_is_said(base_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    lines = told(config(base_folder, engine={"device": "cuda"}))
    assert "NO GPU        cuda: the config asks for " in lines


def test_what_does_not_fit_comes_with_advice(
    base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(needs, "memory_bytes", lambda: 100_000_000)
    lines = told(config(base_folder, model={"method": "full"}))
    assert "DOES NOT FIT  memory: about" in lines
    assert "advice      model.method=lora" in lines
    assert "advice      model.gradient_checkpointing=true" in lines


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "disk"])
def test_sources_that_are_files_and_folders(base_folder: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "records"
    plan = with_source(base_folder, kind=kind, path=str(path), adapter="medmcqa")
    with pytest.raises(DataError, match=r"missing: .*records"):
        told(plan)
    if kind == "disk":
        path.mkdir()
        with pytest.raises(DataError, match=r"missing: .*records"):
            told(plan)  # an empty folder
        (path / "one.arrow").write_bytes(b"x" * 3000)
    else:
        path.write_bytes(b"x" * 3000)
    assert f"data          {path}: 3 kB" in told(plan)


def test_a_hub_source_says_whether_it_is_cached(
    base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    plan = with_source(
        base_folder, kind="hub", path="org/set", revision=REVISION, adapter="medmcqa"
    )
    assert "org/set@01234567: not cached" in told(plan)
    (tmp_path / "datasets--org--set" / "snapshots" / REVISION).mkdir(parents=True)
    assert "org/set@01234567: in the hub's cache" in told(plan)


def test_a_base_that_is_not_cached_is_unknown_without_asking_the_hub(
    base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    plan = config(base_folder, model={"base": "org/tiny", "revision": REVISION})
    lines = told(plan)
    assert "unknown: org/tiny is not cached; `hf download org/tiny config.json" in lines
    # config.json alone is enough
    folder = tmp_path / "models--org--tiny" / "snapshots" / REVISION
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes((base_folder / "config.json").read_bytes())
    assert "parameters (lora)" in told(plan)
