"""Any causal model PEFT can target: tiny random ones of several kinds, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
from peft import PeftModel
from tiny import VOCABULARY, config, make_tokenizer

from fedmem.attacks.generate import greedy
from fedmem.data.records import Example, Shard
from fedmem.errors import ConfigError, DataError
from fedmem.model.base import load
from fedmem.model.probe import check_lengths, check_reading
from fedmem.model.state import get_arrays, save, set_arrays
from fedmem.training.local import train_local

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY + 8,  # Qwen2 gives its tokenizer tokens of its own
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = SIZES | {"num_key_value_heads": 2}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 512,
}
CAUSAL: dict[str, Any] = {
    "llama2": tf.LlamaConfig(**SIZES),
    "llama3": tf.LlamaConfig(**GROUPED, tie_word_embeddings=True, rope_parameters=LLAMA3),
    "mistral": tf.MistralConfig(**GROUPED, sliding_window=64),
    "qwen2": tf.Qwen2Config(**GROUPED),
    "gemma": tf.GemmaConfig(**GROUPED, head_dim=8),
    "gemma2": tf.Gemma2Config(**GROUPED, head_dim=8, sliding_window=64),
    "gemma3": tf.Gemma3TextConfig(**GROUPED, head_dim=8, sliding_window=64),
    "gpt2": tf.GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=512),
    "gpt_neox": tf.GPTNeoXConfig(**SIZES),
    "phi": tf.PhiConfig(**SIZES),
}
REFUSED: dict[str, Any] = {
    "bert": (tf.BertConfig(**SIZES), "lets a token see later ones"),
    "bloom": (
        tf.BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4),
        "several options in one row",
    ),
    "mpt": (
        tf.MptConfig(vocab_size=VOCABULARY, d_model=32, n_layers=2, n_heads=4),
        "several options in one row",
    ),
}


def saved(folder: Path, architecture: Any) -> Path:
    """A random model of the architecture, with the tiny tokenizer."""
    torch.manual_seed(0)
    made = tf.AutoModelForCausalLM.from_config(architecture, dtype=torch.float32)
    made.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", CAUSAL)
def test_load_train_save_and_load_elsewhere(name: str, tmp_path: Path) -> None:
    folder = saved(tmp_path / name, CAUSAL[name])
    plan = config(folder, rounds={"local_steps": 1}, training={"batch_size": 2})
    model, _ = load(plan.model, 0)
    check_reading(model.eval(), "float32")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    ids = np.random.default_rng(0).integers(3, 380, size=(2, 20)).astype(np.int32)
    train_local(model, Shard("a", tuple(map(Example, ids)), ()), plan, 1, 1e-2, 0)
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    adapters = {n for n in before if ".lora_" in n}
    assert changed and changed <= adapters
    assert {n for n in adapters if ".lora_B." in n} == changed  # with B zero, A has no gradient

    arrays = get_arrays(model)
    assert set(arrays) == adapters
    new = {n: a + np.float32(0.05) for n, a in arrays.items()}
    set_arrays(model, new)
    again = get_arrays(model)
    assert all(again[n].tobytes() == new[n].tobytes() for n in new)

    save(model, tmp_path / "adapter")
    plain = tf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()
    row = torch.from_numpy(ids[:1]).long()
    with torch.inference_mode():
        assert torch.equal(model(input_ids=row).logits, theirs(input_ids=row).logits)
    # decoding with the cache is transformers' own greedy decoding
    made = theirs.generate(
        input_ids=row, attention_mask=torch.ones_like(row), max_new_tokens=8, do_sample=False,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    assert greedy(model, [ids[0]], 8) == [made[0, row.shape[1] :].tolist()]


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_right_is_refused_by_name(name: str, tmp_path: Path) -> None:
    architecture, says = REFUSED[name]
    plan = config(saved(tmp_path / name, architecture))
    model, _ = load(plan.model, 0)
    with pytest.raises(DataError, match=says) as raised:
        check_reading(model.eval(), "float32")
    assert architecture.model_type in str(raised.value).lower() and "\n" not in str(raised.value)


def test_a_sliding_window_shorter_than_the_notes_is_refused(tmp_path: Path) -> None:
    model, _ = load(config(saved(tmp_path / "m", CAUSAL["mistral"])).model, 0)
    check_lengths(model, 64)
    with pytest.raises(ConfigError, match=r"65 tokens .* sliding window of 64"):
        check_lengths(model, 65)
    model, _ = load(config(saved(tmp_path / "g", CAUSAL["gpt2"])).model, 0)
    with pytest.raises(ConfigError, match=r"513 tokens .* 512 positions"):
        check_lengths(model, 513)


def test_layers_that_are_not_there_are_a_config_error(tmp_path: Path) -> None:
    plan = config(saved(tmp_path / "g", CAUSAL["gpt2"]), model={"lora": {"targets": ["q_proj"]}})
    with pytest.raises(ConfigError, match=r"^model\.lora\.targets: .*q_proj"):
        load(plan.model, 0)
