"""Magnitude pruning of the merged model: its smallest weights are set to zero.

torch.nn.utils.prune masks the parameters of a module; here there are arrays at the server, and the
zeros must be in them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedmem.claims import Claim, History
from fedmem.config import Config
from fedmem.config import defences as cfg
from fedmem.defences.turn import Turn
from fedmem.errors import RunError

if TYPE_CHECKING:
    from fedmem.model.state import Arrays

Mask = NDArray[np.bool_]
IN_A_BLOCK = re.compile(r"(^|\.)\d+\.")


class Prune:
    """Sets the `share` smallest weights of all linear layers in the model's blocks to zero.

    Those are the matrices below a numbered block: embeddings, the output head, norms and biases
    stay. Where products are averaged: the weights that LoRA adapts. Exactly round(share * n) of n
    go, the first of equals.
    """

    side: tuple[str, ...] = ()

    def __init__(self, settings: cfg.Prune, config: Config) -> None:
        self.settings = settings

    def on_client_update(self, update: Arrays, turn: Turn) -> Arrays:
        """Nothing at the clients."""
        return update

    def on_aggregate(self, mean: Arrays, turn: Turn) -> Arrays:
        """The update that leads to the pruned model. Figure: `zero`, the share of zeros in it.

        A delta that leads to zero is float64: it ends at zero only if nothing is rounded before it
        is added. Raises RunError where no array is a linear layer's.
        """
        if self.settings.when == "last" and not turn.last:
            return mean
        names = linear(mean)
        if not names:
            raise RunError("defences: prune: the model's arrays hold no linear layer in a block")
        magnitudes = {n: np.abs(turn.base(n) + (turn.received[n] + mean[n])) for n in names}
        masks = smallest(magnitudes, self.settings.share, self.settings.per)
        zeros = sum(np.count_nonzero(masks[n] | (magnitudes[n] == 0)) for n in names)
        turn.figures["zero"] = zeros / sum(mask.size for mask in masks.values())
        return mean | {
            n: np.where(mask, -(turn.received[n].astype(np.float64) + turn.base(n)), mean[n])
            for n, mask in masks.items()
        }

    def claim(self, history: History) -> Claim:
        """As far as the attacks measure it, and no further."""
        s = self.settings
        last = s.when == "last"
        told = [v for m in history.server for n, v in m.items() if n.endswith(".prune.zero")]
        notes = ["the server sees the model before it is pruned"]
        if last:
            notes.append("participants saw every round's model unpruned; the last one alone is cut")
        return Claim(
            what="magnitude pruning",
            where=f"the server, on the merged model after {'the last' if last else 'every'} round: "
            f"the smallest {s.share:.0%} of the linear weights, "
            + ("layer by layer" if s.per == "layer" else "over all layers"),
            protects="may take out what small weights remember, for whoever gets the "
            + ("released model" if last else "models")
            + "; how far is for the attacks here to say",
            trust="the server, to prune before it hands the model on",
            figures={"share": s.share} | ({"zero": told[-1]} if told else {}),
            notes=tuple(notes),
        )


def linear(arrays: Arrays) -> list[str]:
    """The names of linear layers' weights: matrices below a numbered block, no LoRA factors."""
    return [
        name
        for name, array in arrays.items()
        if array.ndim == 2 and IN_A_BLOCK.search(name) and ".lora_" not in name
    ]


def smallest(magnitudes: Arrays, share: float, per: str) -> dict[str, Mask]:
    """Where the smallest `share` of each array (per layer), or of all of them together, stands."""
    if per == "layer":
        return {name: _smallest([array], share)[0] for name, array in magnitudes.items()}
    return dict(zip(magnitudes, _smallest(magnitudes.values(), share), strict=True))


def _smallest(arrays: Iterable[NDArray[np.float32]], share: float) -> list[Mask]:
    parts = list(arrays)
    flat = np.concatenate([part.ravel() for part in parts])
    count = round(share * flat.size)
    mask = np.zeros(flat.size, np.bool_)
    if count:
        limit = np.partition(flat, count - 1)[count - 1]
        mask = flat < limit
        # of equal weights (a base in bfloat16 has many) the first, so that the count is exact
        mask[np.flatnonzero(flat == limit)[: count - np.count_nonzero(mask)]] = True
    ends = np.cumsum([part.size for part in parts])[:-1]
    return [m.reshape(p.shape) for m, p in zip(np.split(mask, ends), parts, strict=True)]
