"""A run's manifest: what kind of run a directory is, of which config, and whether it is whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from fedmem.config import Config
from fedmem.errors import DataError
from fedmem.loading import config_hash8

MANIFEST = "manifest.json"
FORMAT = 2  # of a run directory: raised when its files change, so that no old one is misread
Kind = Literal["run", "arms", "sweep"]  # one run, or several under one directory


def read_manifest(folder: Path) -> dict[str, Any]:
    """A run's manifest. Raises DataError where there is none that this version can read."""
    file = folder / MANIFEST
    if not file.is_file():
        raise DataError(f"{folder}: is not a run directory (it has no {MANIFEST})")
    try:
        manifest: dict[str, Any] = json.loads(file.read_bytes())
        manifest["status"], manifest["kind"], manifest["started"]
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{file}: is not a manifest that fedmem wrote") from None
    if manifest.get("format") != FORMAT:
        raise DataError(
            f"{folder}: a run directory of format {manifest.get('format', 1)}, written by fedmem "
            f"{manifest.get('fedmem')}; this fedmem reads format {FORMAT}"
        )
    return manifest


def find(config: Config, kind: Kind = "run") -> Path | None:
    """The newest directory under `config.output` of a run of this very config, in any state."""
    hash8 = config_hash8(config)
    for path in sorted(config.output.glob(f"*-{config.name}-{hash8}*"), reverse=True):
        try:
            manifest = json.loads((path / MANIFEST).read_bytes())
            if manifest["config_hash8"] == hash8 and manifest["kind"] == kind:
                return path
        except (OSError, ValueError, KeyError, TypeError):
            continue  # killed before its manifest was written: nothing to go on with
    return None


def is_finished(path: Path) -> bool:
    """Whether the run is whole. Raises DataError as `read_manifest` does."""
    return bool(read_manifest(path)["status"] == "finished")
