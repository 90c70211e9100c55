"""Bases on the Hugging Face hub, at one commit: found in the local cache, or downloaded into it.

Only configs, tokenizers and safetensors of the repository's top folder are ever fetched. A gated
repository needs the environment variable HF_TOKEN, which huggingface_hub reads by itself: fedmem
does not touch it, and quotes no message of the hub, so that nothing of it can get out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedmem.config import model as cfg
from fedmem.errors import ConfigError, DataError

WANTED = ["*.json", "*.safetensors", "tokenizer.model", "merges.txt"]
UNWANTED = ["*/*", "consolidated*", "flax_model*", "tf_model*"]
NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

Say = Callable[[str], None]


def is_hub_name(model: cfg.Model) -> bool:
    """Whether `base` is `org/name` on the hub; what is a folder here is that folder.

    Raises ConfigError for a name that is neither, and for a revision too many or too few.
    """
    base, revision = model.base, model.revision
    if base == "bundled" or Path(base).is_dir():
        if revision is not None:
            raise ConfigError(
                f"model.revision: {base} is not read from the hub; leave the revision away"
            )
        return False
    if base.startswith((".", "/", "~")) or base.endswith("/") or base.count("/") > 1:
        raise DataError(f"model.base: no folder {base}; check the path (it starts at {Path.cwd()})")
    if NAME.fullmatch(base) is None:
        raise ConfigError(
            f"model.base: {base} is no folder here, and no hub name (ORGANISATION/NAME); "
            "give `bundled`, a folder, or a full name such as meta-llama/Llama-3.2-1B"
        )
    if revision is None:
        raise ConfigError(
            f"model.base: no folder {base}; if it is a name on the hub, set model.revision to a "
            "commit's hash (40 hex digits, under `Files and versions`, `History`)"
        )
    return True


def cached(model: cfg.Model) -> Path | None:
    """The snapshot's folder if every file that is needed lies in the local cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        found = snapshot_download(
            model.base,
            revision=model.revision,
            local_files_only=True,
            allow_patterns=WANTED,
            ignore_patterns=UNWANTED,
        )
    except LocalEntryNotFoundError:
        return None
    return Path(found) if _whole(Path(found)) else None


def config_file(model: cfg.Model) -> Path | None:
    """The cached config.json, also where the weights are not cached; None if it is not there."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model.base, "config.json", revision=model.revision)
    return Path(found) if isinstance(found, str) else None


def fetch(model: cfg.Model, say: Say | None = None) -> Path:
    """The snapshot's folder; downloads what is missing. `say` hears how far the download is.

    Raises DataError, naming the repository and what to do, where it cannot be had.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.constants import is_offline_mode
    from huggingface_hub.errors import HfHubHTTPError

    found = cached(model)
    if found is not None:
        return found
    get = f"`hf download {model.base} --revision {model.revision}`"
    elsewhere = f"run {get} on a machine with network and bring its cache, or give a local folder"
    if is_offline_mode():
        raise DataError(
            f"model.base: {model.base} is not in the local cache and HF_HUB_OFFLINE is set; "
            f"{elsewhere}"
        )
    if say is not None:
        say(f"downloading {model.base}")
    more: dict[str, Any] = {} if say is None else {"tqdm_class": _bar(model.base, say)}
    try:
        # asked once: a download by itself tries for half a minute before it gives up
        HfApi().model_info(model.base, revision=model.revision, timeout=20)
        snapshot_download(
            model.base,
            revision=model.revision,
            allow_patterns=WANTED,
            ignore_patterns=UNWANTED,
            **more,
        )
    except HfHubHTTPError as error:
        raise DataError(f"model.base: {_refused(model, error)}") from None
    except Exception as error:  # the client's own errors differ between its versions
        raise DataError(
            f"model.base: {model.base} is no folder here, and the hub cannot be reached or broke "
            f"off ({type(error).__name__}); {elsewhere}"
        ) from None
    found = cached(model)
    if found is None:
        raise DataError(
            f"model.base: {model.base} at {model.revision} lacks config.json or *.safetensors "
            "(fedmem reads no pickled weights); use another revision or base"
        )
    return found


def _refused(model: cfg.Model, error: Exception) -> str:
    """What an HTTP error means for the user; nothing of the hub's answer is quoted."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    name = type(error).__name__
    if name == "RevisionNotFoundError":
        return f"the hub's {model.base} has no revision {model.revision}; check model.revision"
    if name == "GatedRepoError" or status in (401, 403):
        return (
            f"the hub refuses {model.base} (HTTP {status}): it is gated or private, or there is no "
            "such repository; accept its terms on its page and set HF_TOKEN to a token of yours"
        )
    if status == 404:
        return f"the hub has no repository {model.base}; check the name, or give a local folder"
    return f"the hub answers HTTP {status} for {model.base}; try again later"


def _whole(folder: Path) -> bool:
    """Whether config and all weight files that the index names are there."""
    if not (folder / "config.json").is_file():
        return False
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return any(folder.glob("*.safetensors"))
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError):
        return False
    return all((folder / shard).is_file() for shard in shards)


def _bar(name: str, say: Say) -> type:
    """A progress bar class for huggingface_hub that draws nothing and tells `say` every tenth."""
    from tqdm.auto import tqdm  # type: ignore[import-untyped, unused-ignore]

    told = -1

    class Bar(tqdm):  # type: ignore[misc, unused-ignore]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self._counts = kwargs.get("unit") == "B"
            super().__init__(*args, **kwargs | {"disable": True})

        def update(self, n: float | None = 1) -> None:
            nonlocal told
            self.n += n or 0  # a disabled bar does not count by itself
            if self._counts and self.total:
                tenth = int(10 * self.n / self.total)
                if tenth > told:
                    told = tenth
                    say(f"downloading {name}: {10 * tenth} % of {self.total / 1e9:.2f} GB")

    return Bar
