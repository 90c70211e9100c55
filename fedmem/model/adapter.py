"""Starting from a given LoRA adapter: a PEFT folder that fits the config and the base exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file

from fedmem.config import model as cfg
from fedmem.errors import ConfigError, DataError

# what an adapter_config.json may say beside r, alpha and targets: value that changes nothing
PLAIN: dict[str, Any] = {
    "use_dora": False,
    "use_rslora": False,
    "bias": "none",
    "modules_to_save": None,
    "rank_pattern": {},
    "alpha_pattern": {},
}


def start_from(attached: Any, model: cfg.Model) -> None:
    """Write the weights of `model.adapter` into the freshly attached adapters.

    The config decides: an adapter of another rank, alpha or set of layers is a ConfigError naming
    both values. One of other shapes, of another method or with pickled weights is a DataError.
    """
    assert model.adapter is not None
    folder = model.adapter
    declared = _declared(folder)
    if declared.get("peft_type") != "LORA":
        raise DataError(f"model.adapter: {folder} holds {declared.get('peft_type')}, not LORA")
    for key, plain in PLAIN.items():
        if (declared.get(key) or plain) != plain:
            raise DataError(
                f"model.adapter: {folder} sets {key}={declared[key]}, which fedmem does not train"
            )
    for key, theirs, ours in (
        ("r", declared.get("r"), model.lora.r),
        ("alpha", declared.get("lora_alpha"), model.lora.alpha),
    ):
        if theirs != ours:
            raise ConfigError(
                f"model.lora.{key} is {ours:g}, the adapter in {folder} has {theirs}; "
                f"set model.lora.{key}={theirs}"
            )
    weights = _weights(folder)
    wanted = get_peft_model_state_dict(attached, save_embedding_layers=False)
    if weights.keys() != wanted.keys():
        layers = json.dumps(_targets(weights))
        raise ConfigError(
            f"model.lora.targets: the config's adapters stand at {json.dumps(_targets(wanted))} "
            f"({len(wanted)} arrays), those in {folder} at {layers} ({len(weights)}); set "
            f"model.lora.targets to theirs, or take an adapter of this base"
        )
    for name, tensor in weights.items():
        if tensor.shape != wanted[name].shape:
            raise DataError(
                f"model.adapter: {folder} is of another base: {name} has the shape "
                f"{tuple(tensor.shape)}, here it is {tuple(wanted[name].shape)}"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise DataError(f"model.adapter: {folder}: {name} holds NaN or infinity")
    set_peft_model_state_dict(attached, weights)


def _targets(names: Any) -> list[str]:
    """The kinds of layers that have adapters: `...layers.0.self_attn.q_proj.lora_A.weight`."""
    return sorted({name.split(".lora_")[0].rsplit(".", 1)[-1] for name in names})


def _declared(folder: Path) -> dict[str, Any]:
    file = folder / "adapter_config.json"
    if not file.is_file():
        raise DataError(f"model.adapter: {folder} has no adapter_config.json; give a PEFT folder")
    try:
        declared = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"model.adapter: {file} is not JSON: {error}") from None
    if not isinstance(declared, dict):
        raise DataError(f"model.adapter: {file} is not JSON with keys")
    return declared


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    file = folder / "adapter_model.safetensors"
    if not file.is_file():
        pickled = (folder / "adapter_model.bin").is_file()
        why = "holds pickled weights only, which can run code: refused" if pickled else "has none"
        raise DataError(f"model.adapter: {folder} {why}; adapter_model.safetensors is needed")
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise DataError(f"model.adapter: {file} does not load: {error}") from None
