"""Small things about files: flushing, names while half, hashes; and values that JSON holds."""

from __future__ import annotations

import errno
import hashlib
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from fedmem.errors import RunError


@contextmanager
def told(target: Path) -> Iterator[None]:
    """Turns a disk that is full into one clear line about `target`, whichever library wrote."""
    try:
        yield
    except Exception as error:
        # safetensors and Arrow raise their own errors, with the system's text inside
        if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
            raise RunError(
                f"{target}: no space left on the disk; free some, then go on with "
                "`fedmem run CONFIG --resume`"
            ) from None
        raise


def part(target: Path) -> Path:
    """Where `target` is written first: hidden, in the same folder, so that a rename is enough."""
    return target.with_name(f".{target.name}.{os.getpid()}.part")


def sync(path: Path) -> None:
    """Flush a file, or a folder's names, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def plain(value: object) -> object:
    """Only what JSON can hold: paths to text, NumPy numbers and arrays to Python's, NaN to null."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(value, key=repr) if isinstance(value, set | frozenset) else value
        return [plain(inner) for inner in items]
    if isinstance(value, Path):
        return value.as_posix()
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return value
