"""The ways of training tell what they did, and never of a guarantee."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import config

from fedmem.claims import NO_DP, History
from fedmem.training.claims import claims, usual

ROUND = {
    "a": {"loss": 1.0, "dropped": 0.2, "grad_norm": 3.0, "grad_clipped": 1.0},
    "b": {"loss": 1.0, "dropped": 0.3, "grad_norm": 1.0, "grad_clipped": 0.5},
}
HISTORY = History(("a", "b"), (("a", "b"),), (ROUND,), ({},))
NONE = History(("a", "b"), (), (), ())


def plan(model: dict[str, Any] | None = None, **training: Any) -> Any:
    return config(Path("nowhere"), model=model or {}, training=training)


def test_plain_training_claims_nothing_and_tells_what_is_usual() -> None:
    assert claims(plan(), HISTORY) == []
    lora, clipping = usual(plan(), HISTORY)
    assert lora.figures == {"rank": 4} and "rank 4" in lora.where
    assert clipping.figures == {"max_grad_norm": 1, "grad_norm": 2, "grad_clipped": 0.75}
    assert usual(plan({"method": "full"}, max_grad_norm=None), HISTORY) == []


@pytest.mark.parametrize(
    ("model", "training", "what", "figures"),
    [
        ({}, {"objective": {"kind": "goldfish", "k": 3}}, "Goldfish", {"k": 3, "dropped": 0.25}),
        ({}, {"neftune": 5}, "NEFTune", {"alpha": 5}),
        ({"lora": {"dropout": 0.1}}, {}, "LoRA dropout", {"dropout": 0.1}),
        (
            {"method": "full"},
            {"max_grad_norm": 1e-3},
            "gradient clipping",
            {"max_grad_norm": 1e-3, "grad_norm": 2, "grad_clipped": 0.75},
        ),
    ],
)
def test_each_is_claimed_with_its_figures_and_no_guarantee(
    model: dict[str, Any], training: dict[str, Any], what: str, figures: dict[str, float]
) -> None:
    (claim,) = claims(plan(model, **training), HISTORY)
    assert claim.what.startswith(what) and claim.figures == figures
    assert claim.guarantee == NO_DP and claim.epsilon is None and claim.trust
    assert "attacks here" in claim.protects
    # before the first round there is nothing measured yet
    (early,) = claims(plan(model, **training), NONE)
    assert early.figures.items() <= figures.items()


def test_dropout_of_full_fine_tuning_is_no_claim() -> None:
    assert claims(plan({"method": "full", "lora": {"dropout": 0.1}}), HISTORY) == []


def test_goldfish_says_which_tokens_it_never_drops() -> None:
    hashed = plan(objective={"kind": "goldfish", "context": 7})
    static = plan(objective={"kind": "goldfish", "strategy": "static"})
    assert any("first 7 tokens" in note for note in claims(hashed, HISTORY)[0].notes)
    assert not any("first" in note for note in claims(static, HISTORY)[0].notes)
