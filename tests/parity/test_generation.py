"""Teacher forcing against brute force: `model.generate`, one prompt at a time."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny import canary, config, overfit
from transformers import GenerationConfig

from fedmem.attacks import audit, true_prefix
from fedmem.attacks.approximate import (
    Thresholds,
    Watch,
    edit_distance,
    rouge_l,
    token_bleu,
)
from fedmem.attacks.generate import greedy
from fedmem.attacks.scoring import TIE, score
from fedmem.config import Config
from fedmem.data.records import Canary
from fedmem.data.synthetic import notes
from fedmem.model.base import load

Ids = NDArray[np.int32]


@dataclass(frozen=True)
class Learned:
    """A model that knows its notes in part: some windows match and some do not."""

    model: Any
    canaries: list[Canary]
    config: Config


@pytest.fixture(scope="module")
def learned(base_folder: Path) -> Learned:
    plan = config(
        base_folder,
        model={"method": "full"},
        attack={"prefix_lengths": [5, 10, 40], "continuation": 12, "bleu": 0.1},
    )
    model, tokenizer = load(plan.model, 0)
    canaries = [canary(tokenizer, note, 120) for note in notes.generate(6, 3)]
    cuts = cuts_of(canaries, plan)
    windows = [
        np.concatenate((c.canary.ids[:1], c.canary.ids[c.split - 40 : c.split + 12])) for c in cuts
    ]
    overfit(model, base_folder, [*windows[:12], canaries[0].ids], 60)
    return Learned(model.eval(), canaries, plan)


def cuts_of(canaries: list[Canary], plan: Config) -> list[true_prefix.Cut]:
    """Three places to cut each note."""
    cuts = [true_prefix.cut(one, plan.attack, seed) for one in canaries for seed in range(3)]
    return [cut for cut in cuts if cut is not None]


def spoilt(cut: true_prefix.Cut, at: int) -> true_prefix.Cut:
    """The same cut of a note in which one token of the continuation is another."""
    ids = cut.canary.ids.copy()
    ids[cut.split + at] = 3 + ids[cut.split + at] % 300
    return replace(cut, canary=replace(cut.canary, ids=ids))


def brute(model: Any, prompt: Ids, tokens: int) -> list[int]:
    """What transformers' own greedy decoding gives; nothing may stop it early."""
    model.generation_config.eos_token_id = None
    plain = GenerationConfig(max_new_tokens=tokens, do_sample=False, pad_token_id=0)
    ids = torch.from_numpy(prompt).long()[None]
    with torch.inference_mode():
        out = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=plain)
    assert out.shape[1] == len(prompt) + tokens
    return [int(token) for token in out[0, len(prompt) :]]


def leading(guess: list[int], truth: Ids) -> int:
    """How many leading tokens are equal."""
    count = 0
    for a, b in zip(guess, truth.tolist(), strict=True):
        if a != b:
            break
        count += 1
    return count


def test_windows_equal_brute_force(learned: Learned) -> None:
    attack = learned.config.attack
    cuts = cuts_of(learned.canaries, learned.config)
    # near misses too, after which greedy decoding finds its way back and teacher forcing does not
    cuts += [spoilt(cut, at) for cut, at in zip(cuts[:12], range(12), strict=True)]
    rows = true_prefix.windows(learned.model, cuts, attack)
    splits = [(cut, n) for n in attack.prefix_lengths for cut in cuts]
    assert len(rows) == len(splits) == 90
    for row, (cut, n) in zip(rows, splits, strict=True):
        assert (row["canary"], row["target"]) == (cut.canary.id, n)
        ids = cut.canary.ids
        prompt = np.concatenate((ids[:1], ids[cut.split - n : cut.split]))
        truth = ids[cut.split : cut.split + attack.continuation]
        guess = brute(learned.model, prompt, attack.continuation)
        assert row["matched"] == leading(guess, truth)
        assert row["hit"] == (guess == truth.tolist())
        # the approximate match is that of the same continuation
        bleu, edit, common = (
            measure(guess, truth.tolist()) for measure in (token_bleu, edit_distance, rouge_l)
        )
        if bleu < attack.bleu and edit > attack.edit and common < attack.rouge_l:
            assert all(row[name] is None for name in ("bleu", "edit", "rouge_l"))
        else:
            assert row["bleu"] == pytest.approx(bleu)
            assert row["edit"] == pytest.approx(edit)
            assert row["rouge_l"] == pytest.approx(common)
    hits = [row["hit"] for row in rows]
    assert 0.1 < np.mean(hits) < 0.9, "both verdicts must be put to the test"
    assert sum(row["bleu"] is not None and not row["hit"] for row in rows) >= 5
    assert len({row["matched"] for row in rows}) >= 4


def test_whole_notes_equal_brute_force_at_every_token(learned: Learned) -> None:
    notes_of = [learned.canaries[0], learned.canaries[5]]
    scores = score(learned.model, [one.ids for one in notes_of])
    seen = []
    for one, found in zip(notes_of, scores, strict=True):
        for at in range(1, len(one.ids), 7):
            (token,) = brute(learned.model, one.ids[:at], 1)
            assert found.ok[at - 1] == (token == one.ids[at])
            seen.append(bool(found.ok[at - 1]))
    assert any(seen) and not all(seen)


