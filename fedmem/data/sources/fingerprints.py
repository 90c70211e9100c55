"""Which data a run was made of: SHA-256 of files and folders."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fedmem.data.rows import folder, readable
from fedmem.files import sha256


def of_file(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with readable(path):
        return sha256(path)


def of_folder(path: Path) -> str:
    """Hex digest over the names (inside the folder) and bytes of all files, in order of the names.

    Files that begin with a dot or with `cache-` (what `datasets` adds) do not count.
    """
    files = {file.relative_to(folder(path)).as_posix(): file for file in path.rglob("*")}
    digest = hashlib.sha256()
    for name, file in sorted(files.items()):
        if file.is_file() and not file.name.startswith((".", "cache-")):
            digest.update(f"{len(name)}:{name}:{of_file(file)}\n".encode())
    return digest.hexdigest()
