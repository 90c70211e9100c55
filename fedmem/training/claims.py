"""What the ways of training claim to protect: none of them gives a guarantee of privacy."""

from __future__ import annotations

from fedmem.claims import Claim, History
from fedmem.config import Config
from fedmem.config.objectives import Goldfish

TRUST = "every client, to train as the config says"
USUAL_NORM = 1.0  # what most recipes clip to, and the config's default
MEASURED = "; how far is for the attacks here to say"


def claims(config: Config, history: History) -> list[Claim]:
    """What was switched on: Goldfish, NEFTune, LoRA dropout, clipping below the usual norm.

    Record-level DP-SGD clips each record's gradient in place of the batch's and speaks for itself.
    """
    t, model = config.training, config.model
    found = []
    if isinstance(t.objective, Goldfish):
        found.append(_goldfish(t.objective, history))
    if t.neftune is not None:
        found.append(_neftune(t.neftune))
    if model.method == "lora" and model.lora.dropout:
        found.append(_dropout(model.lora.dropout))
    return found + [c for c, low in _clipping(config, history) if low]


def usual(config: Config, history: History) -> list[Claim]:
    """What belongs to plain training and still holds something back: LoRA's rank, usual clipping.

    To be told beside the others; a run with these alone is an undefended one.
    """
    found = [_rank(config.model.lora.r)] if config.model.method == "lora" else []
    return found + [c for c, low in _clipping(config, history) if not low]


def _goldfish(settings: Goldfish, history: History) -> Claim:
    hashed = settings.strategy == "hashed"
    dropped = history.mean("dropped")
    notes = ["a dropped token can still be guessed from what is learned around it"]
    if hashed:
        notes.append(f"the first {settings.context} tokens of an example are never dropped")
    notes.append("the training loss told is that of the tokens kept")
    return Claim(
        what=f"Goldfish loss, {settings.strategy}",
        where=f"training: one token in {settings.k} carries no loss, "
        + (f"by a hash of the {settings.context} before it" if hashed else "by its position"),
        protects="a passage is not learned word for word" + MEASURED,
        trust=TRUST,
        figures={"k": float(settings.k)} | ({} if dropped is None else {"dropped": dropped}),
        notes=tuple(notes),
    )


def _neftune(alpha: float) -> Claim:
    return Claim(
        what="NEFTune",
        where="training: uniform noise on the input embeddings",
        protects="blurs what single texts are learned by" + MEASURED,
        trust=TRUST,
        figures={"alpha": alpha},
        notes=("made for better fine-tuning, not for privacy",),
    )


def _rank(rank: int) -> Claim:
    return Claim(
        what="LoRA",
        where=f"training: updates of rank {rank}, the base's weights are frozen",
        protects="leaves less room to learn notes by heart" + MEASURED,
        trust=TRUST,
        figures={"rank": float(rank)},
        notes=("it also learns less per step: compare at equal utility",),
    )


def _dropout(share: float) -> Claim:
    return Claim(
        what="LoRA dropout",
        where="training: inputs of the adapters are dropped at random",
        protects="makes notes harder to learn by heart" + MEASURED,
        trust=TRUST,
        figures={"dropout": share},
    )


def _clipping(config: Config, history: History) -> list[tuple[Claim, bool]]:
    """The claim, and whether the norm is below the usual one; empty without clipping."""
    norm = config.training.max_grad_norm
    if norm is None or config.training.dp is not None:
        return []
    told = {name: history.mean(name) for name in ("grad_norm", "grad_clipped")}
    rescaled = ("AdamW rescales gradients: clipping changes little there",)
    claim = Claim(
        what="gradient clipping",
        where=f"training: the L2 norm of a batch's gradient is at most {norm:g}",
        protects="bounds a step, not what one record does to it" + MEASURED,
        trust=TRUST,
        figures={"max_grad_norm": norm} | {n: v for n, v in told.items() if v is not None},
        notes=rescaled if config.training.optimizer == "adamw" else (),
    )
    return [(claim, norm < USUAL_NORM)]
