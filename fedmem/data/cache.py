"""Arrays that are made once, kept on disk under the hash of what they were made of, and mapped.

An entry is a folder: a file of raw numbers an array, and `entry.json` with their sizes and SHA-256,
written last. It is written aside, flushed and renamed; read, it is checked whole. What is torn,
changed or not fedmem's is made anew. Entries hold token ids of records: nobody else may look in.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from fedmem.errors import DataError
from fedmem.files import sha256, sync

Say = Callable[[str], None]
Put = Callable[[str, NDArray[Any]], None]  # appends to the array of that name
Make = Callable[[Put], dict[str, Any]]  # puts all arrays, returns what else is to be kept (as JSON)

PRIVATE = 0o700
ENTRY = "entry.json"


@dataclass(frozen=True)
class Entry:
    """arrays: 1-d, read-only, those on disk as memory maps. `made`: now, not found in the cache."""

    arrays: dict[str, NDArray[Any]]
    extra: dict[str, Any]
    made: bool = False


def default_folder() -> Path:
    """`$FEDMEM_CACHE`, else `fedmem` in `$XDG_CACHE_HOME` or `~/.cache`."""
    if chosen := os.environ.get("FEDMEM_CACHE"):
        return Path(chosen)
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "fedmem"


def in_memory(make: Make) -> Entry:
    """An entry that touches no disk."""
    files: dict[str, BytesIO] = {}
    kinds: dict[str, np.dtype[Any]] = {}

    def put(name: str, values: NDArray[Any]) -> None:
        kinds.setdefault(name, values.dtype)
        files.setdefault(name, BytesIO()).write(values.astype(kinds[name], copy=False).tobytes())

    extra = make(put)
    arrays = {name: np.frombuffer(file.getvalue(), kinds[name]) for name, file in files.items()}
    return Entry(arrays, extra, made=True)


class Cache:
    """Entries in a folder (null: the default one). `say` is told what takes long."""

    def __init__(self, folder: Path | None, say: Say) -> None:
        self.folder = folder or default_folder()
        self.say = say
        self._refused = False

    def entry(self, kind: str, key: dict[str, Any], make: Make) -> Entry:
        """The entry of this key: from disk if it is there and whole, else made and kept.

        Where nothing can be written, it is kept for this process only, in a temporary file. Raises
        DataError naming the folder if the disk is full, and whatever `make` raises.
        """
        digest = _digest({"kind": kind, "code": _code(), **key})
        path = self.folder / f"{kind}-{digest[:32]}"
        if found := _load(path, digest):
            return found
        lock = FileLock(path.with_suffix(".lock"))
        try:
            self.folder.mkdir(PRIVATE, parents=True, exist_ok=True)
            try:
                lock.acquire(blocking=False)
            except Timeout:
                self.say("waiting for another process, which encodes the same records")
                lock.acquire()
        except (OSError, NotImplementedError) as error:  # the latter: no locks on this file system
            return self._temporary(digest, make, error)
        try:
            return _load(path, digest) or _keep(path, digest, make)
        finally:
            lock.release()

    def _temporary(self, digest: str, make: Make, why: Exception) -> Entry:
        if not self._refused:
            self._refused = True
            logging.getLogger("fedmem").warning(
                "fedmem: %s cannot be written (%s): records are encoded anew in every run; "
                "set data.cache to a folder of yours",
                self.folder,
                getattr(why, "strerror", why),
            )
        # what is mapped stays readable when the files have no name any more
        with tempfile.TemporaryDirectory(prefix="fedmem-", ignore_cleanup_errors=True) as folder:
            return _keep(Path(folder) / "entry", digest, make)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@cache
def _code() -> str:
    """Digest of the code that reads and encodes records: what older code made is not read."""
    files = sorted(Path(__file__).parent.rglob("*.py"))
    return _digest([hashlib.sha256(file.read_bytes()).hexdigest() for file in files])


def _load(path: Path, digest: str) -> Entry | None:
    """The entry in the folder, or None if it is not there, of another key, or not whole."""
    try:
        told = json.loads((path / ENTRY).read_bytes())
        if told["key"] != digest:
            return None
        arrays = {}
        for name, (kind, size, held) in told["arrays"].items():
            file = path / f"{name}.bin"
            if file.stat().st_size != size or sha256(file) != held:
                return None
            kind = np.dtype(kind)
            # an empty file cannot be mapped
            arrays[name] = np.asarray(np.memmap(file, kind, "r")) if size else np.empty(0, kind)
        return Entry(arrays, told["extra"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _keep(path: Path, digest: str, make: Make) -> Entry:
    """Make the entry and write it to `path`: whole or not at all. The caller holds its lock."""
    part = path.with_name(f".{path.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
    try:
        part.mkdir(PRIVATE)
        _write(part, digest, make)
        shutil.rmtree(path, ignore_errors=True)  # there, but not whole
        part.rename(path)
        sync(path.parent)
    except OSError as error:
        raise DataError(
            f"{path.parent}: cannot be written: {error.strerror}; free space, or set data.cache "
            "to another folder"
        ) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    entry = _load(path, digest)
    if entry is None:
        raise DataError(f"{path.parent}: what was written there reads back as something else")
    return replace(entry, made=True)


def _write(folder: Path, digest: str, make: Make) -> None:
    files: dict[str, BinaryIO] = {}
    kinds: dict[str, np.dtype[Any]] = {}

    def put(name: str, values: NDArray[Any]) -> None:
        if name not in files:
            kinds[name] = values.dtype
            files[name] = (folder / f"{name}.bin").open("wb")
        files[name].write(values.astype(kinds[name], copy=False).tobytes())

    try:
        extra = make(put)
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
    finally:
        for file in files.values():
            file.close()
    arrays = {}
    for name, kind in kinds.items():
        whole = folder / f"{name}.bin"
        arrays[name] = (kind.str, whole.stat().st_size, sha256(whole))
    text = json.dumps({"key": digest, "arrays": arrays, "extra": extra}, indent=1)
    with (folder / ENTRY).open("w", encoding="utf-8") as entry:
        entry.write(text)
        entry.flush()
        os.fsync(entry.fileno())
    sync(folder)
