"""DP-SGD: per-sample gradients, clipping, noise, sampling, and what a round leaves behind."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from opacus.grad_sample import GradSampleHooks
from tiny import config
from torch import Tensor

from fedmem.config import Config
from fedmem.data.records import Example, Shard
from fedmem.errors import ConfigError, RunError
from fedmem.model.base import load
from fedmem.model.state import Arrays, get_arrays, save
from fedmem.training import dp_sampling
from fedmem.training.batches import collate
from fedmem.training.dp_sampling import Units, generators, physical_batches, plan, units_of
from fedmem.training.dpsgd import backward, check, refuse
from fedmem.training.local import train_local
from fedmem.training.loss import causal_lm_loss

CPU = torch.device("cpu")
LENGTHS = (9, 24, 13, 17)


def examples(lengths: tuple[int, ...] = LENGTHS, seed: int = 0) -> tuple[Example, ...]:
    rng = np.random.default_rng(seed)
    return tuple(
        Example(rng.integers(3, 380, size=n).astype(np.int32), supervised=1 + i % 3)
        for i, n in enumerate(lengths)
    )


def private(base: Path, method: str = "lora", **sections: Any) -> Config:
    dp = {"noise_multiplier": 1.0, "max_grad_norm": 0.5} | sections.pop("dp", {})
    training = {"batch_size": 2, "lr": 1e-2, "dp": dp} | sections.pop("training", {})
    model = {"method": method} | sections.pop("model", {})
    return config(base, model=model, training=training, **sections)


def fresh(plan: Config, dtype: torch.dtype = torch.float32) -> Any:
    """The model in training mode, with LoRA's B away from zero so that A has gradients too."""
    model, _ = load(plan.model, plan.seed)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.to(dtype).train()


def trainable(model: Any) -> dict[str, torch.nn.Parameter]:
    return {n: p for n, p in model.named_parameters() if p.requires_grad}


def per_sample(model: Any, batch: tuple[Example, ...]) -> dict[str, Tensor]:
    hooks = GradSampleHooks(model, loss_reduction="sum")
    try:
        backward(model, *collate(batch, 0, CPU))
        return {n: p.grad_sample.clone() for n, p in trainable(model).items()}
    finally:
        hooks.cleanup()
        model.zero_grad(set_to_none=True)


def apart(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


# --- gradients ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["lora", "full"])
def test_per_sample_gradients_are_those_of_each_example_alone(
    base_folder: Path, method: str
) -> None:
    model = fresh(private(base_folder, method), torch.float64)
    found = per_sample(model, examples())
    if method == "full":
        assert model.config.tie_word_embeddings  # one weight, used twice
        assert "lm_head.weight" not in found
    for row, example in enumerate(examples()):
        ids, labels = collate([example], 0, CPU)
        causal_lm_loss(model(input_ids=ids).logits, labels).backward()
        for name, parameter in trainable(model).items():
            assert parameter.grad is not None
            assert apart(found[name][row], parameter.grad) < 1e-6, name
        model.zero_grad(set_to_none=True)


def test_lora_gradients_agree_with_an_einsum_of_our_own(base_folder: Path) -> None:
    """A second oracle, without Opacus: inputs and output gradients of every LoRA linear."""
    model = fresh(private(base_folder), torch.float64)
    found = per_sample(model, examples())
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: Any, args: Any, output: Tensor) -> None:
            inputs[name] = args[0].detach()
            output.register_hook(lambda grad: outputs.__setitem__(name, grad))

        return hook

    for name, module in model.named_modules():
        if "lora_" in name and isinstance(module, torch.nn.Linear):
            module.register_forward_hook(keep(name))
    ids, labels = collate(examples(), 0, CPU)
    logits = model(input_ids=ids).logits
    for row in range(len(LENGTHS)):  # the mean of each row's own tokens, one row at a time
        loss = causal_lm_loss(logits[row : row + 1], labels[row : row + 1])
        loss.backward(retain_graph=True)
        for name, grad in outputs.items():
            own = torch.einsum("to,ti->oi", grad[row], inputs[name][row])
            assert apart(found[f"{name}.weight"][row], own) < 1e-6, name
    assert len(outputs) == 2 * 7 * 2  # A and B of 7 linears in 2 layers


