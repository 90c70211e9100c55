"""Goldfish against a loop in plain Python; the same passage loses the same tokens everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import config
from torch import Tensor

from fedmem.config.objectives import CausalLM, Goldfish
from fedmem.data.records import Example, Shard
from fedmem.model.base import load
from fedmem.model.state import Arrays, get_arrays
from fedmem.training.batches import collate
from fedmem.training.goldfish import BASE, MIX, PRIME
from fedmem.training.goldfish import Goldfish as Mask
from fedmem.training.local import train_local
from fedmem.training.loss import IGNORE
from fedmem.training.objectives import objective
from fedmem.workspace import Workspace

CPU = torch.device("cpu")


def examples(count: int, seed: int = 0, supervised: int = 1) -> tuple[Example, ...]:
    rng = np.random.default_rng(seed)
    return tuple(
        Example(rng.integers(3, 380, size=int(size)).astype(np.int32), supervised)
        for size in rng.integers(20, 60, size=count)
    )


def drops(ids: list[int], settings: Goldfish) -> list[bool]:
    """What the definition says, token by token, in Python's own integers."""
    found = []
    for at in range(len(ids)):
        if settings.strategy == "static":
            found.append(at > 0 and at % settings.k == 0)
        elif at < settings.context:
            found.append(False)
        else:
            value = 0
            for id in ids[at - settings.context : at]:
                value = (value * BASE + id + 1) % PRIME
            for _ in range(2):
                value = (value + (value >> 15)) * MIX % PRIME
            found.append(value < PRIME / settings.k)
    return found


@pytest.mark.parametrize("strategy", ["static", "hashed"])
@pytest.mark.parametrize(("k", "context"), [(2, 1), (3, 4), (4, 13), (50, 25), (4, 80)])
def test_labels_are_those_of_the_loop(strategy: Any, k: int, context: int) -> None:
    settings = Goldfish(k=k, strategy=strategy, context=context)
    batch = examples(6, supervised=5)
    ids, labels = collate(batch, 0, CPU)
    before = labels.clone()
    found = objective(settings).labels(ids, labels)
    assert torch.equal(labels, before)  # not in place
    for row, example in enumerate(batch):
        dropped = drops(example.ids.tolist(), settings)
        wanted = [IGNORE if at < 5 or dropped[at] else int(id) for at, id in enumerate(example.ids)]
        assert found[row].tolist() == wanted + [IGNORE] * (ids.shape[1] - len(wanted))


def test_padding_and_neighbours_decide_nothing() -> None:
    batch = examples(8)
    mask = Mask(Goldfish())
    together = mask.dropped(collate(batch, 0, CPU)[0])
    for row, example in enumerate(batch):
        alone = mask.dropped(collate([example], 0, CPU)[0])[0]
        assert torch.equal(together[row, : len(alone)], alone)


def test_the_hash_is_the_same_everywhere() -> None:
    # written down once: another process, platform or version of torch must give the same
    ids = torch.arange(100, 160)[None]
    found = Mask(Goldfish()).dropped(ids)[0].nonzero().flatten().tolist()
    assert found == [19, 20, 23, 28, 32, 37, 38, 45, 46, 49, 50, 58]
    largest = torch.full((1, 20), 2**31 - 2)  # the largest ids there could be do not overflow
    dropped = drops([2**31 - 2] * 20, Goldfish())
    assert Mask(Goldfish()).dropped(largest)[0].tolist() == dropped


