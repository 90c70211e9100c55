"""What a run needs of memory and disk, by part, before anything is loaded or trained.

Bytes that are alive at once are counted by running the model's code on fake tensors
(`fedmem.model.outline`). What a process then takes of a CPU's memory is more: malloc keeps freed
blocks in a heap with holes. That factor was measured (tests/model/test_memory.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from fedmem.attacks import scoring, true_prefix
from fedmem.config import Config
from fedmem.model.outline import Outline

LIBRARIES = 600_000_000  # a process that has imported torch, transformers, peft and flwr
HEAP = {"cpu": 2.1, "cuda": 1.15}  # memory taken for a byte alive: glibc; torch's own allocator
FLOAT = 4
LOGITS = 4  # float32 copies of a batch's logits: logits, log-softmax, and both their gradients
# Trained arrays in float32 units beside those in the model. Kept: round 0's, and the server's.
# A round: the client's copy, its update as arrays and as message, the server's copy of it, and the
# running sum in float64, which counts twice.
ARRAYS = 8
# Dense deltas under aggregation.rule product: round 0's, those sent, the message and its copy at
# the client, the new ones, and how they differ from those sent.
DELTAS = 6


@dataclass(frozen=True)
class Need:
    """Bytes by part, as they stand at the peak of a phase."""

    phase: str
    parts: dict[str, int]

    @property
    def total(self) -> int:
        """All parts together."""
        return sum(self.parts.values())


def training(outline: Outline, config: Config) -> Need:
    """A step of local training at `training.max_length`, on the device."""
    t, trained = config.training, outline.parameters(trained=True)
    rows = t.batch_size if t.dp is None else t.dp.physical_batch_size or t.batch_size
    step = outline.step(rows, t.max_length)
    gradients = FLOAT * trained
    logits = LOGITS * FLOAT * rows * t.max_length * outline.vocabulary
    logits = min(logits, max(0, step - gradients))
    states = 2 if t.optimizer == "adamw" else int(t.momentum > 0)
    factor = HEAP[config.engine.device.partition(":")[0]]
    return Need(
        "training",
        {
            "weights": outline.weights(),
            **_kept(outline, config),
            # DP-SGD: one for each row, and their clipped sum
            "gradients": gradients if t.dp is None else (rows + 2) * gradients,
            "optimizer": states * FLOAT * trained,
            "activations": int(factor * max(0, step - logits - gradients)),
            "logits": int(factor * logits),
        },
    )


def attack(outline: Outline, config: Config) -> Need:
    """The scoring pass with the largest batch: whole notes, or windows with their cache."""
    a, length = config.attack, config.training.max_length
    levels = config.data.canaries.levels
    notes = max(1, sum(level.notes for level in levels) + config.data.canaries.twins)
    rows = min(notes, max(1, scoring.TOKENS_A_BATCH // length))
    needs = [outline.reading(rows, length, 0, cache=False)]
    fitting = [n for n in a.prefix_lengths if n + 1 + a.continuation <= length]
    most = true_prefix.LOGITS_A_BATCH // (outline.vocabulary * (a.continuation + 1))
    for n in {min(fitting), max(fitting)} if fitting else ():
        width = n + a.continuation + 1
        rows = min(notes, max(1, min(true_prefix.TOKENS_A_BATCH // width, most)))
        needs.append(outline.reading(rows, width, a.continuation + 1, cache=True))
    factor = HEAP[config.engine.device.partition(":")[0]]
    parts = {"weights": outline.weights(), **_kept(outline, config)}
    return Need("attack", parts | {"reading": int(factor * max(needs))})


def _kept(outline: Outline, config: Config) -> dict[str, int]:
    """The copy of the base below merged weights, where products are averaged."""
    if config.aggregation.rule != "product":
        return {}
    return {"base": sum(w.numel() * w.element_size() for w in outline.adapted())}


def _deltas(outline: Outline, config: Config) -> int:
    """Bytes of one set of dense deltas; 0 where A and B are averaged."""
    product = config.aggregation.rule == "product"
    return FLOAT * sum(w.numel() for w in outline.adapted()) if product else 0


def host(outline: Outline, config: Config, data: int) -> Need:
    """What a process keeps beside the model. data: bytes of the records' files."""
    arrays = ARRAYS * FLOAT * outline.parameters(trained=True)
    if config.rounds.topology == "local":  # the server stores every client's model
        arrays += len(config.data.clients) * FLOAT * outline.parameters(trained=True)
    arrays += DELTAS * _deltas(outline, config)
    return Need("host", {"libraries": LIBRARIES, "arrays": arrays, "data": 2 * data})


def disk(outline: Outline, config: Config) -> dict[str, int]:
    """Bytes a run writes: models of all rounds, the state to resume from, and tables."""
    models = len(config.data.clients) if config.rounds.topology == "local" else 1
    one = _deltas(outline, config) or models * FLOAT * outline.parameters(trained=True)
    notes = sum(level.notes for level in config.data.canaries.levels) + config.data.canaries.twins
    attacks = config.rounds.count // config.attack.every + 2
    return {
        "models": config.rounds.count * one,
        "state": 2 * one,  # the round before's is removed when the next is whole
        # a note's rows of scores, and 20 bytes for each of its tokens
        "tables": 1_000_000 + (2_000 + 20 * config.training.max_length) * notes * attacks,
    }


def advice(config: Config, phase: str) -> list[str]:
    """Settings that lower what the phase needs, the most effective first."""
    model, t = config.model, config.training
    if phase == "disk":
        fewer = "rounds.count: fewer rounds are fewer saved models"
        return ["model.method=lora", fewer] if model.method == "full" else [fewer]
    said = []
    if model.method == "full":
        said.append("model.method=lora: no gradients and optimizer state of the base")
    if model.dtype == "float32" and model.method == "lora":
        said.append("model.dtype=bfloat16: half the weights (slow on CPUs without bfloat16)")
    if phase == "training":
        if t.dp is not None:
            said.append("training.dp.physical_batch_size=1: the same steps, in smaller pieces")
        elif not model.gradient_checkpointing:
            said.append("model.gradient_checkpointing=true: a third slower, few activations")
        if t.batch_size > 1 and t.dp is None:
            said.append(
                f"training.batch_size=1 training.accumulation={t.batch_size * t.accumulation}: "
                "the same steps, in smaller pieces"
            )
        said.append(f"training.max_length: below {t.max_length}")
    return said