def test_a_records_gradient_does_not_depend_on_its_company(base_folder: Path) -> None:
    model = fresh(private(base_folder), torch.float64)
    alone, longer = examples()[0], examples((40,), seed=3)[0]
    first, second = per_sample(model, (alone,)), per_sample(model, (longer, alone))
    for name in first:
        assert apart(second[name][1], first[name][0]) < 1e-6, name


# --- a step ---------------------------------------------------------------------------------


def changes(
    plan: Config, shard: Shard, round_: int = 1, model: Any = None
) -> tuple[dict[str, Tensor], dict[str, float], Any]:
    """SGD of rate 1 for one step: what it took off the weights is the released gradient."""
    model = model or load(plan.model, plan.seed)[0]
    before = {n: p.detach().clone() for n, p in trainable(model).items()}
    metrics = train_local(model, shard, plan, round_, 1.0, 0)
    after = trainable(model)
    return {n: before[n] - after[n].detach() for n in before}, metrics, model


def norm(parts: dict[str, Tensor]) -> float:
    return math.sqrt(sum(float((p.double() ** 2).sum()) for p in parts.values()))


SGD = {"optimizer": "sgd", "schedule": "constant"}
ONE = {"count": 1, "local_steps": 1}


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("clip", [1e-3, 1e3])
def test_a_step_is_the_mean_of_clipped_gradients(
    base_folder: Path, method: str, clip: float
) -> None:
    """All units in every sample, next to no noise: the step against a loop of single examples."""
    settings = private(
        base_folder,
        method,
        dp={"noise_multiplier": 1e-9, "max_grad_norm": clip, "physical_batch_size": 3},
        training={**SGD, "batch_size": 4},
        rounds=ONE,
    )
    reference = fresh(settings).eval()
    expected = {n: torch.zeros_like(p) for n, p in trainable(reference).items()}
    norms = []
    for example in examples():
        ids, labels = collate([example], 0, CPU)
        causal_lm_loss(reference(input_ids=ids).logits, labels).backward()
        grads = {n: p.grad for n, p in trainable(reference).items() if p.grad is not None}
        norms.append(norm(grads))
        for name, grad in grads.items():
            expected[name] += min(1.0, clip / norms[-1]) * grad / len(LENGTHS)
        reference.zero_grad(set_to_none=True)

    found, metrics, _ = changes(settings, Shard("a", examples(), ()), model=fresh(settings))
    off = norm({n: found[n] - expected[n] for n in found})
    assert off < 2e-3 * norm(expected)  # float32: the weights are a thousand times a clipped step
    assert norm(found) <= clip * (1 + 1e-3)
    assert metrics["dp_clipped"] == (1.0 if clip < min(norms) else 0.0)
    assert metrics["dp_norm"] == pytest.approx(np.mean(norms), rel=1e-4)


