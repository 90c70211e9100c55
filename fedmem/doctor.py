"""What `fedmem doctor` tells: the machine, whether a config can run on it, and for how long."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmem.config import Config
from fedmem.config.sources import HubSource, StoredSource
from fedmem.errors import DataError
from fedmem.group import at_once
from fedmem.loading import arm_configs
from fedmem.versions import cores, device, fedmem_version, git_commit, library_versions

if TYPE_CHECKING:
    from fedmem.model.outline import Outline


def machine_lines() -> Iterator[str]:
    """Versions, cores, threads, memory, disk, GPUs: a line each."""
    import torch

    commit = git_commit()
    yield f"fedmem        {fedmem_version()}" + (f" (commit {commit})" if commit else "")
    yield f"python        {platform.python_version()} on {platform.platform()}"
    for name, found in library_versions().items():
        yield f"{name:<13} {found or 'NOT INSTALLED'}"
    yield f"device        {device()}"
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        half = "bfloat16" if gpu.major >= 8 else "no bfloat16"
        yield f"cuda:{index:<8} {gpu.name}, {_size(gpu.total_memory)}, {half}"
    yield f"bfloat16      {'fast' if _fast_bfloat16() else 'slow'} on this CPU"
    yield f"cores         {cores()} (torch would use {torch.get_num_threads()} threads by itself)"
    memory = memory_bytes()
    yield f"memory        {_size(memory) if memory else 'unknown'}"
    yield f"disk          {_size(shutil.disk_usage(Path()).free)} free in {Path().resolve()}"
    yield f"HF_TOKEN      {'set' if os.environ.get('HF_TOKEN') else 'not set'}"


def config_lines(config: Config) -> Iterator[str]:
    """What a config asks for, a line each. Raises DataError at the end if something is missing."""
    arms = arm_configs(config) or {"": config}
    yield f"config        {config.name}: {len(config.data.clients)} clients, " + (
        f"{config.rounds.count} rounds, arms: {', '.join(config.arms) or 'none'}"
    )
    side_by_side = at_once(arms)
    yield f"at once       {side_by_side} of {len(arms)} runs"
    missing = []
    sizes: dict[str, int] = {}
    for arm in arms.values():
        for name, found in _sources(arm):
            if name in sizes:
                continue
            if isinstance(found, str):
                sizes[name] = 0
                yield f"data          {name}: {found}"
                continue
            if found is None:
                missing.append(name)
            sizes[name] = found or 0
            yield f"data          {name}: {'MISSING' if found is None else _size(found)}"
    if missing:
        raise DataError(f"missing: {', '.join(missing)}; check the paths and data.root")
    needs: list[_Needs] = []
    for name, arm in arms.items():
        label = f"{name}: " if name else ""
        outline = _outline(arm)
        if isinstance(outline, str):
            yield f"trained       {label}{outline}"
            continue
        yield f"trained       {label}{outline.parameters(trained=True):,} of " + (
            f"{outline.parameters():,} parameters ({arm.model.method})"
        )
        if problem := _no_weights(arm):
            yield f"MISSING       {label}{problem}; enough to count, not to run"
        need = _Needs(arm, outline, sum(sizes.values()))
        needs.append(need)
        for line in [*need.lines(), *_time(arm, outline)]:
            yield f"{line[0]:<13} {label}{line[1]}"
    if needs:
        yield from _fits(needs, side_by_side, config)


class _Needs:
    """What one arm needs, by phase."""

    def __init__(self, arm: Config, outline: Outline, data: int) -> None:
        from fedmem.model import memory

        self.arm = arm
        self.phases = [memory.training(outline, arm), memory.attack(outline, arm)]
        self.worst = max(self.phases, key=lambda need: need.total)
        self.host = memory.host(outline, arm, data)
        self.disk = memory.disk(outline, arm)
        on_cpu = arm.engine.device == "cpu"
        weights = self.worst.parts["weights"]  # read on the CPU, also when a GPU trains
        self.memory = self.host.total + (self.worst.total if on_cpu else weights)
        self.device = 0 if on_cpu else self.worst.total

    def lines(self) -> Iterator[tuple[str, str]]:
        for need in [self.host, *self.phases]:
            yield "memory", f"{need.phase} {_size(need.total)}: {_parts(need.parts)}"
        yield (
            "peak",
            f"{_size(self.memory)}"
            + (f" and {_size(self.device)} of the GPU" if self.device else ""),
        )
        yield "disk", f"{_size(sum(self.disk.values()))}: {_parts(self.disk)}"


def _time(config: Config, outline: Outline) -> Iterator[tuple[str, str]]:
    """How much is computed, and how long that takes; or why that cannot be told."""
    from fedmem import speed
    from fedmem.data import volume
    from fedmem.model.compute import work

    found = volume.volume(config, _tokenizer(config))
    if found.unknown:
        yield (
            "time",
            f"cannot be told: how many records client {', '.join(found.unknown)} has is not known "
            "here; set its max_records",
        )
        return
    one, tokens = work(outline), volume.trained(config, found)
    length = volume.length(config, found)
    parts = {"training": config.rounds.count * tokens * one.training(length)}
    for name, read in volume.read(config, found).items():
        parts[name] = read * one.reading(config.training.max_length)
    yield "tokens", f"about {volume.scaled(tokens).strip()} a round ({found.how})"
    yield "compute", volume.parts(parts)
    engine, dtype = config.engine, config.model.dtype
    yield "time", speed.told(sum(parts.values()), engine.device, dtype, engine.threads)


def _tokenizer(config: Config) -> Any | None:
    """The base's tokenizer where its files lie here; nothing is downloaded."""
    from fedmem.model import hub
    from fedmem.model.base import load_tokenizer

    if hub.is_hub_name(config.model):
        return None
    try:
        return load_tokenizer(config.model)
    except DataError:  # a folder with config.json alone is enough to count
        return None


