"""A model without its weights: what it counts, and what a step of it needs, for any size.

The model is built from config.json alone with fake tensors, which have shapes and no storage; its
real code is run on them, and what would be alive at a time is added up.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from fedmem.config import model as cfg
from fedmem.errors import DataError
from fedmem.model import precision
from fedmem.model.base import attach, enable_checkpointing
from fedmem.model.cache import caching
from fedmem.training.loss import token_losses


class Alive(TorchDispatchMode):
    """Counts the bytes of all tensors made inside that are still referred to."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        before = {id(x.untyped_storage()) for x in tree_leaves(args) if isinstance(x, Tensor)}
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage(), before)
        return out

    def _add(self, storage: Any, before: set[int]) -> None:
        if id(storage) in before or storage in self._seen:
            return  # a view of something that was there
        self._seen.add(storage)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.now -= size


@dataclass(frozen=True)
class Outline:
    """The model on fake tensors, in the mode that they belong to. What was counted is kept."""

    model: Any
    mode: FakeTensorMode
    config: cfg.Model
    _peaks: dict[tuple[int, ...], int] = field(default_factory=dict, repr=False, compare=False)

    def parameters(self, trained: bool = False) -> int:
        """How many parameters there are, or are trained."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad or not trained)

    def weights(self) -> int:
        """Bytes of all parameters and buffers as they are held."""
        held = [*self.model.parameters(), *self.model.buffers()]
        return sum(tensor.numel() * tensor.element_size() for tensor in held)

    def adapted(self) -> list[Tensor]:
        """The base's weights that LoRA adapts; none under full fine-tuning."""
        found = [layer for layer in self.model.modules() if isinstance(layer, LoraLayer)]
        weights: list[Any] = [layer.get_base_layer().weight for layer in found]
        return weights

    @property
    def vocabulary(self) -> int:
        """Logits to a token."""
        return int(self.model.get_output_embeddings().weight.shape[0])

    def step(self, rows: int, width: int) -> int:
        """Bytes alive at the peak of forward and backward of a micro-batch, gradients included."""
        if (rows, width) not in self._peaks:
            self._peaks[rows, width] = self._step(rows, width)
        return self._peaks[rows, width]

    def reading(self, rows: int, width: int, logits: int, cache: bool) -> int:
        """Bytes alive at the peak of scoring the last `logits` tokens of each row."""
        key = rows, width, logits, int(cache)
        if key not in self._peaks:
            self._peaks[key] = self._reading(*key)
        return self._peaks[key]

    def _step(self, rows: int, width: int) -> int:
        self.model.train()
        with self._alive() as alive:
            ids = torch.zeros((rows, width), dtype=torch.long)
            logits = self.model(input_ids=ids, use_cache=False).logits.float()
            token_losses(logits, ids).sum().backward()
        for parameter in self.model.parameters():
            parameter.grad = None
        return alive.peak

    def _reading(self, rows: int, width: int, logits: int, cache: int) -> int:
        self.model.eval()
        with self._alive() as alive, torch.no_grad():
            ids = torch.zeros((rows, width), dtype=torch.long)
            held = DynamicCache() if cache else None
            out = self.model(input_ids=ids, logits_to_keep=logits, **caching(held))
            torch.logsumexp(out.logits.float(), -1)
        return alive.peak

    @contextlib.contextmanager
    def _alive(self) -> Iterator[Alive]:
        with self.mode, Alive() as alive:
            yield alive


def outline(model: cfg.Model, folder: Path) -> Outline:
    """The model of `folder`/config.json with what is trained attached. Raises DataError."""
    try:
        declared = AutoConfig.from_pretrained(folder, local_files_only=True)
        with torch.device("meta"):
            base = AutoModelForCausalLM.from_config(declared, dtype=precision.held_in(model))
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"model.base: {folder} gives no model: {why}") from None
    attached = attach(base, model, seed=0)
    if model.gradient_checkpointing:
        enable_checkpointing(base)
    if model.method == "full":
        precision.run_in(attached, model.dtype)
    return Outline(attached, _fake(attached), model)


def _fake(model: Any) -> FakeTensorMode:
    """Turn the meta tensors into fake ones of the CPU, in place: those choose the CPU's kernels."""
    mode = FakeTensorMode()
    made: dict[int, Tensor] = {}  # tied weights stay tied
    with mode:
        for module in model.modules():
            for held in (module._parameters, module._buffers):
                for name, old in held.items():
                    if old is None:
                        continue
                    if id(old) not in made:
                        new = torch.empty(old.shape, dtype=old.dtype)
                        if isinstance(old, torch.nn.Parameter):
                            new = torch.nn.Parameter(new, requires_grad=old.requires_grad)
                        made[id(old)] = new
                    held[name] = made[id(old)]
    return mode
