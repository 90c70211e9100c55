"""What the runs of a config need of memory, disk and time, and whether this machine has it.

Everything is counted from a base's config.json and from the config; nothing is loaded or trained.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from fedmem import speed
from fedmem.config import Config
from fedmem.config import model as cfg
from fedmem.data import volume
from fedmem.errors import DataError
from fedmem.model import hub, memory
from fedmem.model.base import BUNDLED, bundled_path, check_config, folder_of, load_tokenizer
from fedmem.model.compute import work
from fedmem.model.outline import Outline, outline
from fedmem.versions import cores

Line = tuple[str, str]  # what it is about, and what is told


class Needs:
    """What one run needs, by phase. work: operations in all; None where that cannot be told."""

    def __init__(self, config: Config, model: Outline, data: int) -> None:
        self.config, self.model = config, model
        self.phases = [memory.training(model, config), memory.attack(model, config)]
        self.worst = max(self.phases, key=lambda need: need.total)
        self.host = memory.host(model, config, data)
        self.disk = memory.disk(model, config)
        on_cpu = config.engine.device == "cpu"
        weights = self.worst.parts["weights"]  # read on the CPU, also when a GPU trains
        self.memory = self.host.total + (self.worst.total if on_cpu else weights)
        self.device = 0 if on_cpu else self.worst.total
        self.volume = volume.volume(config, _tokenizer(config.model))
        self.work = None if self.volume.unknown else self._work()

    def _work(self) -> dict[str, float]:
        config, found, one = self.config, self.volume, work(self.model)
        length = volume.length(config, found)
        tokens = config.rounds.count * volume.trained(config, found)
        parts = {"training": tokens * one.training(length)}
        for name, read in volume.read(config, found).items():
            parts[name] = read * one.reading(config.training.max_length)
        return parts

    @property
    def place(self) -> tuple[str, str, int]:
        """Where it is computed: device, data type, threads."""
        engine = self.config.engine
        return engine.device, self.config.model.dtype, engine.threads

    def lines(self) -> Iterator[Line]:
        """Parameters, memory, disk, tokens and time."""
        config, model = self.config, self.model
        yield (
            "trained",
            f"{model.parameters(trained=True):,} of {model.parameters():,} parameters "
            f"({config.model.method})",
        )
        if problem := _no_weights(config.model):
            yield "MISSING", f"{problem}; enough to count, not to run"
        for need in [self.host, *self.phases]:
            yield "memory", f"{need.phase} {size(need.total)}: {_parts(need.parts)}"
        gpu = f" and {size(self.device)} of the GPU" if self.device else ""
        yield "peak", f"{size(self.memory)}{gpu}"
        yield "disk", f"{size(sum(self.disk.values()))}: {_parts(self.disk)}"
        if self.work is None:
            yield (
                "time",
                f"cannot be told: how many records client {', '.join(self.volume.unknown)} has is "
                "not known here; set its max_records",
            )
            return
        tokens = volume.scaled(volume.trained(config, self.volume)).strip()
        yield "tokens", f"about {tokens} a round ({self.volume.how})"
        yield "compute", volume.parts(self.work)
        yield "time", speed.told(sum(self.work.values()), *self.place)


def model_of(config: cfg.Model) -> Outline | str:
    """The model's outline, from its config.json alone; in words why there is none."""
    if not hub.is_hub_name(config):
        folder = bundled_path() if config.base == BUNDLED else Path(config.base)
    elif file := hub.config_file(config):
        folder = file.parent
    else:
        token = "" if os.environ.get("HF_TOKEN") else ", with HF_TOKEN set if the base is gated,"
        return (
            f"unknown: {config.base} is not cached; `hf download {config.base} "
            f"config.json --revision {config.revision}`{token} is enough to count"
        )
    return _counted(config.model_dump_json(), folder)


@lru_cache(maxsize=32)  # arms that differ in their rates alone are counted once
def _counted(config: str, folder: Path) -> Outline:
    check_config(folder)
    return outline(cfg.Model.model_validate_json(config), folder)


@lru_cache(maxsize=8)
def _tokenizer_in(base: str) -> Any | None:
    try:
        return load_tokenizer(cfg.Model(base=base))
    except DataError:  # a folder with config.json alone is enough to count
        return None


def _tokenizer(config: cfg.Model) -> Any | None:
    """The base's tokenizer where its files lie here; nothing is downloaded."""
    return None if hub.is_hub_name(config) else _tokenizer_in(config.base)


def _no_weights(config: cfg.Model) -> str | None:
    """What a base's local folder lacks for a run."""
    if hub.is_hub_name(config):
        return None
    try:
        folder_of(config)
    except DataError as error:
        return str(error)
    return None


# --- all runs together ----------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """The runs of one config: what an arm needs, and how many runs `each` arm has in a sweep.

    A sweep's runs are taken to need what their arm needs.
    """

    arms: Sequence[Needs]
    each: int
    at_once: int

    def time(self) -> Iterator[Line]:
        """How long all runs take together, where more than one can be told."""
        count = self.each * len(self.arms)
        works = [sum(need.work.values()) for need in self.arms if need.work is not None]
        places = {need.place for need in self.arms}
        if count < 2 or len(works) < len(self.arms) or len(places) > 1:
            return
        (place,) = places
        beside = self.at_once
        text = f"{count} runs" + (f", {beside} side by side" if beside > 1 else "")
        yield "in all", f"{text}: {speed.told(self.each * sum(works) / beside, *place)}"

    def fits(self, output: Path) -> Iterator[Line]:
        """Whether machine and needs go together; advice where they do not."""
        # the most demanding arms may run at the same time
        memory_ = sum(sorted((need.memory for need in self.arms), reverse=True)[: self.at_once])
        disk = self.each * sum(sum(need.disk.values()) for need in self.arms)
        folder = next(p for p in (output, *output.absolute().parents) if p.exists())
        checks: list[tuple[str, int, int | None]] = [
            ("memory", memory_, memory_bytes()),
            ("disk", disk, shutil.disk_usage(folder).free),
        ]
        devices = {need.config.engine.device for need in self.arms} - {"cpu"}
        for device in sorted(devices):
            index = int(device.partition(":")[2] or 0)
            users = [need.device for need in self.arms if need.config.engine.device == device]
            total = sum(sorted(users, reverse=True)[: self.at_once])
            if index >= torch.cuda.device_count():
                yield "NO GPU", f"{device}: the config asks for {size(total)} of one"
                continue
            checks.append((device, total, torch.cuda.get_device_properties(index).total_memory))
        for what, needed, have in checks:
            verdict = "unknown" if have is None else "fits" if needed <= have else "DOES NOT FIT"
            of = "" if have is None else f" of {size(have)}"
            yield verdict, f"{what}: about {size(needed)}{of}"
            if verdict == "DOES NOT FIT":
                for text in self._advice(what):
                    yield "  advice", text

    def _advice(self, what: str) -> Iterator[str]:
        worst = max(self.arms, key=lambda need: need.device or need.memory)
        if what == "memory" and self.at_once > 1:
            yield f"engine.threads={cores()}: one arm at a time"
        yield from memory.advice(worst.config, "disk" if what == "disk" else worst.worst.phase)


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


def _parts(parts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {size(count)}" for name, count in parts.items())


def size(count: int) -> str:
    """Bytes with a unit, three digits."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:.3g} TB"