def _fits(needs: list[_Needs], side_by_side: int, config: Config) -> Iterator[str]:
    """Whether machine and needs go together; advice where they do not."""
    import torch

    from fedmem.model.memory import advice

    # the most demanding arms may run at the same time
    memory = sum(sorted((need.memory for need in needs), reverse=True)[:side_by_side])
    disk = sum(sum(need.disk.values()) for need in needs)
    there = memory_bytes()
    folder = next(p for p in (config.output, *config.output.absolute().parents) if p.exists())
    checks = [
        ("memory", memory, there),
        ("disk", disk, shutil.disk_usage(folder).free),
    ]
    for index in range(torch.cuda.device_count()):
        names = {f"cuda:{index}"} | ({"cuda"} if index == 0 else set())
        users = [need.device for need in needs if need.arm.engine.device in names]
        if users:
            total = sum(sorted(users, reverse=True)[:side_by_side])
            size = torch.cuda.get_device_properties(index).total_memory
            checks.append((f"cuda:{index}", total, size))
    for what, needed, have in checks:
        verdict = "unknown" if have is None else "fits" if needed <= have else "DOES NOT FIT"
        of = "" if have is None else f" of {_size(have)}"
        yield f"{verdict:<13} {what}: about {_size(needed)}{of}"
        if verdict != "DOES NOT FIT":
            continue
        worst = max(needs, key=lambda need: need.device or need.memory)
        phase = "disk" if what == "disk" else worst.worst.phase
        if what == "memory" and side_by_side > 1:
            yield f"  advice      engine.threads={cores()}: one arm at a time"
        for text in advice(worst.arm, phase):
            yield f"  advice      {text}"


def memory_bytes() -> int | None:
    """Memory this process may use: the machine's, or its container's limit if that is lower."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None
    try:
        return min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no container, or its limit is `max`
        return total


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


def _outline(config: Config) -> Outline | str:
    """The model's outline, from its config.json alone; in words why there is none."""
    from fedmem.model import hub
    from fedmem.model.base import BUNDLED, bundled_path, check_config
    from fedmem.model.outline import outline

    if not hub.is_hub_name(config.model):
        base = config.model.base
        folder = bundled_path() if base == BUNDLED else Path(base)
        check_config(folder)
        return outline(config.model, folder)
    file = hub.config_file(config.model)
    if file is None:
        return (
            f"unknown: {config.model.base} is not cached; `hf download {config.model.base} "
            f"config.json --revision {config.model.revision}` is enough to count"
        )
    return outline(config.model, file.parent)


def _no_weights(config: Config) -> str | None:
    """What a base's local folder lacks for a run."""
    from fedmem.model import hub
    from fedmem.model.base import folder_of

    if hub.is_hub_name(config.model):
        return None
    try:
        folder_of(config.model)
    except DataError as error:
        return str(error)
    return None


def _fast_bfloat16() -> bool:
    import torch

    check = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    amx = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool((check and check()) or (amx and amx()))


def _parts(parts: dict[str, int]) -> str:
    return ", ".join(f"{name} {_size(size)}" for name, size in parts.items())


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
