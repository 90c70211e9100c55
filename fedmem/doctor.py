"""What `fedmem doctor` tells: the machine, whether a config can run on it, and for how long."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from fedmem.config import Config
from fedmem.config.sources import HubSource, StoredSource
from fedmem.errors import DataError
from fedmem.grid import points
from fedmem.group import at_once
from fedmem.loading import arm_configs
from fedmem.progress import Event, Progress, silent
from fedmem.versions import cores, device, fedmem_version, git_commit, library_versions


def machine_lines() -> Iterator[str]:
    """Versions, cores, threads, memory, disk, GPUs: a line each."""
    import torch

    from fedmem.needs import memory_bytes, size

    commit = git_commit()
    yield f"fedmem        {fedmem_version()}" + (f" (commit {commit})" if commit else "")
    yield f"python        {platform.python_version()} on {platform.platform()}"
    for name, found in library_versions().items():
        yield f"{name:<13} {found or 'NOT INSTALLED'}"
    yield f"device        {device()}"
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        half = "bfloat16" if gpu.major >= 8 else "no bfloat16"
        yield f"cuda:{index:<8} {gpu.name}, {size(gpu.total_memory)}, {half}"
    yield f"bfloat16      {'fast' if _fast_bfloat16() else 'slow'} on this CPU"
    yield f"cores         {cores()} (torch would use {torch.get_num_threads()} threads by itself)"
    memory = memory_bytes()
    yield f"memory        {size(memory) if memory else 'unknown'}"
    yield f"disk          {size(shutil.disk_usage(Path()).free)} free in {Path().resolve()}"
    yield f"HF_TOKEN      {'set' if os.environ.get('HF_TOKEN') else 'not set'}"


def config_lines(config: Config, progress: Progress = silent) -> Iterator[str]:
    """What a config asks for, a line each. Raises DataError at the end if something is missing."""
    from fedmem.needs import Line, Needs, Plan, model_of, size  # torch and transformers: slow

    arms = arm_configs(config) or {"": config}
    runs = {name: point.config for name, point in points(config).items()} if config.sweep else arms
    each, side_by_side = len(runs) // len(arms), at_once(runs)
    sweep = ", ".join(f"{key} ({len(values)} values)" for key, values in config.sweep.items())
    yield (
        f"config        {config.name}: {len(config.data.clients)} clients, "
        f"{config.rounds.count} rounds, arms: {', '.join(config.arms) or 'none'}"
        + (f"; sweep of {sweep}" if sweep else "")
    )
    yield f"at once       {side_by_side} of {len(runs)} runs"
    stored: dict[str, int | str | None] = {}
    for arm in arms.values():
        stored.update(_sources(arm))
    for name, found in stored.items():
        text = found if isinstance(found, str) else size(found) if found else _WHY[found]
        yield f"data          {name}: {text}"
    if missing := [name for name, found in stored.items() if not found]:
        raise DataError(f"missing: {', '.join(missing)}; check the paths and data.root")
    data = sum(found for found in stored.values() if isinstance(found, int))
    told: dict[str, list[Line]] = {}
    needs = []
    for number, (name, arm) in enumerate(arms.items(), 1):
        if len(arms) > 1:
            progress(Event(config.name, f"counting {name}, {number} of {len(arms)}"))
        model = model_of(arm.model)
        if isinstance(model, str):
            told[name] = [("trained", model)]
            continue
        needs.append(Needs(arm, model, data))
        told[name] = [*needs[-1].lines()]
    for head, text in _together(told):
        yield f"{head:<13} {text}"
    if needs:
        plan = Plan(needs, each, side_by_side)
        for head, text in [*plan.time(), *plan.fits(config.output)]:
            yield f"{head:<13} {text}"


_WHY = {None: "MISSING", 0: "EMPTY"}


def _together(told: Mapping[str, list[tuple[str, str]]]) -> Iterator[tuple[str, str]]:
    """The lines of all arms, those of a kind one after the other; equal ones stand once."""
    arms: dict[tuple[str, int, str], list[str]] = {}
    for name, lines in told.items():
        seen: list[str] = []
        for head, text in lines:
            arms.setdefault((head, seen.count(head), text), []).append(name)
            seen.append(head)
    heads = list(dict.fromkeys(head for head, *_ in arms))
    for head, place, text in sorted(arms, key=lambda key: (heads.index(key[0]), key[1])):
        names = arms[head, place, text]
        who = f"all {len(told)} arms" if len(names) == len(told) else ", ".join(names)
        yield head, text if len(told) == 1 and not names[0] else f"{who}: {text}"


def _sources(config: Config) -> Iterator[tuple[str, int | str | None]]:
    """Name and bytes of every file or folder of records; None if it is not there, words for a hub
    source."""
    sources = [client.source for client in config.data.clients]
    for source in [*sources, config.data.canaries.source]:
        if isinstance(source, HubSource):
            yield f"{source.path}@{source.revision[:8]}", _cached_dataset(source)
        elif isinstance(source, StoredSource):
            path = (config.data.root or Path()) / Path(getattr(source, "path"))  # noqa: B009
            yield str(path), _bytes(path)


def _cached_dataset(source: HubSource) -> str:
    """Whether anything of the dataset's commit lies in the hub's cache on this machine."""
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(HF_HUB_CACHE) / repo_folder_name(repo_id=source.path, repo_type="dataset")
    there = (folder / "snapshots" / source.revision).is_dir()
    return "in the hub's cache" if there else "not cached, is downloaded from the hub"


def _bytes(path: Path) -> int | None:
    if path.is_file():
        return path.stat().st_size
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return None


def _fast_bfloat16() -> bool:
    import torch

    check = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    amx = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool((check and check()) or (amx and amx()))
