"""A run from a given adapter: its weights are round 0's, and what does not fit is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from tiny import config

from fedmem.config import model as cfg
from fedmem.errors import ConfigError, DataError, FedmemError
from fedmem.model.base import load
from fedmem.model.state import Arrays, get_arrays, save, set_arrays

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def section(base: Path, **changes: Any) -> cfg.Model:
    lora = {"r": 4, "alpha": 8} | changes.pop("lora", {})
    return config(base, model={"base": str(base), "lora": lora, **changes}).model


@pytest.fixture
def adapter(base_folder: Path, tmp_path: Path) -> tuple[Path, Arrays]:
    model, _ = load(section(base_folder), 0)
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.normal(size=array.shape).astype(np.float32)
        for name, array in get_arrays(model).items()
    }
    set_arrays(model, arrays)
    save(model, tmp_path / "adapter")
    return tmp_path / "adapter", arrays


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_its_weights_are_the_start(
    base_folder: Path, adapter: tuple[Path, Arrays], dtype: str
) -> None:
    folder, arrays = adapter
    model, _ = load(section(base_folder, adapter=str(folder), dtype=dtype), 5)
    started = get_arrays(model)
    assert list(started) == list(arrays)
    assert all(started[name].tobytes() == arrays[name].tobytes() for name in arrays)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}


def test_a_saved_adapter_names_its_base_as_the_config_does(
    base_folder: Path, adapter: tuple[Path, Arrays], tmp_path: Path
) -> None:
    declared = json.loads((adapter[0] / CONFIG).read_text())
    assert declared["base_model_name_or_path"] == str(base_folder)
    model, _ = load(cfg.Model(), 0)
    save(model, tmp_path / "bundled")
    text = (tmp_path / "bundled" / CONFIG).read_text()
    assert json.loads(text)["base_model_name_or_path"] == "bundled"
    assert str(Path(cfg.__file__).parent) not in text


def declare(folder: Path, **keys: object) -> None:
    file = folder / CONFIG
    file.write_text(json.dumps(json.loads(file.read_text()) | keys))


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")


def no_config(folder: Path) -> None:
    (folder / CONFIG).unlink()


def torn(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:100])


def other_base(folder: Path) -> None:
    wider = {n: torch.cat((t, t), -1) for n, t in load_file(folder / WEIGHTS).items()}
    save_file(wider, folder / WEIGHTS)


def not_finite(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    next(iter(weights.values()))[0, 0] = torch.nan
    save_file(weights, folder / WEIGHTS)


def dora(folder: Path) -> None:
    declare(folder, use_dora=True)


def not_lora(folder: Path) -> None:
    declare(folder, peft_type="IA3")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (pickled, "pickled weights only"),
        (no_config, "no adapter_config.json"),
        (torn, "does not load"),
        (other_base, "of another base"),
        (not_finite, "NaN or infinity"),
        (dora, "use_dora=True"),
        (not_lora, "IA3"),
    ],
)
def test_an_unusable_adapter_is_one_line_that_names_it(
    base_folder: Path,
    adapter: tuple[Path, Arrays],
    spoil: Callable[[Path], None],
    says: str,
) -> None:
    folder, _ = adapter
    spoil(folder)
    with pytest.raises(DataError) as raised:
        load(section(base_folder, adapter=str(folder)), 0)
    text = str(raised.value)
    assert says in text and str(folder) in text and text.startswith("model.adapter: ")
    assert "\n" not in text


@pytest.mark.parametrize(
    ("lora", "says"),
    [
        ({"r": 8}, r"model\.lora\.r is 8, .* has 4; set model\.lora\.r=4"),
        ({"alpha": 16}, r"model\.lora\.alpha is 16, .* has 8"),
        ({"targets": ["q_proj"]}, r'model\.lora\.targets: .*\["q_proj"\] .*"up_proj"'),
    ],
)
def test_a_config_that_differs_is_told_with_both_values(
    base_folder: Path, adapter: tuple[Path, Arrays], lora: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        load(section(base_folder, adapter=str(adapter[0]), lora=lora), 0)


def test_full_fine_tuning_takes_no_adapter(base_folder: Path) -> None:
    with pytest.raises(ValidationError, match="method full trains no adapter"):
        section(base_folder, method="full", adapter="somewhere")


def test_a_folder_that_is_not_there(base_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FedmemError, match=r"^model\.adapter: .*nowhere"):
        load(section(base_folder, adapter=str(tmp_path / "nowhere")), 0)