@pytest.mark.parametrize("k", [2, 3, 4, 8, 32])
def test_one_token_in_k_is_dropped(k: int) -> None:
    ids = torch.from_numpy(np.random.default_rng(k).integers(0, 384, (40, 1000)))
    for context in (1, 2, 13):
        # a short context comes again and again: only distinct ones are independent draws
        windows = ids.unfold(1, context, 1)[:, :-1].reshape(-1, context)
        dropped = Mask(Goldfish(k=k, context=context)).dropped(ids)[:, context:].reshape(-1)
        distinct, first = np.unique(windows.numpy(), axis=0, return_index=True)
        share, n = float(dropped[torch.from_numpy(first)].double().mean()), len(distinct)
        assert abs(share - 1 / k) < 4 * np.sqrt((1 - 1 / k) / k / n)
    static = Mask(Goldfish(k=k, strategy="static")).dropped(ids)
    assert int(static.sum()) == 40 * (999 // k)


def test_a_passage_loses_the_same_tokens_wherever_it_stands() -> None:
    rng = np.random.default_rng(0)
    passage = rng.integers(3, 380, 200)
    mask = Mask(Goldfish())

    def at(before: int, strategy: Any = "hashed") -> Tensor:
        ids = np.concatenate([rng.integers(3, 380, before), passage, rng.integers(3, 380, 30)])
        objective = Mask(Goldfish(strategy=strategy))
        return objective.dropped(torch.from_numpy(ids)[None])[0, before : before + 200]

    first = at(0)
    assert 30 < int(first.sum()) < 70
    for before in (1, 2, 7, 50):
        assert torch.equal(at(before)[13:], first[13:])  # behind a full context of its own
    assert not torch.equal(at(1, "static"), at(0, "static"))
    # another token earlier in the context decides anew
    changed = passage.copy()
    changed[100] += 1
    other = mask.dropped(torch.from_numpy(changed)[None])[0]
    assert torch.equal(other[:101], first[:101]) and torch.equal(other[114:], first[114:])
    assert not torch.equal(other[101:114], first[101:114])


@pytest.mark.parametrize("strategy", ["static", "hashed"])
@pytest.mark.parametrize("packing", [False, True])
def test_a_note_loses_the_same_tokens_in_all_its_copies(
    base_folder: Path, strategy: Any, packing: bool
) -> None:
    plan = config(base_folder, training={"packing": packing})
    shards = Workspace(plan).data.shards
    mask = Mask(Goldfish(strategy=strategy))
    seen: dict[str, set[tuple[bool, ...]]] = {}
    copies = 0
    for shard in shards.values():
        batch = list(shard.examples)
        dropped = mask.dropped(collate(batch, 0, CPU)[0])
        for row, example in enumerate(batch):
            if example.canary:
                where = tuple(dropped[row, : len(example.ids)].tolist())
                seen.setdefault(example.canary, set()).add(where)
                copies += 1
                assert 0.1 < np.mean(where) < 0.4
    assert len(seen) == 4 and copies == 2 * 1 + 2 * 4
    assert all(len(masks) == 1 for masks in seen.values())


def trained(base: Path, **sections: Any) -> tuple[Arrays, dict[str, float]]:
    plan = config(base, rounds={"local_epochs": 1}, **sections)
    model, _ = load(plan.model, plan.seed)
    metrics = train_local(model, Shard("a", examples(9), ()), plan, 1, 1e-2, 0)
    return get_arrays(model), metrics


def test_the_plain_objective_leaves_labels_and_training_as_they_are(base_folder: Path) -> None:
    ids, labels = collate(examples(3), 0, CPU)
    assert objective(CausalLM()).labels(ids, labels) is labels
    plain, metrics = trained(base_folder)
    assert "dropped" not in metrics
    # k beyond every length: a mask that drops nothing gives the same bytes
    none, same = trained(
        base_folder,
        training={"objective": {"kind": "goldfish", "k": 10_000, "strategy": "static"}},
    )
    assert all(plain[name].tobytes() == none[name].tobytes() for name in plain)
    assert same["loss"] == metrics["loss"] and same["dropped"] == 0
    some, fewer = trained(base_folder, training={"objective": {"kind": "goldfish", "k": 3}})
    assert any(plain[name].tobytes() != some[name].tobytes() for name in plain)
    assert fewer["tokens"] < metrics["tokens"]


@pytest.mark.parametrize("strategy", ["static", "hashed"])
def test_loss_and_tokens_told_are_those_of_the_tokens_kept(
    base_folder: Path, strategy: Any
) -> None:
    settings = Goldfish(k=3, strategy=strategy, context=4)
    training = {"objective": settings.model_dump(), "batch_size": 3, "accumulation": 3}
    plan = config(base_folder, training=training)
    _, metrics = trained(base_folder, training=training)  # one step
    model, _ = load(plan.model, plan.seed)
    total, kept, supervised = 0.0, 0, 0
    with torch.inference_mode():
        for example in examples(9):
            ids = torch.from_numpy(example.ids).long()
            dropped = drops(ids.tolist(), settings)
            logprobs = model.eval()(input_ids=ids[None]).logits[0].double().log_softmax(-1)
            for at in range(1, len(ids)):
                supervised += 1
                if not dropped[at]:
                    kept += 1
                    total -= float(logprobs[at - 1, ids[at]])
    assert metrics["steps"] == 1 and metrics["tokens"] == kept < supervised
    assert metrics["loss"] == pytest.approx(total / kept, abs=1e-5)
    assert metrics["dropped"] == pytest.approx(1 - kept / supervised, abs=1e-12)


def test_what_is_dropped_has_no_gradient(base_folder: Path) -> None:
    """A step equals one on a shard whose dropped tokens were never supervised to begin with."""
    settings = Goldfish(k=2, strategy="static")
    shard = Shard("a", (Example(examples(1)[0].ids[:3]),), ())  # ids 0, 1, 2: 2 is dropped
    plan = config(
        base_folder,
        model={"method": "full"},
        rounds={"local_steps": 1},
        training={"objective": settings.model_dump(), "optimizer": "sgd", "max_grad_norm": None},
    )
    model, _ = load(plan.model, plan.seed)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    train_local(model, shard, plan, 1, 0.1, 0)
    after = {n: p.detach().clone() for n, p in model.named_parameters()}
    twin, _ = load(plan.model, plan.seed)
    ids = torch.from_numpy(shard.examples[0].ids).long()
    loss = -twin(input_ids=ids[None, :1]).logits[0, 0].log_softmax(-1)[ids[1]]
    loss.backward()
    for name, parameter in twin.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(after[name], before[name] - 0.1 * parameter.grad)


@pytest.mark.parametrize(
    "wrong", [{"k": 1}, {"k": 0}, {"context": 0}, {"strategy": "random"}, {"h": 13}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        config(Path("nowhere"), training={"objective": {"kind": "goldfish", **wrong}})


def test_dropped_tokens_are_not_learned_by_heart(base_folder: Path) -> None:
    """Overfitted on random tokens, which nothing but memory can tell."""
    settings = Goldfish(k=3, context=4)
    (note,) = examples(1, seed=5)
    plan = config(
        base_folder,
        model={"method": "full"},
        rounds={"count": 1, "local_steps": 80},
        training={"objective": settings.model_dump(), "schedule": "constant"},
    )
    model, _ = load(plan.model, plan.seed)
    train_local(model, Shard("a", (note,), ()), plan, 1, 1e-2, 0)
    ids = torch.from_numpy(note.ids).long()
    with torch.inference_mode():
        logprobs = model(input_ids=ids[None]).logits[0].log_softmax(-1)
    nll = -logprobs[torch.arange(len(ids) - 1), ids[1:]]
    dropped = torch.tensor(drops(ids.tolist(), settings)[1:])
    assert int(dropped.sum()) >= 5
    assert float(nll[~dropped].max()) < 0.5 < 4 < float(nll[dropped].min())
