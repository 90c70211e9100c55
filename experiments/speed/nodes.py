"""What the Ray engine costs over the inline one: seconds a round, results checked equal.

    python experiments/speed/nodes.py [--repeats 3] [--rounds 2] [key=value ...]

Two raylets on this machine, loopback alone, each with one CPU, and a head without any. Interleaved
runs of inline, Ray with one actor and Ray with two: a run's rounds after its first are counted,
so loading and the start of actors are not. One thread each. Inline keeps one core busy, and so
does one actor: their ratio is the overhead. Two actors on two free cores show what a second node
gains. The arrays must be the same to the byte, or the timing does not count.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedmem.config import Config
from fedmem.engine.inline import run_inline
from fedmem.engine.ray import run_ray
from fedmem.loading import load_config
from fedmem.model.state import Arrays
from fedmem.rounds import Round

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def two_nodes() -> Iterator[str]:
    """The address of a cluster of two nodes with a CPU each, ended at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    folder = tempfile.mkdtemp(prefix="ray-")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block"]
    common = ["--node-ip-address=127.0.0.1", "--disable-usage-stats"]
    head = ["--head", f"--port={address[10:]}", "--num-cpus=0", f"--temp-dir={folder}"]
    head.append("--include-dashboard=false")
    started: list[subprocess.Popen[bytes]] = []
    try:
        for arguments in (head, *[[f"--address={address}", "--num-cpus=1"]] * 2):
            quiet = subprocess.DEVNULL
            line = [*command, *common, *arguments]
            started.append(subprocess.Popen(line, env=env, stdout=quiet, stderr=quiet))
            time.sleep(15)
        yield address
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def timed(config: Config) -> tuple[Arrays, list[float]]:
    """The last arrays, and each round's seconds of training, aggregation and observation."""
    spent: list[float] = []

    def note(done: Round) -> None:
        spent.append(sum(done.seconds.values()))

    models = (run_ray if config.engine.kind == "ray" else run_inline)(config, note)
    return models["global"], spent[2:]  # round 0 trains nothing, round 1 warms up


def main() -> None:
    """Print a line a run, then medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="configs/quickstart.yaml")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2, help="counted rounds a run")
    parser.add_argument("changes", nargs="*")
    given = parser.parse_args()
    settings = ["arms={}", "attack.knowledge=[]", f"rounds.count={given.rounds + 1}"]
    base = load_config(given.config, [*settings, *given.changes])
    ratios: dict[str, list[float]] = {"1 actor": [], "2 actors": []}
    with two_nodes() as address:
        engines = {
            "inline": {"kind": "inline"},
            "1 actor": {"kind": "ray", "address": address, "actors": 1},
            "2 actors": {"kind": "ray", "address": address, "actors": 2},
        }
        for repeat in range(given.repeats):
            first: dict[str, tuple[Arrays, float]] = {}
            for name, engine in engines.items():
                config = Config.model_validate({**base.model_dump(), "engine": engine})
                arrays, spent = timed(config)
                first[name] = arrays, statistics.median(spent)
                rounds = " ".join(f"{seconds:.2f}" for seconds in spent)
                print(f"{repeat}: {name}: {rounds} s a round", flush=True)
            inline, seconds = first["inline"]
            for name in ratios:
                arrays, other = first[name]
                same = all(a.tobytes() == inline[k].tobytes() for k, a in arrays.items())
                assert same, f"{name}: other arrays than inline's: the timing does not count"
                ratios[name].append(other / seconds)
    for name, values in ratios.items():
        low, high = min(values), max(values)
        print(f"{name}: {statistics.median(values):.3f} of inline's time ({low:.3f}-{high:.3f})")


if __name__ == "__main__":
    main()