def test_an_empty_sample_is_a_step_of_noise_alone_and_counts(
    base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = private(base_folder, training=SGD, rounds=ONE, dp={"max_grad_norm": 0.25})
    nobody = np.empty(0, np.int64)
    monkeypatch.setattr(Units, "draw", lambda self, rate, rng: nobody)
    found, metrics, _ = changes(settings, Shard("a", examples(), ()))
    _, noise = generators(settings, "a", 1, CPU)
    for part in found.values():
        drawn = torch.normal(0.0, 0.25, size=part.shape, generator=noise)
        assert torch.allclose(part, drawn / 2, atol=1e-6)  # expected size: 4 units at a rate of 1/2
    assert (metrics["dp_empty"], metrics["dp_steps"], metrics["tokens"]) == (1, 1, 0)


def test_what_is_accounted_is_what_was_sampled(
    base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates, sampled = [], Units.draw

    def watched(self: Units, rate: float, rng: np.random.Generator) -> Any:
        rates.append(rate)
        return sampled(self, rate, rng)

    monkeypatch.setattr(Units, "draw", watched)
    settings = private(base_folder, rounds={"count": 1, "local_epochs": 4})
    shard = Shard("a", examples(), ())
    model, _ = load(settings.model, 0)
    told = train_local(model, shard, settings, 1, 1e-2, 0)
    step = plan(settings, shard)
    assert rates == [step.sample_rate] * step.steps == [0.5] * 8
    keys = ("dp_noise_multiplier", "dp_sample_rate", "dp_steps")
    assert [told[key] for key in keys] == [1.0, 0.5, 8.0]
    assert (told["dp_units"], told["dp_largest"], told["dp_holders"]) == (4, 1, 1)


def test_noise_has_the_scale_that_is_accounted(base_folder: Path) -> None:
    settings = private(
        base_folder,
        "full",
        dp={"noise_multiplier": 2.0, "max_grad_norm": 1e-3},
        training={**SGD, "batch_size": 4},
        rounds=ONE,
    )
    found, _, _ = changes(settings, Shard("a", examples(), ()))
    numbers = torch.cat([p.flatten() for p in found.values()])
    assert float(numbers.std()) == pytest.approx(2.0 * 1e-3 / 4, rel=0.03)


def test_physical_batches_change_rounding_alone(base_folder: Path) -> None:
    models = []
    for physical in (1, 3, 64):
        settings = private(
            base_folder,
            training={**SGD, "batch_size": 4},
            dp={"physical_batch_size": physical},
            rounds={"count": 1, "local_steps": 3},
        )
        models.append(changes(settings, Shard("a", examples(), ()))[0])
    for other in models[1:]:
        assert norm({n: models[0][n] - other[n] for n in other}) < 1e-4 * norm(other)


# --- sampling and groups --------------------------------------------------------------------


def test_samples_are_poisson_over_units_and_one_example_of_each() -> None:
    copies = tuple(Example(np.arange(9, dtype=np.int32), canary="n1") for _ in range(10))
    shard = Shard("a", (*examples((8,) * 40), *copies), ("n1",))
    units = units_of(shard, "record")
    assert (len(units), units.largest) == (41, 10)
    rng = np.random.default_rng(0)
    draws = [units.draw(0.2, rng) for _ in range(4000)]
    of_note = [(drawn >= 40).sum() for drawn in draws]
    assert max(of_note) == 1  # never two copies of a note in one step
    assert np.mean(of_note) == pytest.approx(0.2, abs=0.025)
    sizes = [len(drawn) for drawn in draws]
    assert np.mean(sizes) == pytest.approx(41 * 0.2, abs=0.2)
    assert np.var(sizes) == pytest.approx(41 * 0.2 * 0.8, rel=0.1)
    assert set(np.concatenate(draws)) == set(range(50))  # every copy has its turn
    alone = units_of(shard, "example")
    assert (len(alone), alone.largest) == (50, 1)
    assert len(alone.draw(1.0, rng)) == 50


def test_physical_batches_hold_each_example_once_and_little_padding() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 300, size=50).astype(np.int32)
    drawn = rng.permutation(1000)[:50]
    batches = physical_batches(drawn, lengths, 8)
    assert sorted(i for batch in batches for i in batch) == sorted(drawn.tolist())
    of = dict(zip(drawn.tolist(), lengths.tolist(), strict=True))
    for batch in batches:
        assert len(batch) <= 8
        assert max(of[i] for i in batch) <= dp_sampling.SPREAD * min(of[i] for i in batch)
    assert physical_batches(drawn[:0], lengths[:0], 8) == []


def test_rate_and_steps_follow_the_units(base_folder: Path) -> None:
    copies = tuple(Example(np.arange(9, dtype=np.int32), canary="n1") for _ in range(10))
    shard = Shard("a", (*examples((8,) * 9), *copies), ("n1",))
    step = plan(private(base_folder, rounds={"local_epochs": 3}), shard)
    assert (step.noise_multiplier, step.sample_rate, step.steps) == (1.0, 2 / 10, 15)
    single = plan(private(base_folder, dp={"unit": "example"}), shard)
    assert (single.sample_rate, single.steps) == (2 / 19, 10)
    whole = plan(private(base_folder, training={"batch_size": 64}), shard)
    assert (whole.sample_rate, whole.steps) == (1.0, 1)


def test_a_target_is_met_over_all_rounds(base_folder: Path) -> None:
    from fedmem.accounting import Step, epsilon

    dp = {"noise_multiplier": None, "target_epsilon": 5.0}
    settings = private(base_folder, dp=dp, rounds={"count": 6, "local_steps": 5})
    step = plan(settings, Shard("a", examples((8,) * 40), ()))
    spent = epsilon([Step(step.noise_multiplier, 2 / 40, 30)], 1e-5).pld
    assert 4.99 < spent <= 5.0


# --- a round --------------------------------------------------------------------------------


def same(a: Arrays, b: Arrays) -> bool:
    return all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_two_rounds_in_one_process_repeat_and_leave_no_trace(
    base_folder: Path, method: str
) -> None:
    settings, shard = private(base_folder, method), Shard("a", examples(), ())
    runs = []
    for _ in range(2):
        model, _ = load(settings.model, 0)
        rounds = []
        for round_ in (1, 2):
            train_local(model, shard, settings, round_, 1e-2, 0)
            rounds.append(get_arrays(model))
        runs.append(rounds)
        assert not model.training
        for parameter in model.parameters():
            left = {"grad_sample", "summed_grad", "_forward_counter"} & set(vars(parameter))
            assert not left
            assert parameter.grad is None
        assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())
    assert all(same(a, b) for a, b in zip(*runs, strict=True))
    assert not same(*runs[0])


