"""Run by test_memory in a process of its own: what a step or a scoring pass really takes.

Arguments: the model section as JSON, config.json's folder, rows, width, `training` or `attack`.
Prints the peak of resident memory in bytes above that of a process that has run a tiny model.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, LlamaConfig

from fedmem.attacks.scoring import score_batch
from fedmem.config import Config
from fedmem.data.records import Example, Shard
from fedmem.model import precision
from fedmem.model.base import prepare
from fedmem.training import cpu
from fedmem.training.local import train_local

TINY = LlamaConfig(
    vocab_size=100, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
)


def peak() -> int:
    """High-water mark of resident memory, in bytes (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def run(architecture: Any, section: dict[str, Any], rows: int, width: int, what: str) -> None:
    plan = Config.model_validate(
        {
            "model": section,
            "rounds": {"local_steps": 3},
            "training": {"batch_size": rows},
            "data": {"clients": [{"name": "a", "source": {"kind": "synthetic", "adapter": "mcq"}}]},
        }
    )
    held = precision.held_in(plan.model)
    base = AutoModelForCausalLM.from_config(architecture, dtype=held)
    model = prepare(base, plan.model, 0)
    ids = np.random.default_rng(0).integers(0, 90, size=(rows, width)).astype(np.int32)
    if what == "training":
        train_local(model, Shard("a", tuple(map(Example, ids)), ()), plan, 1, 1e-3, 0)
    else:
        for _ in range(3):
            score_batch(model.eval(), list(ids), 50, DynamicCache())


def main() -> None:
    """Warm up, measure, print."""
    section, folder, rows, width, what = sys.argv[1:]
    cpu.set_up(1)
    torch.manual_seed(0)
    run(TINY, json.loads(section), 2, 60, what)
    before = peak()
    run(AutoConfig.from_pretrained(folder), json.loads(section), int(rows), int(width), what)
    print(peak() - before)


if __name__ == "__main__":
    main()
