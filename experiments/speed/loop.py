"""How much the federated loop costs over its own bare training steps; results are checked equal.

    python experiments/speed/loop.py [--repeats 5] [--rounds 3] [key=value ...]

A: fedmem's loop, that is Flower messages, strategy, aggregation and all, without attacks.
B: a plain PEFT loop over the same batches: for each client load, train with AdamW, average.
Interleaved A B A B; wall time of one thread. The last adapters must agree to 1e-4 (float32), or the
timing does not count.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import numpy as np
import torch

from fedmem import workspace as workspaces
from fedmem.config import Config
from fedmem.engine.inline import run_inline
from fedmem.loading import load_config
from fedmem.model.state import Arrays
from fedmem.training.batches import collate, epochs
from fedmem.workspace import Workspace


def fedmem_loop(config: Config) -> Arrays:
    """The product's own loop."""
    last: dict[str, Arrays] = run_inline(config, lambda _: None)
    return last["global"]


def bare_loop(workspace: Workspace, config: Config) -> Arrays:
    """What a researcher would write by hand: torch tensors, PEFT model, transformers' loss."""
    model, pad = workspace.model, workspace.tokenizer.pad_token_id
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    shared = {n: torch.from_numpy(a.copy()) for n, a in workspace.initial_arrays().items()}
    shards = list(workspace.data.shards.values())
    total = sum(len(shard.examples) for shard in shards)
    model.train()
    for round_ in range(1, config.rounds.count + 1):
        mean = {n: torch.zeros_like(a, dtype=torch.float64) for n, a in shared.items()}
        for shard in shards:
            with torch.no_grad():
                for name, parameter in trained.items():
                    parameter.copy_(shared[name])
            _train(model, trained, shard, config, round_, pad)
            for name, parameter in trained.items():
                mean[name] += parameter.detach().double() * (len(shard.examples) / total)
        shared = {n: a.float() for n, a in mean.items()}
    return {n: a.numpy() for n, a in shared.items()}


def _train(model: Any, trained: Any, shard: Any, config: Config, round_: int, pad: int) -> None:
    t = config.training
    optimizer = torch.optim.AdamW(trained.values(), lr=t.lr, weight_decay=0.0, fused=True)
    lengths = [len(example.ids) for example in shard.examples]
    seed = f"{config.seed}/{shard.client}/{round_}"
    batches = list(epochs(lengths, t.batch_size, seed, 1))
    for batch in batches:
        ids, labels = collate([shard.examples[i] for i in batch], pad, torch.device("cpu"))
        optimizer.zero_grad()
        model(input_ids=ids, labels=labels, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), t.max_grad_norm or 1e9)
        optimizer.step()


def main() -> None:
    """Print a line a repetition, then medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="configs/quickstart.yaml")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("changes", nargs="*")
    given = parser.parse_args()
    config = load_config(
        given.config,
        [
            *("arms={}", "attack.knowledge=[]", "training.schedule=constant"),
            f"rounds.count={given.rounds}",
            *given.changes,
        ],
    )
    workspace = Workspace(config)
    workspaces.keep(workspace)
    fedmem_loop(config.model_copy())  # warm-up: imports, allocator
    ratios = []
    for repeat in range(given.repeats):
        start = time.perf_counter()
        ours = fedmem_loop(config)
        middle = time.perf_counter()
        bare = bare_loop(workspace, config)
        end = time.perf_counter()
        workspace.model.eval()
        apart = max(float(np.abs(ours[name] - bare[name]).max()) for name in ours)
        assert apart < 1e-4, f"results differ by {apart}: the timing does not count"
        ratios.append((middle - start) / (end - middle))
        print(
            f"{repeat}: fedmem {middle - start:.2f} s, bare {end - middle:.2f} s, "
            f"ratio {ratios[-1]:.3f}, adapters apart {apart:.1e}",
            flush=True,
        )
    print(f"median ratio {statistics.median(ratios):.3f} of {min(ratios):.3f}-{max(ratios):.3f}")


if __name__ == "__main__":
    main()