def test_other_clients_rounds_and_seeds_draw_other_noise(base_folder: Path) -> None:
    draws = set()
    for seed, client, round_ in [(0, "a", 1), (1, "a", 1), (0, "b", 1), (0, "a", 2)]:
        sampling, noise = generators(private(base_folder, seed=seed), client, round_, CPU)
        draws.add((float(sampling.random()), float(torch.rand((), generator=noise))))
    assert len({a for a, _ in draws}) == len({b for _, b in draws}) == 4


def test_deployment_draws_from_the_system_and_tells_no_figure_of_the_records(
    base_folder: Path,
) -> None:
    settings = private(base_folder, engine={"kind": "deployment"})
    draws = {float(torch.rand((), generator=generators(settings, "a", 1, CPU)[1])) for _ in "ab"}
    assert len(draws) == 2
    model, _ = load(settings.model, 0)
    told = train_local(model, Shard("a", examples(), ()), settings, 1, 1e-2, 0)
    assert not {"loss", "tokens", "dp_empty", "dp_norm", "dp_clipped", "seconds"} & set(told)
    assert told["num-examples"] == 4


def test_a_saved_model_reads_as_the_trained_one(base_folder: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    settings = private(base_folder)
    model, _ = load(settings.model, 0)
    train_local(model, Shard("a", examples(), ()), settings, 1, 1e-2, 0)
    save(model, tmp_path / "adapter")
    base = AutoModelForCausalLM.from_pretrained(base_folder)
    again = PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
    ids, _ = collate(examples(), 0, CPU)
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, again(input_ids=ids).logits)


@pytest.mark.parametrize(
    "sections",
    [
        {"training": {"objective": {"kind": "goldfish"}}},
        {"training": {"neftune": 5.0}},
        {"aggregation": {"prox": 0.1}},
        {"aggregation": {"rule": "freeze_a"}},
        {"model": {"dtype": "bfloat16"}},
    ],
)
def test_works_beside_other_settings(base_folder: Path, sections: dict[str, Any]) -> None:
    settings = private(base_folder, **sections)
    model, _ = load(settings.model, 0)
    before = get_arrays(model)
    metrics = train_local(model, Shard("a", examples(), ()), settings, 1, 1e-2, 0)
    assert math.isfinite(metrics["loss"])
    assert not same(before, get_arrays(model))


