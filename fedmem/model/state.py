"""The trained part of a model as named arrays: what travels, is averaged, and is saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel

Arrays = dict[str, NDArray[np.float32]]


def get_arrays(model: Any) -> Arrays:
    """Copies of all trainable parameters, float32, in the model's own order."""
    return {
        name: parameter.detach().to("cpu", torch.float32, copy=True).numpy()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def set_arrays(model: Any, arrays: Arrays) -> None:
    """Write the arrays into the model's trainable parameters, in place.

    Raises KeyError where a parameter has no array, ValueError where a shape differs.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                array = arrays[name]
                if tuple(array.shape) != tuple(parameter.shape):
                    raise ValueError(f"{name}: {array.shape} for {tuple(parameter.shape)}")
                parameter.copy_(torch.from_numpy(np.asarray(array, dtype=np.float32)))


def save(model: Any, folder: Path) -> None:
    """The trained part in the format of its library: a PEFT adapter, or a whole checkpoint."""
    more: dict[str, Any] = {}
    if isinstance(model, PeftModel):
        # the base's own embeddings are never trained; `auto` would ask the hub about them
        more["save_embedding_layers"] = False
        settings: Any
        for settings in model.peft_config.values():
            # a set, whose order in the file would differ from process to process
            if isinstance(settings.target_modules, set):
                settings.target_modules = sorted(settings.target_modules)
    model.save_pretrained(folder, safe_serialization=True, **more)
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty template of a model card
