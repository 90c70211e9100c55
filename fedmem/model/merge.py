"""LoRA merged into the base: what each round's products BA add up to, as dense deltas.

For `aggregation.rule: product`: the model between rounds is the base plus one dense float32 delta
for every adapted weight, and clients start each round with a fresh LoRA on top of it (the paper's
merge). The base's own weights are kept beside the merged ones, so that a model is always base +
delta and never depends on the models that were loaded before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from fedmem.errors import DataError
from fedmem.model.state import Arrays

FILE = "deltas.safetensors"
ADAPTER = "default"  # PEFT's name for the only adapter


@dataclass(frozen=True)
class Product:
    """One adapted weight: it changes by scaling * B A, transposed where the layer keeps W^T."""

    weight: str  # parameter names in the model
    a: str
    b: str
    rank: int
    shape: tuple[int, ...]
    scaling: float
    transposed: bool

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of A [r, in] and B [out, r], by name."""
        out, in_ = reversed(self.shape) if self.transposed else self.shape
        return {self.a: (self.rank, in_), self.b: (out, self.rank)}

    def delta(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        """scaling * B A in float64, in the weight's own shape."""
        dense = arrays[self.b].astype(np.float64) @ arrays[self.a].astype(np.float64)
        return self.scaling * (dense.T if self.transposed else dense)


def products(model: Any) -> list[Product]:
    """Every weight that the model's LoRA adapts, in the model's order."""
    return [
        Product(
            weight=f"{name}.base_layer.weight",
            a=f"{name}.lora_A.{ADAPTER}.weight",
            b=f"{name}.lora_B.{ADAPTER}.weight",
            rank=int(layer.r[ADAPTER]),
            shape=tuple(layer.get_base_layer().weight.shape),
            scaling=float(layer.scaling[ADAPTER]),
            transposed=bool(layer.fan_in_fan_out),
        )
        for name, layer in adapted(model)
    ]


def adapted(model: Any) -> list[tuple[str, Any]]:
    """The layers that LoRA adapts, by name."""
    return [(name, layer) for name, layer in model.named_modules() if isinstance(layer, LoraLayer)]


class Merged:
    """A LoRA model whose base weights are base + delta. Holds a copy of the adapted weights."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.products = products(model)
        self._parameters = dict(model.named_parameters())
        self._base = {p.weight: self._parameters[p.weight].detach().clone() for p in self.products}

    def initial(self) -> Arrays:
        """Deltas of the untouched base: zeros."""
        return {p.weight: np.zeros(p.shape, np.float32) for p in self.products}

    def base(self, weight: str) -> np.ndarray:
        """A weight of the untouched base, float32."""
        return np.asarray(self._base[weight].to("cpu", torch.float32))

    def load(self, deltas: Arrays) -> None:
        """Make the weights base + delta, and the LoRA one that changes nothing."""
        with torch.no_grad():
            for p in self.products:
                weight, base = self._parameters[p.weight], self._base[p.weight]
                delta = torch.from_numpy(deltas[p.weight]).to(weight.device)
                weight.copy_(base.float() + delta)
                self._parameters[p.b].zero_()

    def fresh(self, seed: int) -> None:
        """Begin with a fresh LoRA: A drawn from `seed`, B zero."""
        torch.manual_seed(seed)
        for _, layer in adapted(self.model):
            layer.reset_lora_parameters(ADAPTER, init_lora_weights=True)


def save_deltas(deltas: Arrays, folder: Path) -> None:
    """`deltas.safetensors`: by the base's own parameter names, to be added to its weights."""
    save_file({plain_name(name): delta for name, delta in deltas.items()}, folder / FILE)


def load_deltas(folder: Path, wanted: list[Product]) -> Arrays:
    """The deltas that `save_deltas` wrote, by the names in the LoRA model. DataError if unfit."""
    file = folder / FILE
    try:
        held = load_file(file)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{file}: does not load: {error}") from None
    names = {plain_name(p.weight): p for p in wanted}
    if held.keys() != names.keys():
        raise DataError(
            f"{file}: deltas of other layers than this base and model.lora.targets have"
        )
    for name, product in names.items():
        if held[name].shape != product.shape:
            raise DataError(f"{file}: {name} has the shape {held[name].shape}, not {product.shape}")
    return {names[name].weight: held[name] for name in names}


def plain_name(name: str) -> str:
    """A parameter's name in the base without PEFT around it."""
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".")
