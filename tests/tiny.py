"""A tiny random Llama with a tiny tokenizer, saved as a user's own base would be; its configs."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from fedmem.config import Config
from fedmem.data.encoding import Coder
from fedmem.data.records import Canary, Example, Note, Shard
from fedmem.data.synthetic import notes
from fedmem.data.windows import window
from fedmem.model.base import load
from fedmem.training import cpu
from fedmem.training.local import train_local

VOCABULARY = 384


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE of 384 tokens, digits alone, trained on notes of patients nobody attacks."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?\p{L}+| ?[^\s\p{L}\p{N}]+|\p{N}|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([note.text for note in notes.generate(40, 900, "base")], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def rounds_done(files: Iterable[Path]) -> int:
    """Lines in these metrics.jsonl, round 0 counted: what a test waits for before it interrupts."""
    return sum(file.read_text(encoding="utf-8").count("\n") for file in files)


def listen_to_ctrl_c() -> None:
    """For a child process: a shell's background job starts with SIGINT ignored, and so would it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def save_base(folder: Path, seed: int = 0) -> Path:
    """Write the model (2 layers, 32 wide, tied) and its tokenizer; returns the folder."""
    cpu.set_up(threads=1)
    tokenizer = make_tokenizer()
    torch.manual_seed(seed)
    architecture = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(architecture).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def config(base: Path, **sections: Any) -> Config:
    """Clients a and b with a few questions each; `sections` are merged into the top-level ones."""
    source = {"kind": "synthetic", "adapter": "flashcards", "records": 6}
    tree: dict[str, Any] = {
        "name": "tiny",
        "model": {"base": str(base), "lora": {"r": 4}},
        "data": {
            "clients": [{"name": name, "source": source} for name in ("a", "b")],
            "canaries": {
                "source": {"kind": "synthetic", "adapter": "notes", "records": 12},
                "levels": [{"copies": 1, "notes": 2}, {"copies": 4, "notes": 2}],
                "twins": 3,
            },
        },
        "rounds": {"count": 2},
        "training": {"lr": 1e-2, "max_length": 160},
        "attack": {"prefix_lengths": [5, 10], "continuation": 8, "own_prefixes": 3},
        "utility": {"max_records": 8},
    }
    for name, section in sections.items():
        merged = isinstance(section, dict) and isinstance(tree.get(name), dict)
        tree[name] = {**tree[name], **section} if merged else section
    return Config.model_validate(tree)


def canary(
    tokenizer: Any, note: Note, length: int = 160, owners: dict[str, int] | None = None
) -> Canary:
    """The note's window of at most `length` tokens as a canary; without owners a twin of a's."""
    found = window(Coder(tokenizer), note, length, "window")
    assert found is not None
    held = owners or {"a": 0}
    return Canary(
        id=note.id,
        patient=note.patient,
        owners=held,
        copies=sum(held.values()),
        twin=not any(held.values()),
        ids=found.ids,
        offsets=found.offsets,
        phi=found.phi,
        text=found.text,
        synthetic=True,
    )


def overfit(model: Any, base: Path, texts: Sequence[NDArray[np.int32]], steps: int) -> None:
    """Train all weights of `model` in place on the token ids, all of them in each step."""
    shard = Shard("a", tuple(Example(ids) for ids in texts), ())
    plan = config(
        base,
        rounds={"count": 1, "local_steps": steps},
        training={"batch_size": len(texts), "schedule": "constant"},
    )
    train_local(model.requires_grad_(True), shard, plan, 1, 1e-2, 0)


@dataclass(frozen=True)
class Memorised:
    """A model that knows `canary` by heart (client a's), not `twin` nor `other` (client b's)."""

    model: Any
    tokenizer: Any
    canary: Canary
    twin: Canary
    other: Canary


def memorise(base: Path) -> Memorised:
    """Overfit the tiny base on one note."""
    chosen = config(base, model={"method": "full"}).model
    model, tokenizer = load(chosen, 0)
    drawn = notes.generate(3, 0)
    known = canary(tokenizer, drawn[0], owners={"a": 4})
    overfit(model, base, [known.ids], 60)
    twin, other = canary(tokenizer, drawn[1]), canary(tokenizer, drawn[2], owners={"b": 1})
    return Memorised(model.eval(), tokenizer, known, twin, other)
