"""The cache of keys and values in a model's forward pass, by the name the installed library has."""

from __future__ import annotations

import inspect
from functools import lru_cache
from typing import Any

from transformers import DynamicCache


def caching(cache: DynamicCache | None) -> dict[str, Any]:
    """Keyword arguments of a forward pass: what was read before is in `cache`, or nothing is."""
    return {_name(): cache, "use_cache": cache is not None}


@lru_cache(maxsize=1)
def _name() -> str:
    """`cache`; before transformers 5.24 `past_key_values`, which 5.40 no longer takes."""
    from transformers import LlamaForCausalLM  # slow to load

    known = inspect.signature(LlamaForCausalLM.forward).parameters
    return "cache" if "cache" in known else "past_key_values"
