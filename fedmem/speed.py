"""How long work takes: a short product of matrices, measured here, or a GPU's data sheet.

Shares of the peak are what training reached where it was measured, and a common figure where not.
An estimate within a factor of two or so: small models and short sequences reach less of it.
"""

from __future__ import annotations

import time
from functools import lru_cache

import torch

# dense TFLOP/s by the makers' data sheets: half precision (tensor cores), float32
SHEETS = {"H100": (989.0, 67.0), "A100": (312.0, 19.5), "L40S": (362.0, 91.6)}
CPU = 0.55  # of a product's speed: the bundled base, one thread, full fine-tuning and LoRA
MEASURED = 0.5  # on a GPU, of a large product's speed there; not measured
STATED = 0.4  # on a GPU, of its data sheet; not measured
SIDE = {"cpu": 768, "cuda": 4096}
SECONDS = 0.3
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@lru_cache
def product(device: str, dtype: str, threads: int) -> float:
    """Operations a second of one matrix product, the best of those made in 0.3 s; measured once."""
    kind = device.partition(":")[0]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        a = torch.ones((SIDE[kind], SIDE[kind]), dtype=DTYPES[dtype], device=device)
        best, began = float("inf"), time.perf_counter()
        _once(a)
        while time.perf_counter() - began < SECONDS:
            best = min(best, _once(a))
    finally:
        torch.set_num_threads(before)
    return 2 * SIDE[kind] ** 3 / (_once(a) if best == float("inf") else best)


def _once(a: torch.Tensor) -> float:
    start = time.perf_counter()
    a @ a
    if a.is_cuda:
        torch.cuda.synchronize(a.device)
    return time.perf_counter() - start


def told(work: float, device: str, dtype: str, threads: int) -> str:
    """How long `work` operations take on the device, and why; on known GPUs where there is none."""
    if device == "cpu" or int(device.partition(":")[2] or 0) < torch.cuda.device_count():
        speed = product(device, dtype, threads)
        share = CPU if device == "cpu" else MEASURED
        place = f"in {threads} thread{'s' * (threads > 1)} here" if device == "cpu" else "here"
        return (
            f"about {duration(work / (speed * share))} {place} "
            f"({share:.0%} of {speed / 1e9:,.0f} GFLOP/s, measured)"
        )
    column = int(dtype == "float32")
    times = [
        f"{duration(work / (STATED * sheet[column] * 1e12))} on one {name} (of {sheet[column]:g})"
        for name, sheet in SHEETS.items()
    ]
    return f"about {', '.join(times)}: {STATED:.0%} of the data sheet's TFLOP/s, no GPU here"


def duration(seconds: float) -> str:
    """As in `26 s`, `4 min`, `9 h`, `3.1 days`."""
    for unit, size in (("s", 60), ("min", 60), ("h", 48)):
        if seconds < size:
            return f"{seconds:.2g} {unit}" if seconds < 10 else f"{seconds:.0f} {unit}"
        seconds /= size if unit != "h" else 24
    return f"{seconds:.1f} days"
