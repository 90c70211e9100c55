"""The recipe of the bundled base: tokenizer and a small Llama, pre-trained from nothing.

`fedmem base OUT` runs it. Same seed and threads, same machine: same bytes. The corpus is
`fedmem.data.synthetic.corpus`; training is in float32, the checkpoint is saved in float16.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from fedmem.data.synthetic import corpus
from fedmem.training import cpu
from fedmem.training.loss import causal_lm_loss

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
VOCABULARY = 2048
CONTEXT = 1024  # positions the model accepts; trained on BLOCK
BLOCK, BATCH = 320, 6
LEARNING_RATE, WARMUP = 3e-3, 60
TOKENS = 4_000_000

Progress = Callable[[int, int, str], None]


def make_tokenizer(seed: int, texts: int = 12_000) -> PreTrainedTokenizerFast:
    """Byte-level BPE; digits stand alone, so that numbers are spelled and not looked up."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?\p{L}+| ?[^\s\p{L}\p{N}]+|\p{N}|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus.tokenizer_texts(seed, texts), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=CONTEXT,
    )


def architecture(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """A small Llama: 192 wide, 4 layers."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def blocks(tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[np.ndarray]:
    """The corpus as packed blocks of token ids, int64 [BATCH, BLOCK], without end."""
    bos, stream = tokenizer.bos_token_id, corpus.documents(seed)
    buffer: list[int] = []
    while True:
        while len(buffer) < BATCH * BLOCK:
            batch = [next(stream) + "\n" for _ in range(64)]
            for ids in tokenizer(batch, add_special_tokens=False)["input_ids"]:
                buffer += [bos, *ids]
        yield np.array(buffer[: BATCH * BLOCK], dtype=np.int64).reshape(BATCH, BLOCK)
        buffer = buffer[BATCH * BLOCK :]


def make(
    out: Path,
    seed: int = 0,
    tokens: int = TOKENS,
    threads: int = 1,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Make tokenizer and checkpoint in `out`; returns what was measured (also in recipe.json)."""
    cpu.set_up(threads)
    torch.manual_seed(seed)
    started = time.perf_counter()
    tokenizer = make_tokenizer(seed)
    model = LlamaForCausalLM(architecture(tokenizer)).float()
    decay = [p for p in model.parameters() if p.ndim > 1]
    other = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.1}, {"params": other, "weight_decay": 0.0}],
        lr=LEARNING_RATE,
        betas=(0.9, 0.95),
        fused=True,
    )
    steps = max(1, tokens // (BATCH * BLOCK))
    smooth = math.nan
    for step, block in enumerate(blocks(tokenizer, seed)):
        if step == steps:
            break
        rate = min(1.0, (step + 1) / WARMUP) * (0.05 + 0.95 * (1 - step / steps))
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * rate
        ids = torch.from_numpy(block)
        loss = causal_lm_loss(model(input_ids=ids, use_cache=False).logits, ids)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        value = loss.item()
        smooth = value if math.isnan(smooth) else 0.98 * smooth + 0.02 * value
        if progress is not None and (step % 10 == 0 or step + 1 == steps):
            progress(step + 1, steps, f"loss {smooth:.3f}")
    model.half().save_pretrained(out, safe_serialization=True)
    tokenizer.save_pretrained(out)
    made = {
        "seed": seed,
        "tokens": steps * BATCH * BLOCK,
        "parameters": sum(p.numel() for p in model.parameters()),
        "loss": round(smooth, 4),
    }
    (out / "recipe.json").write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    made["seconds"] = round(time.perf_counter() - started, 1)
    return made
