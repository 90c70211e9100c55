"""The study, from runs to results: `PROTOCOL.md` says what is run and why, README.md what came out.

    python experiments/lora_vs_full/study.py run [--smoke] [--parts federated centralized defended]
    python experiments/lora_vs_full/study.py run --parts confirm
    python experiments/lora_vs_full/study.py run --parts real --data-root FOLDER
    python experiments/lora_vs_full/study.py show [RESULTS]

`run` makes what is missing, a seed of a part at a time, and keeps one small parquet file an arm;
started again it goes on where it was. `show` makes the table and the figure from those files alone.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from fedmem.comparison import observations
from fedmem.config import Config
from fedmem.errors import ConfigError, FedmemError, RunError
from fedmem.grid import points
from fedmem.loading import load_config
from fedmem.manifest import find, is_finished, read_manifest
from fedmem.progress import Event, Progress, shown
from fedmem.report.view import seconds
from fedmem.rundir import finished_runs
from fedmem.sweep import run_sweep

HERE = Path(__file__).parent
PARTS = ("federated", "centralized", "defended")  # beside them: `confirm`; `real`, given records
SMOKE = ("full_3e-4", "full_1e-3", "r16_3e-3", "r16_1e-2", "full-clip_1e-3", "r16-dp128_1e-2")
SMALL = ["rounds.count=2", "sweep.seed=[900]", "name=smoke", "output=runs/lora_vs_full/smoke"]


def run(parts: list[str], smoke: bool, root: str | None, results: Path, jobs: int | None) -> None:
    """Every seed of every part; seeds outermost, so that a study cut short has whole seeds."""
    configs = {part: config_of(part, smoke, root) for part in parts}
    blocks = list(_blocks(configs))
    left = {place: len(points(config)) for place, config in blocks}
    results.mkdir(parents=True, exist_ok=True)
    with shown(whole="study") as progress:
        took = made = 0.0
        for (part, seed), config in blocks:
            before = find(config, "sweep")
            new = before is None or not is_finished(before)
            began = time.monotonic()
            runs = _block(config, progress, jobs)
            _keep(part, runs, results)
            count = left.pop((part, seed))
            if new:  # what was finished before says nothing of what runs take
                took, made = took + time.monotonic() - began, made + count
            todo = sum(left.values())
            about = f", about {seconds(took / made * todo)}" if todo and made else ""
            text = f"{part}, seed {seed}: {len(runs)} runs; {todo} runs left{about}"
            progress(Event("study", text, lasting=True))
        made_by = f"python experiments/lora_vs_full/study.py show {results}"
        progress(Event("study", f"for tables and figure: {made_by}", lasting=True))


def config_of(part: str, smoke: bool, root: str | None) -> Config:
    """The part's config; in a smoke test two rounds, one seed and a few arms of it."""
    where = [f"data.root={root}"] if root else []
    config = load_config(HERE / f"{part}.yaml", [*where, *(SMALL if smoke else [])])
    arms = {name: arm for name, arm in config.arms.items() if not smoke or name in SMOKE}
    return config.model_copy(update={"arms": arms})


def _blocks(configs: dict[str, Config]) -> Iterator[tuple[tuple[str, int], Config]]:
    """((part, seed), the part's config with that seed alone)."""
    for seed in sorted({seed for config in configs.values() for seed in config.sweep["seed"]}):
        for part, config in configs.items():
            if seed in config.sweep["seed"]:
                yield (part, seed), config.model_copy(update={"sweep": {"seed": [seed]}})


def _block(config: Config, progress: Progress, jobs: int | None) -> list[Path]:
    """The finished runs of one seed of one part. Those that fail are tried once more, and named."""
    for attempt in (1, 2):
        try:
            return list(run_sweep(config, progress, resume=True, jobs=jobs).runs.values())
        except RunError as error:
            what = "once more" if attempt == 1 else "the study goes on without"
            progress(Event("study", f"{error}; {what}", lasting=True))
    folder = find(config, "sweep")
    return finished_runs(folder) if folder else []


def _keep(part: str, runs: list[Path], results: Path) -> None:
    """Add the runs to the files of their arms: rows of observations, and where they are from."""
    for config, paths in observations.by_arm(runs):
        arm = _arm_name(read_manifest(paths[0])["name"])
        file = results / f"{part}-{arm}.parquet"
        rows, about = [], {"part": part, "arm": arm, "config": config, "runs": []}
        if file.is_file():
            table, about = observations.read(file)
            rows = [table]
        for path in paths:
            manifest = read_manifest(path)
            known = [one["config_hash8"] for one in about["runs"]]
            if manifest["config_hash8"] not in known:
                rows.append(observations.observe(path))
                keys = ("config_hash8", "seed", "seconds", "fedmem", "versions", "threads")
                about["runs"].append({key: manifest[key] for key in keys})
        observations.write(file, pa.concat_tables(rows), about)


def _arm_name(name: str) -> str:
    """`federated-full-clip_1e-3-seed1` -> `full-clip`: less the part, the rate and the seed."""
    return name.partition("-")[2].partition("_")[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    runner = commands.add_parser("run", help="make the runs that are missing")
    runner.add_argument(
        "--smoke", action="store_true", help="a few small runs, five to ten minutes"
    )
    runner.add_argument("--parts", nargs="+", choices=[*PARTS, "real", "confirm"], default=PARTS)
    runner.add_argument("--data-root", help="folder of the real records; needed by `real`")
    runner.add_argument("--jobs", type=int, help="runs at once [default: by cores]")
    runner.add_argument(
        "--results",
        type=Path,
        help="folder of the arms' files [default: runs/lora_vs_full/results]",
    )
    shower = commands.add_parser("show", help="table and figure from the arms' files")
    shower.add_argument("results", type=Path, nargs="?", default=HERE / "results")
    asked = parser.parse_args()
    try:
        if asked.command == "run":
            if "real" in asked.parts and not asked.data_root:
                raise ConfigError(
                    "--parts real: needs --data-root FOLDER (files of configs/real.yaml)"
                )
            default = Path("runs/lora_vs_full") / ("smoke-results" if asked.smoke else "results")
            run(asked.parts, asked.smoke, asked.data_root, asked.results or default, asked.jobs)
        else:
            from show import show  # beside this file

            show(asked.results)
    except FedmemError as error:
        sys.exit(f"study: error: {error}")


if __name__ == "__main__":
    main()
