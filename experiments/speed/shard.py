"""A shard larger than one wants in memory: seconds and peak memory of building and reading it.

    python experiments/speed/shard.py [--mb 1000]

Writes a JSONL file of short made-up records, builds four clients' shards from it with an empty
token cache and again from the full one, each in a process of its own, and reads every example.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fedmem.config import Config
from fedmem.data.build import build
from fedmem.model.base import load_tokenizer

TEXT = "the patient was seen for fever and a cough since two days with no pain at rest"
WORDS = TEXT.split(" ")


def write(file: Path, megabytes: int) -> int:
    """Records of about 490 bytes, each unlike the others; returns how many."""
    count = megabytes * 1_000_000 // 490
    with file.open("w", encoding="utf-8") as out:
        for n in range(count):
            text = " ".join(WORDS[(n * 7 + k * (n % 5 + 1)) % len(WORDS)] for k in range(90))
            row = {"prompt": f"Case {n}: {text}", "completion": f"finding {n % 977} in case {n}"}
            out.write(json.dumps(row) + "\n")
    return count


def peak() -> float:
    """The process's highest resident memory so far, in MB (mapped file pages count)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def measure(file: str) -> None:
    """What the child process does: build, then read every example, and print one line."""
    source = {"kind": "jsonl", "path": file, "adapter": "generic"}
    split = {"kind": "iid", "clients": 4}
    data = {"clients": [{"name": "site", "source": source, "split": split}]}
    config = Config.model_validate({"data": data})
    tokenizer = load_tokenizer(config.model)
    before, began = peak(), time.perf_counter()
    built = build(config, tokenizer)
    took, after = time.perf_counter() - began, peak()
    tokens = sum(len(e.ids) for shard in built.shards.values() for e in shard.examples)
    print(
        f"{took:.0f} s, peak {before:.0f} MB before, {after:.0f} MB when built, "
        f"{peak():.0f} MB after reading {tokens:,} tokens"
    )


def main() -> None:
    """Generate, then build cold and warm."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--mb", type=int, default=1000)
    megabytes = parser.parse_args().mb
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "shard.jsonl"
        print(f"{write(file, megabytes):,} records, {file.stat().st_size / 1e6:.0f} MB")
        env = {**os.environ, "FEDMEM_CACHE": str(Path(folder) / "cache"), "OMP_NUM_THREADS": "1"}
        for state in ("cold", "warm"):
            print(f"{state}: ", end="", flush=True)
            subprocess.run([sys.executable, __file__, str(file)], env=env, check=True)


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1].endswith(".jsonl"):
        measure(sys.argv[1])
    else:
        main()
