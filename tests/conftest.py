"""Settings for all tests, and a tiny base model for those that need one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tiny import Memorised

# A busy machine is no fault of an example: no time limit for each.
settings.register_profile("fedmem", deadline=None, max_examples=60)
settings.load_profile("fedmem")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Token ids are kept in a folder of the tests', in child processes too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDMEM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


# `tiny` brings torch and transformers: imported only where a test asks for a model.
@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny random Llama with its tokenizer. Not to be changed: copy it."""
    from tiny import save_base

    return save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def memorised(base_folder: Path) -> Memorised:
    """The tiny model, fine-tuned on one note until it knows it by heart. Not to be changed."""
    from tiny import memorise

    return memorise(base_folder)
