"""On what a run was made: versions, machine, threads, commit. Imports no heavy library."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LIBRARIES = (
    "torch",
    "transformers",
    "peft",
    "flwr",
    "tokenizers",
    "safetensors",
    "numpy",
    "pyarrow",
    "pydantic",
    "sacrebleu",
    "rapidfuzz",
)


def fedmem_version() -> str:
    """The installed version, or `source` when run from a checkout that is not installed."""
    return _version("fedmem") or "source"


def library_versions() -> dict[str, str | None]:
    """Library -> version, null where it is not installed."""
    return {name: _version(name) for name in LIBRARIES}


def cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def device() -> str:
    """`cuda: <name>` or `cpu`; asks torch only if the caller has loaded it already."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return f"cuda: {torch.cuda.get_device_name()}"
    return "cpu"


def git_commit() -> str | None:
    """The commit of the checkout that fedmem is run from, `+` if changed; None if installed."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None  # an enclosing repository would be somebody else's
    try:
        head = _git(root, "rev-parse", "HEAD")
        return head + "+" if _git(root, "status", "--porcelain") else head
    except (OSError, subprocess.SubprocessError):
        return None


def environment(threads: int) -> dict[str, object]:
    """What a manifest says about where the run was made. `threads` changes sums, so it counts."""
    return {
        "fedmem": fedmem_version(),
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "versions": library_versions(),
        "platform": platform.platform(),
        "device": device(),
        "cores": cores(),
        "threads": threads,
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()