def test_full_bfloat16_keeps_the_clip_norm(base_folder: Path) -> None:
    settings = private(
        base_folder,
        "full",
        model={"dtype": "bfloat16"},
        dp={"noise_multiplier": 1e-9, "max_grad_norm": 1e-2},
        training={**SGD, "batch_size": 4},
        rounds=ONE,
    )
    found, _, _ = changes(settings, Shard("a", examples(), ()))
    assert 0 < norm(found) <= 1e-2 * (1 + 1e-3)


# --- refusals -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dp", "what"),
    [
        ({"noise_multiplier": 0}, "greater than 0"),
        ({"noise_multiplier": None}, "give noise_multiplier or target_epsilon"),
        ({"target_epsilon": 1}, "give noise_multiplier or target_epsilon"),
        ({"noise_multiplier": None, "target_epsilon": -1}, "greater than 0"),
        ({"noise_multiplier": None, "target_epsilon": 1e6}, "less than or equal to 1000"),
        ({"noise_multiplier": None, "target_epsilon": "inf"}, "finite"),
        ({"delta": 0}, "greater than 0"),
        ({"delta": 1}, "less than 0.1"),
        ({"max_grad_norm": 0}, "greater than 0"),
        ({"max_grad_norm": -1}, "greater than 0"),
        ({"unit": "note"}, "unit"),
        ({"ghost": True}, "ghost"),
    ],
)
def test_settings_out_of_range_are_refused(
    base_folder: Path, dp: dict[str, Any], what: str
) -> None:
    with pytest.raises(ValueError, match=what):
        private(base_folder, dp=dp)


@pytest.mark.parametrize(
    ("sections", "what"),
    [
        ({"training": {"packing": True}}, "training.packing"),
        ({"training": {"accumulation": 2}}, "training.accumulation"),
        ({"training": {"max_grad_norm": 0.3}}, "training.dp.max_grad_norm"),
        ({"model": {"dtype": "float16"}}, "model.dtype: float16"),
        ({"model": {"gradient_checkpointing": True}}, "model.gradient_checkpointing"),
        ({"aggregation": {"secure": {"enabled": True}}}, "give target_epsilon"),
    ],
)
def test_what_does_not_go_with_it_is_named(
    base_folder: Path, sections: dict[str, Any], what: str
) -> None:
    with pytest.raises(ValueError, match=what):
        private(base_folder, **sections)


def test_dora_and_lora_on_embeddings_are_named(base_folder: Path) -> None:
    from peft import LoraConfig, get_peft_model

    from fedmem.model.base import load_base

    chosen = private(base_folder).model
    for settings, what in (
        (LoraConfig(r=2, target_modules=["q_proj"], use_dora=True), "DoRA"),
        (LoraConfig(r=2, target_modules=["embed_tokens"]), "LoRA on embeddings"),
    ):
        with pytest.raises(ConfigError, match=what):
            refuse(get_peft_model(load_base(chosen), settings))


def test_checkpointing_switched_on_elsewhere_is_named(base_folder: Path) -> None:
    model, _ = load(private(base_folder).model, 0)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    with pytest.raises(ConfigError, match="gradient checkpointing is on"):
        refuse(model)


def test_a_layer_that_opacus_gets_wrong_is_found() -> None:
    """GPT-2 looks its positions up once a batch: one row of gradients where there must be three."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=400, n_positions=64, n_embd=16, n_layer=1, n_head=2)
    ).train()
    ids, labels = collate(examples(), 0, CPU)
    hooks = GradSampleHooks(model, loss_reduction="sum")
    backward(model, ids, labels)
    with pytest.raises(ConfigError, match=r"gradients of transformer\.wpe\.weight"):
        check(model, len(ids))
    hooks.cleanup()


def test_a_loss_that_is_not_finite_ends_the_round(base_folder: Path) -> None:
    settings = private(base_folder, "full")
    model, _ = load(settings.model, 0)
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(RunError, match=r"client a, round 3: .* not finite at step 1 of 2"):
        train_local(model, Shard("a", examples(), ()), settings, 3, 1e-2, 0)
    assert not any(hasattr(p, "grad_sample") for p in model.parameters())