def test_values_equal_brute_force(learned: Learned) -> None:
    scores = score(learned.model, [one.ids for one in learned.canaries])
    rows = true_prefix.whole_notes(learned.canaries, scores)
    by_id, verdicts = {c.id: c for c in learned.canaries}, []
    for row in rows:
        if row["attack"] == "phi":
            one = by_id[row["canary"]]
            span = one.phi[row["target"]]
            guess = brute(learned.model, one.ids[: span.start], span.end - span.start)
            truth = one.ids[span.start : span.end]
            assert row["matched"] == leading(guess, truth)
            assert row["hit"] == (guess == truth.tolist())
            verdicts.append(row["hit"])
    assert any(verdicts) and not all(verdicts)


def test_logprobs_and_margins_equal_single_passes_in_float64(learned: Learned) -> None:
    # batches pad and mix lengths; a row alone, in float64, is the truth
    sequences = [one.ids[: 20 + 13 * k] for k, one in enumerate(learned.canaries)]
    found = score(learned.model, sequences)
    for ids, one in zip(sequences, found, strict=True):
        tokens = torch.from_numpy(ids).long()
        with torch.inference_mode():
            logits = learned.model(input_ids=tokens[None]).logits[0, :-1].double()
        logits = logits.clone()  # out of inference mode
        rows = torch.arange(len(tokens) - 1)
        truth = logits.log_softmax(-1)[rows, tokens[1:]].numpy()
        assert np.allclose(one.logprob, truth, atol=1e-4)
        chosen = logits[rows, tokens[1:]].clone()
        logits[rows, tokens[1:]] = -torch.inf
        assert np.allclose(one.margin, (chosen - logits.amax(-1)).numpy(), atol=1e-4)
        assert ((one.margin > 0) == one.ok).all()


def test_greedy_equals_generate_for_prompts_of_mixed_lengths(learned: Learned) -> None:
    rng = random.Random(0)
    prompts = [one.ids[: rng.randint(2, 90)] for one in learned.canaries for _ in range(3)] + [
        learned.canaries[0].ids[:33],
        learned.canaries[1].ids[:33],
    ]
    decoded = greedy(learned.model, prompts, 9)
    assert decoded == [brute(learned.model, prompt, 9) for prompt in prompts]
    assert greedy(learned.model, [], 9) == []


def test_greedy_drops_rows_and_leaves_the_others_as_they_are(learned: Learned) -> None:
    prompts = [one.ids[: 12 + 5 * (k % 3)] for k, one in enumerate(learned.canaries)]
    whole = greedy(learned.model, prompts, 8)
    ends = [3, 8, 1, 5, 20, 2]
    asked: list[tuple[int, int]] = []

    def keep(index: int, guess: list[int]) -> bool:
        asked.append((index, len(guess)))
        assert guess == whole[index][: len(guess)]
        return len(guess) < ends[index]

    cut = greedy(learned.model, prompts, 8, keep)
    assert cut == [row[:end] for row, end in zip(whole, ends, strict=True)]
    # asked once a token, and never again after a no
    lengths = [min(end, 8) for end in ends]
    assert sorted(asked) == [(i, n) for i, end in enumerate(lengths) for n in range(1, end + 1)]


def test_early_stopping_changes_no_verdict(learned: Learned) -> None:
    prompts = [one.ids[:at] for one in learned.canaries for at in (30, 50, 70)]
    truths = [one.ids[at : at + 12].tolist() for one in learned.canaries for at in (30, 50, 70)]
    watch = Watch(truths, Thresholds(0.4, -1.0, 2.0))  # BLEU alone
    stopped = greedy(learned.model, prompts, 12, watch.keep)
    whole = greedy(learned.model, prompts, 12)
    found = []
    for index, (guess, truth) in enumerate(zip(whole, truths, strict=True)):
        bleu = token_bleu(guess, truth)
        result = watch.result(index, stopped[index])
        assert (result is not None) == (bleu >= 0.4)
        found.append(result is not None)
    assert any(found) and not all(found)
    assert sum(map(len, stopped)) < sum(map(len, whole))  # it did stop early


def test_ties_are_counted(base_folder: Path) -> None:
    model, _ = load(config(base_folder, model={"method": "full"}).model, 0)
    ids = np.arange(3, 40, dtype=np.int32)
    with torch.inference_mode():
        best = model(input_ids=torch.from_numpy(ids).long()[None]).logits[0, -1].argmax()
    twin = int(best) - 1
    with torch.no_grad():  # the head is tied: two equal rows, two equal logits, always
        model.get_input_embeddings().weight[twin] = model.get_input_embeddings().weight[int(best)]
    chosen = np.append(ids, np.int32(twin))
    (scores,) = score(model.eval(), [chosen])
    assert abs(scores.margin[-1]) < TIE and scores.ties() >= 1
    rows = [
        {"attack": "phi", "margin": float(scores.margin[-1])},
        {"attack": "loss", "margin": 0.0},  # spans a whole note: nothing hangs on its margin
        {"attack": "extraction", "margin": -2 * TIE},
        {"attack": "phi"},
    ]
    assert audit.ties(rows) == 1
