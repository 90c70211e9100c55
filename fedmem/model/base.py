"""Loading the shared base and attaching what is trained on it.

Weights come from safetensors only, and no code of a checkpoint is run.
"""

from __future__ import annotations

import json
import warnings
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.pytorch_utils import Conv1D
from transformers.utils.logging import disable_progress_bar

from fedmem.config import model as cfg
from fedmem.errors import ConfigError, DataError
from fedmem.model import hub, precision
from fedmem.model.adapter import start_from

BUNDLED = "bundled"


def bundled_path() -> Path:
    """The folder of the checkpoint that ships with the package."""
    return Path(str(files("fedmem.model").joinpath("bundled")))


def check_folder(folder: Path) -> None:
    """Refuse a folder that is no checkpoint, holds pickled weights only, or asks to run code."""
    check_config(folder)
    if not any(folder.glob("*.safetensors")):
        if any(folder.glob("*.bin")) or any(folder.glob("*.pt*")):
            raise DataError(
                f"model.base: {folder} holds pickled weights only, which can run code: refused; "
                "convert them to safetensors"
            )
        raise DataError(f"model.base: {folder} has no *.safetensors")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        raise DataError(f"model.base: {folder} has no tokenizer (tokenizer.json)")


def check_config(folder: Path) -> None:
    """Refuse a folder without a config.json, or one that asks to run code."""
    if not folder.is_dir():
        raise DataError(f"model.base: no folder {folder}; check the path")
    if not (folder / "config.json").is_file():
        raise DataError(f"model.base: {folder} has no config.json")
    for name in ("config.json", "tokenizer_config.json"):
        _check_declared(folder / name)


def _check_declared(file: Path) -> None:
    if not file.is_file():
        return
    try:
        declared = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"model.base: {file} is not JSON: {error}") from None
    if not isinstance(declared, dict):
        raise DataError(f"model.base: {file} is not JSON with keys")
    if "auto_map" in declared:
        raise DataError(f"model.base: {file} asks to run its own code (auto_map): refused")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def folder_of(model: cfg.Model) -> Path:
    """The checkpoint's folder, checked; a base on the hub is downloaded first if need be."""
    if hub.is_hub_name(model):
        folder = hub.fetch(model)
    else:
        folder = bundled_path() if model.base == BUNDLED else Path(model.base)
    check_folder(folder)
    return folder


def load_tokenizer(model: cfg.Model) -> Any:
    """The base's own fast tokenizer; DataError where it has none."""
    folder = folder_of(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the tokenizers library raises bare Exception
        raise DataError(
            f"model.base: the tokenizer in {folder} is unusable: {_first_line(error)}"
        ) from None
    if not tokenizer.is_fast:
        raise DataError(f"model.base: {folder} has no fast tokenizer (tokenizer.json)")
    return tokenizer


def load_base(model: cfg.Model) -> Any:
    """The causal language model of the folder, on the CPU, in the dtype its weights are held in."""
    folder = folder_of(model)
    disable_progress_bar()  # fedmem shows its own progress
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=precision.held_in(model),
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
        raise DataError(f"model.base: {folder} does not load: {_first_line(error)}") from None
    base, info = loaded
    # transformers only warns, and draws what is missing at random
    if info["missing_keys"]:
        raise DataError(
            f"model.base: {folder} does not load: its files lack {len(info['missing_keys'])} "
            f"weights of the model, among them {min(info['missing_keys'])}"
        )
    for name, parameter in base.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            hint = "; it may fit bfloat16" if model.dtype == "float16" else ""
            raise DataError(f"model.base: {folder}: the weight {name} holds NaN or infinity{hint}")
    return base


def attach(base: Any, model: cfg.Model, seed: int) -> Any:
    """The model to train: with LoRA adapters (the base frozen), or with all weights trainable.

    The adapters' A is drawn from `seed`, B is zero: the model is the base until it is trained. They
    are float32 whatever the base is held in.
    """
    if model.method == "full":
        return base.requires_grad_(True)
    lora, targets = model.lora, model.lora.targets
    torch.manual_seed(seed)
    settings = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        # GPT-2 keeps its matrices the other way round
        fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in base.modules()),
        bias="none",
        task_type="CAUSAL_LM",
    )
    try:
        with warnings.catch_warnings():
            # peft 0.21 asks for an attribute that transformers 5.2x renamed: nothing to act on
            warnings.simplefilter("ignore", FutureWarning)
            attached = get_peft_model(base, settings)
    except ValueError as error:
        raise ConfigError(f"model.lora.targets: {str(error).splitlines()[0]}") from None
    # what a saved adapter names as its base: never a path of this machine's own
    settings.base_model_name_or_path, settings.revision = model.base, model.revision
    return attached


def load(model: cfg.Model, seed: int) -> tuple[Any, Any]:
    """(model ready to train, its tokenizer)."""
    tokenizer, base = load_tokenizer(model), load_base(model)
    rows = base.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise DataError(
            f"model.base: the tokenizer in {folder_of(model)} has {len(tokenizer)} tokens, "
            f"the model knows {rows}: they do not belong together"
        )
    return prepare(base, model, seed), tokenizer


def prepare(base: Any, model: cfg.Model, seed: int) -> Any:
    """`attach`, from the given adapter if there is one, with the precision and memory asked for."""
    attached = attach(base, model, seed)
    if model.adapter is not None:
        start_from(attached, model)
    if model.gradient_checkpointing:
        enable_checkpointing(base)
    if model.method == "full":
        precision.run_in(attached, model.dtype)
    return attached


def enable_checkpointing(base: Any) -> None:
    """Keep only each block's input in training; ConfigError where the architecture cannot."""
    try:
        # transformers 5.2x renamed it
        name = "activation_checkpointing_enable"
        enable = getattr(base, name, None) or base.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    except ValueError:
        raise ConfigError(
            f"model.gradient_checkpointing: {type(base).__name__} does not support it; set it to "
            "false, and lower training.batch_size instead"
        ) from None
