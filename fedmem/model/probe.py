"""Whether a base reads the way fedmem's short cuts assume: tried out at the start of a run.

Training needs a causal model; attacks decode from a cache that is cut back; utility reads several
options in one row, under a mask and with positions of its own. Architectures that ignore one of
these (ALiBi ignores positions, recurrent ones the mask and the cut) would give wrong numbers
silently, so a few tokens are read in each way and compared with a plain reading.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from fedmem.attacks.scoring import score
from fedmem.data.records import EncodedQA
from fedmem.errors import ConfigError, DataError
from fedmem.evaluation.options import option_logprobs
from fedmem.model.cache import caching

# of the logits' spread: what kernels differ by in this precision, with room
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.2, torch.float16: 0.05}
TOKENS = 8


def check_lengths(model: Any, wanted: int) -> None:
    """Whether `wanted` tokens can be read with every token in sight. ConfigError if not."""
    config = model.config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and wanted > positions:
        raise ConfigError(
            "training.max_length and attack.continuation (or attack.recall_tokens): "
            f"{wanted} tokens together exceed the base's {positions} positions; lower one"
        )
    window = getattr(config, "sliding_window", None)
    slides = "sliding_attention" in (getattr(config, "layer_types", None) or ["sliding_attention"])
    if window is not None and slides and wanted > window:
        raise ConfigError(
            "training.max_length and attack.continuation (or attack.recall_tokens): "
            f"{wanted} tokens together exceed the base's sliding window of {window}, behind which "
            "it sees nothing; lower one"
        )


def check_reading(model: Any, dtype: str) -> None:
    """Raise DataError naming the architecture and what it cannot do; the model is in eval mode."""
    name = (getattr(model.config, "architectures", None) or [model.config.model_type])[0]
    rows = model.get_input_embeddings().num_embeddings
    ids = torch.arange(TOKENS, device=next(model.parameters()).device)[None] * 7 % rows
    tolerance = TOLERANCE[getattr(torch, dtype)]
    for check, lacks in (
        (_causal, "lets a token see later ones: it is no causal language model"),
        (_cached, "does not go on from a cache that is cut back, which the attack needs"),
        (_packed, "does not read several options in one row, which measuring utility needs"),
    ):
        try:
            finite = bool(_logits(model, ids, use_cache=False).isfinite().all())
            apart = check(model, ids) if finite else 0.0
        except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
            why = (str(error).strip() or type(error).__name__).splitlines()[0][:150]
            raise DataError(f"model.base: {name} {lacks} ({why}); take another base") from None
        if not finite:
            raise DataError(f"model.base: {name} gives NaN or infinity in {dtype}; take another")
        if not apart < tolerance:
            raise DataError(f"model.base: {name} {lacks}; take another base")


def _logits(model: Any, ids: Tensor, **more: Any) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = model(input_ids=ids, **more).logits.float()
    return logits


def _apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / one.std().clamp(min=1e-6))


def _causal(model: Any, ids: Tensor) -> float:
    other = ids.clone()
    other[:, 4:] = other[:, 4:].flip(-1)
    one, two = (_logits(model, x, use_cache=False)[:, :4] for x in (ids, other))
    return _apart(one, two)


def _cached(model: Any, ids: Tensor) -> float:
    cache = DynamicCache()
    _logits(model, ids[:, :6].repeat(2, 1), **caching(cache))
    cache.batch_select_indices(torch.tensor([1], device=ids.device))
    cache.crop(-3)
    after = _logits(model, ids[:, 3:5], **caching(cache))
    return _apart(_logits(model, ids, use_cache=False)[:, 3:5], after)


def _packed(model: Any, ids: Tensor) -> float:
    tokens = ids[0].cpu().numpy().astype(np.int32)
    prompt, options = tokens[:4], (tokens[4:6], tokens[5:8])
    question = EncodedQA("probe", "probe", prompt, options, 0, True)
    packed = option_logprobs(model, [question])[0]
    plain = score(model, [np.concatenate((prompt, option)) for option in options])
    alone = [one.logprob[3:] for one in plain]
    spread = float(_logits(model, ids, use_cache=False).std().clamp(min=1e-6))
    gaps = [np.abs(a - b).max() for a, b in zip(packed, alone, strict=True)]
    return float(max(gaps)) / spread
