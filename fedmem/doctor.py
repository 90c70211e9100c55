"""What `fedmem doctor` tells: the machine, and whether a config can run on it."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

from fedmem.arms import at_once
from fedmem.config import Config, JsonlSource
from fedmem.errors import DataError
from fedmem.loading import arm_configs
from fedmem.versions import cores, device, fedmem_version, git_commit, library_versions

COUNT_UP_TO = 500_000_000  # bytes of weights that are loaded to count what is trained


def machine_lines() -> Iterator[str]:
    """Versions, cores, threads, memory, disk: a line each."""
    import torch

    commit = git_commit()
    yield f"fedmem        {fedmem_version()}" + (f" (commit {commit})" if commit else "")
    yield f"python        {platform.python_version()} on {platform.platform()}"
    for name, found in library_versions().items():
        yield f"{name:<13} {found or 'NOT INSTALLED'}"
    yield f"device        {device()}"
    yield f"cores         {cores()} (torch would use {torch.get_num_threads()} threads by itself)"
    memory = memory_bytes()
    yield f"memory        {_size(memory) if memory else 'unknown'}"
    yield f"disk          {_size(shutil.disk_usage(Path()).free)} free in {Path().resolve()}"


def config_lines(config: Config) -> Iterator[str]:
    """What a config asks for, a line each. Raises DataError at the end if something is missing."""
    arms = arm_configs(config) or {"": config}
    yield f"config        {config.name}: {len(config.data.clients)} clients, " + (
        f"{config.rounds.count} rounds, arms: {', '.join(config.arms) or 'none'}"
    )
    yield f"at once       {at_once(arms)} of {len(arms)} runs"
    missing = []
    for file in sorted({file for arm in arms.values() for file in _files(arm)}):
        if not file.is_file():
            missing.append(str(file))
        yield f"data          {file}: {_size(file.stat().st_size) if file.is_file() else 'MISSING'}"
    if missing:
        raise DataError(f"missing: {', '.join(missing)}; check the paths and data.root")
    for name, arm in arms.items():
        yield f"trained       {f'{name}: ' if name else ''}{_trained(arm)}"


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


def _files(config: Config) -> Iterator[Path]:
    sources = [client.source for client in config.data.clients]
    for source in [*sources, config.data.canaries.source]:
        if isinstance(source, JsonlSource):
            yield (config.data.root or Path()) / source.path


def _trained(config: Config) -> str:
    """Parameters that training changes, of how many; a large base is not loaded for that."""
    weights = 0
    if config.model.base != "bundled":
        folder = Path(config.model.base)
        weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    if weights > COUNT_UP_TO:
        return f"not counted, the base holds {_size(weights)}"
    from fedmem.model.base import load

    model, _ = load(config.model, config.seed)
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return f"{trained:,} of {total:,} parameters ({config.model.method})"


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.4g} {unit}"
        size /= 1000
    return f"{size:.4g} TB"
