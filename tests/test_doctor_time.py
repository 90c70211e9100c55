"""What doctor tells of time: operations as torch counts them, volumes, the paper's configs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import config
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from fedmem import doctor, speed
from fedmem.config import model as cfg
from fedmem.data import volume
from fedmem.loading import arm_configs, load_config, packaged_configs
from fedmem.model.base import attach, enable_checkpointing
from fedmem.model.compute import work
from fedmem.model.outline import outline

LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
MISTRAL = {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
# the real dimensions, and how many parameters there are
BASES: dict[str, tuple[dict[str, Any], int]] = {
    "llama-3.2-1b": (
        LLAMA
        | {"vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192}
        | {"num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8}
        | {"head_dim": 64, "tie_word_embeddings": True, "max_position_embeddings": 131072},
        1_235_814_400,
    ),
    "llama-3.2-3b": (
        LLAMA
        | {"vocab_size": 128256, "hidden_size": 3072, "intermediate_size": 8192}
        | {"num_hidden_layers": 28, "num_attention_heads": 24, "num_key_value_heads": 8}
        | {"head_dim": 128, "tie_word_embeddings": True, "max_position_embeddings": 131072},
        3_212_749_824,
    ),
    "llama-3.1-8b": (
        LLAMA
        | {"vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336}
        | {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8}
        | {"tie_word_embeddings": False, "max_position_embeddings": 131072},
        8_030_261_248,
    ),
    "llama-2-7b": (
        LLAMA
        | {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008}
        | {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32}
        | {"tie_word_embeddings": False, "max_position_embeddings": 4096},
        6_738_415_616,
    ),
    "mistral-7b-v0.1": (
        MISTRAL
        | {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336}
        | {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8}
        | {"tie_word_embeddings": False, "max_position_embeddings": 32768},
        7_241_732_096,
    ),
}
PAPER = sorted(name for name in packaged_configs() if name.startswith("paper/"))


def folder(path: Path, base: str) -> Path:
    """A folder with a config.json alone."""
    (path / "config.json").write_text(json.dumps(BASES[base][0]))
    return path


# --- operations ----------------------------------------------------------------------------


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_operations_are_those_that_torch_counts(
    tmp_path: Path, method: Any, checkpointing: bool
) -> None:
    small = LLAMA | {"vocab_size": 300, "hidden_size": 64, "intermediate_size": 160}
    small |= {"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}
    (tmp_path / "config.json").write_text(json.dumps(small))
    chosen = cfg.Model(method=method, gradient_checkpointing=checkpointing, lora=cfg.Lora(r=8))
    cost = work(outline(chosen, tmp_path))
    declared = AutoConfig.from_pretrained(tmp_path)
    # the counter knows no fused attention of the CPU
    base = AutoModelForCausalLM.from_config(declared, attn_implementation="eager")
    model = attach(base, chosen, seed=0)
    if checkpointing:
        enable_checkpointing(base)
    ids = torch.randint(0, 300, (2, 96))
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model.eval()(input_ids=ids, use_cache=False)
    assert cost.reading(96) * ids.numel() == pytest.approx(counter.get_total_flops(), rel=0.02)
    counter = FlopCounterMode(display=False)
    with counter:
        model.train()(input_ids=ids, use_cache=False).logits.sum().backward()
    assert cost.training(96) * ids.numel() == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_full_fine_tuning_is_six_operations_a_weight_and_lora_four(base_folder: Path) -> None:
    full = work(outline(cfg.Model(method="full"), base_folder))
    lora = work(outline(cfg.Model(lora=cfg.Lora(r=4)), base_folder))
    assert (full.frozen, lora.frozen) == (0, full.trained)
    assert full.training(0) == 6 * full.trained
    assert lora.training(0) == 4 * lora.frozen + 6 * lora.trained


# --- tokens and seconds --------------------------------------------------------------------


def test_synthetic_records_are_counted(base_folder: Path) -> None:
    plan = config(base_folder)
    lines = "\n".join(doctor.config_lines(plan))
    assert "tokens        about " in lines and "(counted)" in lines
    assert "time          about " in lines and "in 1 thread here (55% of " in lines


def test_of_a_file_the_first_records_are_read_and_all_are_counted(
    base_folder: Path, tmp_path: Path
) -> None:
    row = {"question": "x" * 150, "opa": "a", "opb": "b", "opc": "c", "opd": "d", "cop": 1}
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row | {"id": str(n)}) + "\n" for n in range(1000)))
    source = {"kind": "jsonl", "path": str(file), "adapter": "medmcqa"}
    plan = config(base_folder, data={"clients": [{"name": "a", "source": source}]})
    found = volume.volume(plan)
    notes = sum(level.copies * level.notes for level in plan.data.canaries.levels)
    assert found.examples == 900 + notes and "from the file" in found.how
    assert not found.unknown


def test_a_hub_set_without_a_cap_cannot_be_told(base_folder: Path) -> None:
    source = {"kind": "hub", "path": "org/set", "revision": "0" * 40, "adapter": "medmcqa"}
    plan = config(base_folder, data={"clients": [{"name": "far", "source": source}]})
    lines = "\n".join(doctor.config_lines(plan))
    assert "time          cannot be told: how many records client far has" in lines
    capped = config(
        base_folder, data={"clients": [{"name": "far", "source": source, "max_records": 80}]}
    )
    assert "far 80 records of 210 characters, at most, by max_records" in volume.volume(capped).how


def test_durations_and_large_numbers_are_short() -> None:
    seconds = (2.34, 26, 240, 9 * 3600, 100 * 3600)
    assert [*map(speed.duration, seconds)] == ["2.3 s", "26 s", "4 min", "9 h", "4.2 days"]
    assert volume.parts({"training": 5.3e12, "attacks": 120e9}) == (
        "training 5.3 TFLOP, attacks 120 GFLOP"
    )


def test_without_the_gpu_known_ones_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    text = speed.told(0.4 * 989e12 * 9 * 3600, "cuda", "bfloat16", 1)
    assert text.startswith("about 9 h on one H100 (of 989), 29 h on one A100 (of 312)")
    assert "40% of the data sheet's TFLOP/s" in text


# --- the paper's configs -------------------------------------------------------------------


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_arms(name: str, tmp_path: Path) -> None:
    chosen = load_config(name)
    assert name.removeprefix("paper/") in BASES
    assert chosen.model.revision and len(chosen.model.revision) == 40
    arms = arm_configs(chosen)
    for arm in arms.values():
        merged = arm.model.method == "lora" and arm.rounds.topology == "federated"
        assert (arm.aggregation.rule == "product") == merged
        assert arm.training.batch_size * arm.training.accumulation == 32
    assert {arm.model.lora.r for arm in arms.values()} == {1, 4, 16, 64}
    rates = [client.lr for client in arms["full"].data.clients]
    assert rates != [client.lr for client in arms["lora-r16"].data.clients]
    base = chosen.model.model_copy(update={"method": "full"})
    short = name.removeprefix("paper/")
    assert outline(base, folder(tmp_path, short)).parameters() == BASES[short][1]


def told(name: str, path: Path, *more: str) -> str:
    (path / "i2b2").mkdir()
    (path / "i2b2" / "one.xml").write_text("x")
    base = folder(path, name.removeprefix("paper/"))
    changes = [f"data.root={path}", f"model.base={base}", "model.revision=null", *more]
    return "\n".join(doctor.config_lines(load_config(name, changes)))


@pytest.mark.slow
def test_doctor_needs_no_more_than_a_config_json(tmp_path: Path) -> None:
    lines = told("paper/llama-3.2-1b", tmp_path, "arms={}")
    assert "on one H100" in lines or "measured" in lines
    assert "has no *.safetensors; enough to count, not to run" in lines
    assert "cards 34,000 records" in lines


@pytest.mark.heavy
@pytest.mark.parametrize("name", PAPER)
def test_doctor_tells_of_every_paper_config(name: str, tmp_path: Path) -> None:
    lines = told(name, tmp_path).splitlines()
    timed = [
        line.removeprefix("time").partition(": about ")[0] for line in lines if line[:5] == "time "
    ]
    assert {arm.strip() for line in timed for arm in line.split(",")} == {*load_config(name).arms}
    assert any(line.startswith("in all        7 runs: about ") for line in lines)
