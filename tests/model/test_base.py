"""Loading a user's folder, attaching what is trained, and the trained part as arrays and files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from tiny import config
from transformers import AutoModelForCausalLM

from fedmem.config import model as cfg
from fedmem.errors import ConfigError, DataError
from fedmem.model.base import load, load_base, load_tokenizer
from fedmem.model.state import get_arrays, save, set_arrays


@pytest.fixture
def folder(base_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny base that a test may spoil."""
    return Path(shutil.copytree(base_folder, tmp_path / "mine"))


def model_section(base: Path, **changes: Any) -> cfg.Model:
    return config(base, model={"base": str(base), **changes}).model


def edit(file: Path, **keys: object) -> None:
    declared = json.loads(file.read_text()) | keys
    file.write_text(json.dumps(declared))


def without_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")


def without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def config_is_no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def config_is_a_list(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def config_of_an_unknown_kind(folder: Path) -> None:
    edit(folder / "config.json", model_type="nothing-known", architectures=["Nothing"])


def pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def runs_code(folder: Path) -> None:
    edit(folder / "config.json", auto_map={"AutoModelForCausalLM": "modeling_mine.Mine"})


def tokenizer_runs_code(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["mine.Mine", "mine.Fast"]})


def missing(folder: Path) -> None:
    shutil.rmtree(folder)


def cut_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


def other_shape(folder: Path) -> None:
    edit(folder / "config.json", intermediate_size=48)


def more_layers_than_weights(folder: Path) -> None:
    edit(folder / "config.json", num_hidden_layers=3)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (missing, "no folder"),
        (without_config, "no config.json"),
        (config_is_no_json, "is not JSON"),
        (config_is_a_list, "is not JSON"),
        (config_of_an_unknown_kind, "does not load"),
        (runs_code, "auto_map"),
        (tokenizer_runs_code, "auto_map"),
        (pickle_only, "pickled weights only"),
        (without_weights, "no *.safetensors"),
        (cut_weights, "does not load"),
        (other_shape, "does not load"),
        (more_layers_than_weights, "does not load"),
        (without_tokenizer, "no tokenizer"),
        (broken_tokenizer, "the tokenizer in"),
    ],
)
def test_an_unusable_folder_is_one_line_that_names_it(
    folder: Path, spoil: Callable[[Path], None], says: str
) -> None:
    spoil(folder)
    with pytest.raises(DataError) as raised:
        load(model_section(folder), seed=0)
    text = str(raised.value)
    assert says in text and str(folder) in text and text.startswith("model.base: ")
    assert "\n" not in text and len(text) < 400


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(folder: Path) -> None:
    tokenizer = load_tokenizer(model_section(folder))
    tokenizer.add_tokens([f"<extra-{i}>" for i in range(9)])
    tokenizer.save_pretrained(folder)
    with pytest.raises(DataError, match=r"393 tokens.* 384"):
        load(model_section(folder), seed=0)


def test_weights_are_read_as_float32_whatever_they_were(folder: Path) -> None:
    load_base(model_section(folder)).half().save_pretrained(folder)
    model, _ = load(model_section(folder), seed=0)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("target", ["no_such_layer", "input_layernorm"])
def test_a_wrong_lora_target_is_a_config_error(base_folder: Path, target: str) -> None:
    section = model_section(base_folder, lora={"targets": [target]})
    with pytest.raises(ConfigError, match=r"^model\.lora\.targets: ") as raised:
        load(section, seed=0)
    assert "\n" not in str(raised.value)


def test_full_trains_everything_and_lora_its_adapters_only(base_folder: Path) -> None:
    full, _ = load(model_section(base_folder, method="full"), seed=0)
    lora, _ = load(model_section(base_folder, lora={"r": 4}), seed=0)
    named = dict(full.named_parameters())
    assert list(get_arrays(full)) == list(named)
    assert "lm_head.weight" not in named  # tied: trained and sent once
    trained = get_arrays(lora)
    # all linear layers but the head: 2 layers x 7, A and B each
    assert len(trained) == 28 and all(".lora_" in name for name in trained)
    assert all(array.shape[0] == 4 for name, array in trained.items() if ".lora_A." in name)
    assert all(not array.any() for name, array in trained.items() if ".lora_B." in name)
    assert {array.dtype for array in trained.values()} == {np.dtype(np.float32)}


def test_lora_on_some_layers_only(base_folder: Path) -> None:
    model, _ = load(model_section(base_folder, lora={"r": 2, "targets": ["q_proj"]}), seed=0)
    assert len(get_arrays(model)) == 4


def test_the_seed_decides_the_adapter_to_the_byte(base_folder: Path) -> None:
    section = model_section(base_folder)
    torch.manual_seed(123)  # what went before must not matter
    first, again, other = (get_arrays(load(section, seed)[0]) for seed in (7, 7, 8))
    assert all(first[name].tobytes() == again[name].tobytes() for name in first)
    assert any(first[name].tobytes() != other[name].tobytes() for name in first)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_arrays_come_back_as_they_were_set(base_folder: Path, method: str) -> None:
    model, _ = load(model_section(base_folder, method=method), seed=0)
    rng = np.random.default_rng(0)
    before = get_arrays(model)
    new = {n: rng.normal(size=a.shape).astype(np.float32) for n, a in before.items()}
    set_arrays(model, new)
    after = get_arrays(model)
    assert list(after) == list(new)
    assert all(after[name].tobytes() == new[name].tobytes() for name in new)
    # what was read out before are copies, and what is read out is not the model
    assert any(before[name].tobytes() != after[name].tobytes() for name in new)
    next(iter(after.values()))[:] = 0
    assert next(iter(get_arrays(model).values())).any()


def test_arrays_of_another_shape_or_name_are_refused(base_folder: Path) -> None:
    model, _ = load(model_section(base_folder), seed=0)
    arrays = get_arrays(model)
    name = next(iter(arrays))
    with pytest.raises(ValueError, match=name):
        set_arrays(model, arrays | {name: arrays[name].T})
    with pytest.raises(KeyError, match=name):
        set_arrays(model, {n: a for n, a in arrays.items() if n != name})


@pytest.mark.parametrize("method", ["lora", "full"])
def test_what_is_saved_loads_in_its_own_library_with_the_same_logits(
    base_folder: Path, tmp_path: Path, method: str
) -> None:
    section = model_section(base_folder, method=method)
    model, tokenizer = load(section, seed=0)
    rng = np.random.default_rng(1)
    arrays = {
        name: array + rng.normal(0, 0.1, array.shape).astype(np.float32)
        for name, array in get_arrays(model).items()
    }
    set_arrays(model, arrays)
    save(model, tmp_path / "saved")
    assert not list((tmp_path / "saved").glob("*.bin"))
    if method == "lora":
        plain = AutoModelForCausalLM.from_pretrained(base_folder, dtype=torch.float32)
        loaded = PeftModel.from_pretrained(plain, tmp_path / "saved")
    else:
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    ids = torch.tensor([tokenizer("Patient: Ada Abbott.")["input_ids"]])
    with torch.inference_mode():
        mine, theirs = model.eval()(input_ids=ids).logits, loaded.eval()(input_ids=ids).logits
        fresh = load_base(section)(input_ids=ids).logits
    assert torch.equal(mine, theirs)
    assert not torch.allclose(mine, fresh, atol=1e-2)  # the change that was saved is not nothing
