"""`model`: the shared base, and what is trained on it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from fedmem.config.section import COMMIT, Section


class Lora(Section):
    """Low-rank adapters (PEFT): update = alpha / r * B A."""

    r: int = Field(16, ge=1, le=4096)
    alpha: float = Field(8.0, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: Literal["all-linear"] | list[str] = "all-linear"


class Model(Section):
    """The shared base: `bundled`, a local folder, or a name on the Hugging Face hub.

    `dtype`, method lora: the frozen base is held in it, the adapters stay float32. Method full: the
    weights stay float32 and the forward pass runs under torch.autocast. float16 scales the loss.
    """

    base: str = "bundled"
    revision: str | None = Field(
        None, pattern=COMMIT, description="hub names: the commit's hash, 40 hex digits"
    )
    method: Literal["lora", "full"] = "lora"
    lora: Lora = Lora()
    adapter: Path | None = Field(
        None, description="a PEFT LoRA adapter's folder: the weights of round 0"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    gradient_checkpointing: bool = Field(
        False, description="compute activations twice instead of keeping them: slower, less memory"
    )

    @model_validator(mode="after")
    def _adapter_needs_lora(self) -> Model:
        if self.adapter is not None and self.method == "full":
            raise ValueError("adapter: method full trains no adapter; set method to lora")
        return self
