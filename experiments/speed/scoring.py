"""What the membership attacks and the (n,p) grid cost on top of the plain scoring they share.

    python experiments/speed/scoring.py [--repeats 7] [key=value ...]

A: every canary through the tuned model and through the base, in batches: logits and cross-entropy,
no more. B: the same notes through fedmem's scoring pass under both models, with ranks, moments and
the grid of `attack.sampling`, made into rows of tokens.parquet, and LOSS, zlib, reference, Min-K%,
Min-K%++ and EZ scores from them. Interleaved A B A B, one thread; the log-probabilities must agree,
or the timing does not count.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import numpy as np
import torch

from fedmem.attacks.membership import ATTACKS
from fedmem.attacks.rows import token_row, token_table
from fedmem.attacks.scoring import batches, score
from fedmem.config.attack import FREE
from fedmem.loading import load_config
from fedmem.metrics.tokens import tokens_of
from fedmem.workspace import Workspace


def plain(model: Any, notes: list[Any]) -> list[np.ndarray]:
    """Log-probabilities of each note's tokens, as anybody would compute them."""
    found: list[Any] = [None] * len(notes)
    for rows in batches(notes):
        ids = torch.zeros((len(rows), max(len(notes[row]) for row in rows)), dtype=torch.long)
        for place, row in enumerate(rows):
            ids[place, : len(notes[row])] = torch.from_numpy(notes[row])
        with torch.inference_mode():
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
            nll = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
            ).view(len(rows), -1)
        for place, row in enumerate(rows):
            found[row] = -nll[place, : len(notes[row]) - 1].numpy()
    return found


def main() -> None:
    """Print a line a repetition, then the median."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="configs/quickstart.yaml")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("changes", nargs="*")
    given = parser.parse_args()
    config = load_config(given.config, ["arms={}", *given.changes])
    workspace = Workspace(config)
    canaries = workspace.data.canaries
    notes = [canary.ids for canary in canaries]
    grid = config.attack.sampling
    base = workspace.initial_arrays()
    rng = np.random.default_rng(0)
    # where the base lies, but for a little: as a tuned model's, its distributions are peaked
    tuned = {
        name: array + 1e-3 * rng.standard_normal(array.shape).astype(np.float32)
        for name, array in base.items()
    }

    def bare() -> list[list[np.ndarray]]:
        return [plain(workspace.load(arrays), notes) for arrays in (base, tuned)]

    def bench() -> tuple[list[Any], dict[str, list[float | None]]]:
        rows = []
        for round_, arrays in enumerate((base, tuned)):
            head = {"round": round_, "model": "global"}
            scored = score(workspace.load(arrays), notes, grid)
            rows += [head | token_row(c, one) for c, one in zip(canaries, scored, strict=True)]
        tokens = tokens_of(token_table(rows, len(grid)))
        scores = {
            attack: [
                ATTACKS[attack](tokens[1, "global", c.id], tokens[0, "global", c.id])
                for c in canaries
            ]
            for attack in FREE
        }
        return [row["logprob"] for row in rows], scores

    bare(), bench()  # warm-up
    ratios = []
    for repeat in range(given.repeats):
        start = time.perf_counter()
        expected = bare()
        middle = time.perf_counter()
        found, scores = bench()
        end = time.perf_counter()
        both = [one for model in expected for one in model]
        apart = max(float(np.abs(a - b).max()) for a, b in zip(found, both, strict=True))
        mean = [float(one.mean()) for one in expected[1]]
        off = max(abs(a - b) for a, b in zip(scores["loss"], mean, strict=True) if a is not None)
        assert apart < 1e-4 and off < 1e-5, f"differ by {apart}, {off}: the timing does not count"
        ratios.append((end - middle) / (middle - start))
        print(
            f"{repeat}: plain {middle - start:.2f} s, with all {end - middle:.2f} s, ratio "
            f"{ratios[-1]:.3f}, log-probabilities apart {apart:.1e}",
            flush=True,
        )
    print(
        f"{len(notes)} notes, {len(grid)} points of the grid: median ratio "
        f"{statistics.median(ratios):.3f} of {min(ratios):.3f}-{max(ratios):.3f}"
    )


if __name__ == "__main__":
    main()
