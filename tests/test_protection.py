"""Claims as rows: numbers finite or null, and never more than the claim holds."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from fakerun import config as fake_config
from fakerun import metrics, write_run

from fedmem import protection
from fedmem.claims import NO_DP, Claim
from fedmem.config import Config
from fedmem.metrics.summary import summarise


def config(**sections: Any) -> Config:
    return Config.model_validate(fake_config(**sections))


def claim(**changes: Any) -> Claim:
    dp = {"guarantee": "(ε, δ)-DP", "epsilon": 7.9201, "epsilon_rdp": 8.6, "delta": 1e-5}
    dp |= {"unit": "record", "adjacency": "add or remove one", "sampling": "Poisson, q = 0.008"}
    base = {"what": "DP-SGD", "where": "training", "protects": "a record", "trust": "its client"}
    return Claim(**{**base, **dp, **changes})  # type: ignore[arg-type]


def test_a_claim_as_a_row() -> None:
    row = protection.row(claim(figures={"sigma": 0.5}, notes=("a note",)))
    assert row["epsilon"] == 7.9201 and row["delta"] == 1e-5 and row["figures"] == {"sigma": 0.5}
    assert row["notes"] == ["a note"]
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    names = "what where protects trust guarantee epsilon epsilon_rdp delta unit adjacency sampling"
    assert sorted(row) == sorted([*names.split(), "figures", "notes"])


@pytest.mark.parametrize("epsilon", [math.inf, math.nan])
def test_an_epsilon_that_is_none_is_no_guarantee(epsilon: float) -> None:
    row = protection.row(claim(epsilon=epsilon, epsilon_rdp=12.0, figures={"snr": math.inf}))
    assert row["guarantee"] == NO_DP
    assert [row[key] for key in ("epsilon", "epsilon_rdp", "delta")] == [None, None, None]
    assert row["figures"] == {"snr": None}
    assert "The accountant gives no finite epsilon." in row["notes"]
    json.dumps(row, allow_nan=False)


def test_words_without_an_epsilon_are_a_note_and_no_guarantee() -> None:
    bare = dict.fromkeys(("epsilon", "epsilon_rdp", "delta", "unit", "adjacency", "sampling"))
    row = protection.row(claim(**bare, guarantee="as good as DP"))
    assert row["guarantee"] == NO_DP and row["notes"] == ["as good as DP"]


def test_history_holds_finished_rounds_and_does_without_a_servers_figures() -> None:
    rows = [
        {"round": 0, "participants": ["north"], "train": {}, "ties": 0},
        *metrics(3, {2: "west"}),
    ]
    rows[3]["server"] = {"noise": 0.5}
    found = protection.history(config(), rows)
    assert found.clients == ("north", "south", "west")
    assert [len(names) for names in found.participants] == [3, 2, 3]
    assert found.mean("tokens") == 9000 and found.mean("noise") == 0.5
    assert found.server == ({}, {}, {"noise": 0.5})


@pytest.mark.parametrize(
    ("topology", "said"),
    [
        ("federated", "the server sees each client's update of every round by itself."),
        ("centralized", "All clients' records lie in one place"),
        ("local", "whoever is given a client's model can ask it"),
    ],
)
def test_without_a_defence_it_says_so(topology: str, said: str) -> None:
    plain = config(rounds={"topology": topology})
    assert not protection.defended(plain)
    found = protection.unprotected(plain, [])
    assert found[0] == "No defence is switched on: nothing protects the participants."
    assert said in " ".join(found) and "There is no differential privacy" in found[-1]


NOISE = {"kind": "gaussian_noise", "sigma": 0.01}


@pytest.mark.parametrize(
    "sections",
    [
        {"defences": [NOISE]},
        {"training": {"neftune": 5.0}},
        {"training": {"objective": {"kind": "goldfish"}}},
    ],
)
def test_what_counts_as_a_defence(sections: Any) -> None:
    assert protection.defended(config(**sections))
    assert not protection.defended(config(training={"max_grad_norm": 0.5}))


def test_what_stays_open_beside_a_defence() -> None:
    noise = protection.row(Claim("noise", "client", "blurs", "itself"))
    dp = protection.row(claim())
    without = " ".join(protection.unprotected(config(defences=[NOISE]), [noise]))
    assert "the server sees each client's update of every round by itself, as that" in without
    assert "no differential privacy" in without and "nothing protects" not in without
    covered = " ".join(protection.unprotected(config(defences=[NOISE]), [noise, dp]))
    assert "no differential privacy" not in covered and "not a learning rate" in covered


def test_measured_figures_go_with_the_defence_that_told_them() -> None:
    chosen = config(defences=[{"kind": "clip", "norm": 0.5}, NOISE, NOISE])
    rows = metrics(2)
    for row in rows:
        row["train"] = {
            name: {"1.clip.clipped": float(name == "west"), "2.gaussian_noise.snr": row["round"]}
            for name in row["participants"]
        }
        row["server"] = {"3.gaussian_noise.snr": 7.0}
    found = protection.claims(chosen, protection.history(chosen, rows))
    clip, first, second = (c for c in found if c.what in ("update clipping", "Gaussian noise"))
    assert clip.figures["clipped"] == pytest.approx(1 / 3)
    assert (first.figures["snr"], second.figures["snr"]) == (1.5, 7.0)
    assert first.figures["sigma"] == 0.01 and "clipped" not in first.figures


def test_a_run_holds_its_claims_and_says_what_is_open(tmp_path: Any) -> None:
    summary = summarise(write_run(tmp_path / "run"))
    assert summary["defended"] is False
    assert all(row["epsilon"] is None for row in summary["protection"])
    document = protection.document(summary)
    assert document["schema"] == 1 and document["audited"] is None
    assert document["claims"] == summary["protection"]
    assert "nothing protects" in document["unprotected"][0]
    json.dumps(document, allow_nan=False)


def test_secure_aggregation_hides_single_updates_and_no_more() -> None:
    secure = config(aggregation={"secure": {"enabled": True}})
    found = next(
        c
        for c in protection.claims(secure, protection.history(secure, metrics(2)))
        if "secure" in c.what
    )
    assert found.guarantee == NO_DP and found.epsilon is None
    assert "from the server, which sees sums over" in found.protects
    assert "other clients see every one" in found.protects
    assert "a server that lies" in found.trust and "collude" in found.trust
    assert found.figures["clients_a_round"] == 3
    left = " ".join(protection.unprotected(secure, [protection.row(found)]))
    assert "no secure aggregation" not in left and "Every participant sees every model" in left
    assert "no differential privacy" in left and "This was a simulation" in left


def test_every_claim_says_whom_one_must_trust() -> None:
    kinds = [{"kind": "clip"}, {"kind": "adaptive_clip"}, NOISE]
    chosen = config(
        defences=kinds,
        training={"neftune": 5.0, "objective": {"kind": "goldfish"}},
        aggregation={"secure": {"enabled": True}},
    )
    found = protection.claims(chosen, protection.history(chosen, metrics(2)))
    assert len(found) >= 6
    assert all(c.trust and c.protects and c.where and c.guarantee == NO_DP for c in found)
