"""The section "What protects whom": no epsilon without what it needs, no cost waved away."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from fakerun import Truth, answers, metrics, write_answers, write_run

from fedmem import protection as rows_of
from fedmem.claims import NO_DP, Claim
from fedmem.metrics.summary import read_config
from fedmem.report.page import load_arms, render
from fedmem.report.protection import ALONE, figures, guarantee, reference, sentence, up, verdict
from fedmem.report.view import Arm

DP = Claim(
    what="client-level DP",
    where="clients clip, the server adds noise",
    protects="whether a client took part, from whoever sees the model",
    trust="the server, to add the noise",
    guarantee="(ε, δ)-DP",
    epsilon=7.9201,
    epsilon_rdp=8.613,
    delta=1e-5,
    unit="client",
    adjacency="add or remove one client",
    sampling="Poisson, q = 0.5",
    figures={"noise_multiplier": 1.1, "share_clipped": 0.25},
    notes=("not against the server",),
)
NOISE = Claim("Gaussian <noise>", "client", "blurs the model", "itself", figures={"sigma": 0.01})


def arms_of(tmp_path: Path, **wanted: Any) -> list[Arm]:
    """Arms by name: (claims, config changes, answers or None); those with claims are defended."""
    made = []
    for name, (claims, changes, told) in wanted.items():
        on = {"defences": [{"kind": "gaussian_noise", "sigma": 0.01}]} if claims else {}
        run = write_run(tmp_path / name, Truth(), name=f"quick-{name}", **on | changes)
        if told is not None:
            write_answers(run, told)
        made.append(run)
    return [
        replace(arm, summary=arm.summary | claimed(arm.path, claims))
        for arm, (claims, _, _) in zip(load_arms(made), wanted.values(), strict=True)
    ]


def claimed(run: Path, claims: list[Claim]) -> dict[str, Any]:
    """The part of a summary that follows from the claims."""
    rows = [rows_of.row(claim) for claim in claims]
    return {"protection": rows, "unprotected": rows_of.unprotected(read_config(run), rows)}


def section(arms: list[Arm]) -> str:
    text = render(arms)
    return (
        text.replace("\u00a0", " ")
        .split('<section aria-labelledby="protection">')[1]
        .split("</section>")[0]
    )


def words(html: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).split())


def cells(html: str, caption: str) -> list[list[str]]:
    table = next(t for t in re.findall(r"<table>.*?</table>", html, re.S) if caption in t)
    rows = re.findall(r"<tr>(.*?)</tr>", table, re.S)
    return [[words(c) for c in re.findall(r"<t[hd]\b.*?</t[hd]>", row, re.S)] for row in rows]


def test_nothing_on_is_said_plainly(tmp_path: Path) -> None:
    said = section(arms_of(tmp_path, plain=([], {}, None)))
    assert "<strong>No defence is switched on: nothing protects the participants.</strong>" in said
    assert "the server sees each client's update" in words(said)
    assert "Every participant sees every model" in said and "no differential privacy" in said
    assert "ε" not in said and "Cost in" not in said and ALONE not in said


def test_every_epsilon_stands_with_all_it_needs(tmp_path: Path) -> None:
    arms = arms_of(tmp_path, dp=([NOISE, DP], {}, None))
    said = section(arms)
    head, noise, dp = cells(said, "Defences and settings")
    found = dict(zip(head, dp, strict=True))
    assert "ε = 7.93 (by RDP 8.62) at δ = 1e−05" in found["guarantee"]
    for part in ("unit: client", "adjacency: add or remove one client", "sampling: Poisson"):
        assert part in found["guarantee"]
    assert found["whom one must trust"] == "the server, to add the noise"
    assert found["figures"] == "noise multiplier 1.1, share clipped 0.25"
    # and nowhere else on the page does an epsilon stand
    assert render(arms).count("ε\u00a0=") == said.count("ε = ") == 1
    assert "ε" not in " ".join(noise) and sentence(NO_DP) in noise and "<noise>" not in said


def test_a_claim_without_a_guarantee_never_prints_an_epsilon() -> None:
    infinite = replace(DP, epsilon=float("inf"))
    for claim in (NOISE, infinite):
        assert guarantee(rows_of.row(claim)) == NO_DP


def test_an_epsilon_is_never_rounded_down() -> None:
    assert [up(e) for e in (7.92, 7.9201, 1.0, 0.5, 0.0123, 0.01231, 0.0)] == [
        *("7.92", "7.93", "1.00", "0.50", "0.0123", "0.0124", "0.00")
    ]
    assert all(float(up(0.0013 * 1.07**n)) >= 0.0013 * 1.07**n * (1 - 1e-9) for n in range(200))


def test_figures_that_are_not_finite_are_a_dash() -> None:
    row = rows_of.row(replace(NOISE, figures={"snr": float("inf"), "sigma": 0.0123456}))
    assert figures(row) == "signal-to-noise ratio –, sigma 0.0123"


def test_alone_the_cost_is_not_known(tmp_path: Path) -> None:
    said = section(arms_of(tmp_path, noise=([NOISE], {}, answers())))
    assert ALONE in said and "Cost in utility" not in said
    (_, row) = cells(said, "Cost in time and bytes")
    assert row[0].endswith("noise") and row[2] == "9.1 s (9.1 s to 9.1 s)" and row[3] == "–"


def test_cost_in_utility_is_paired_by_question(tmp_path: Path) -> None:
    arms = arms_of(
        tmp_path,
        plain=([], {}, answers(right=0.8)),
        noise=([NOISE], {}, answers(right=0.3, nll=1.2)),
        same=([NOISE], {}, answers(right=0.8)),
    )
    said = section(arms)
    _, *rows = cells(said, "Cost in utility")
    found = {(row[0], row[2]): row for row in rows}
    assert len(found) == 6 and {row[1] for row in rows} == {"plain"}
    worse = found["noise", "mcq"]
    assert worse[4:6] == ["60", "0.300, was 0.800"]
    assert worse[6].startswith("−0.500 (−0.6") and worse[8] == "+0.200 (+0.200 to +0.200)"
    assert worse[3] == "accuracy: worse; NLL: worse" and worse[9] == "nothing"
    assert found["noise", "flashcards"][5:7] == ["–", "–"]
    # the same answers: no interval without width for shares, and nobody can tell
    like = found["same", "mcq"]
    assert like[6].startswith("0.000 (−0.0") or like[6].startswith("+0.000 (−0.0")
    assert like[3] == "accuracy: cannot tell; NLL: cannot tell"
    assert not re.search(r"costs? nothing|no cost|for free", words(said))


def test_too_few_questions_tell_nothing(tmp_path: Path) -> None:
    arms = arms_of(
        tmp_path,
        plain=([], {}, answers(questions=4)),
        noise=([NOISE], {}, answers(questions=4, nll=3.0)),
    )
    _, *rows = cells(section(arms), "Cost in utility")
    assert {row[2]: row[3] for row in rows}[
        "flashcards"
    ] == "NLL: cannot tell (fewer than 10 questions)"
    assert {row[2]: row[8] for row in rows}["flashcards"] == "+2.000"


def test_other_questions_are_not_paired(tmp_path: Path) -> None:
    arms = arms_of(
        tmp_path,
        plain=([], {"seed": 1}, answers()),
        noise=([NOISE], {}, answers()),
    )
    _, row = cells(section(arms), "Cost in utility")
    assert "the questions are not the same" in row[3] and row[9] == "seed"


def test_no_answers_no_change(tmp_path: Path) -> None:
    arms = arms_of(tmp_path, plain=([], {}, None), noise=([NOISE], {}, answers()))
    _, row = cells(section(arms), "Cost in utility")
    assert "no question was answered by both" in row[3]


def test_the_undefended_arm_that_is_nearest_is_the_one_to_compare_with(tmp_path: Path) -> None:
    full = {"model": {"method": "full"}}
    arms = arms_of(
        tmp_path,
        full=([], full, None),
        lora=([], {}, None),
        noise=([NOISE], {}, None),
        fuller=([NOISE], full | {"training": {"lr": 0.5}}, None),
    )
    assert [reference(arm, arms).name for arm in arms[2:]] == ["lora", "full"]  # type: ignore[union-attr]
    _, first, second = cells(section(arms), "Cost in utility")
    assert first[9] == "nothing" and second[9] == "training.lr"


def test_a_reading_that_is_better_is_called_so() -> None:
    row = {"n": 50, "scored": 50, "nll_change": (-0.2, -0.3, -0.1)}
    assert verdict(row | {"accuracy_change": (0.2, 0.1, 0.3)}) == "accuracy: better; NLL: better"
    assert verdict(row | {"accuracy_change": None}) == "NLL: better"


@pytest.mark.parametrize("claims", [[DP], [NOISE], []])
def test_the_page_stays_well_formed(tmp_path: Path, claims: list[Claim]) -> None:
    said = section(arms_of(tmp_path, arm=(claims, {}, None)))
    for tag in ("p", "ul", "li", "table", "div", "td", "th"):
        assert len(re.findall(rf"<{tag}\b", said)) == said.count(f"</{tag}>"), tag


def test_noise_without_a_clip_is_no_guarantee_for_real(tmp_path: Path) -> None:
    noise = [{"kind": "gaussian_noise", "sigma": 0.5, "at": at} for at in ("update", "weights")]
    run = write_run(tmp_path / "noise", defences=[*noise, {"kind": "clip", "norm": 0.1}])
    said = section(load_arms([run]))
    _, *rows = cells(said, "Defences and settings")
    assert len([row for row in rows if row[0] == "Gaussian noise"]) == 2
    assert all(row[3].startswith(sentence(NO_DP)) for row in rows)
    assert "ε" not in said and "sigma 0.5" in said and "no differential privacy" in said


def test_client_level_dp_for_real(tmp_path: Path) -> None:
    dp = {"kind": "client_dp", "norm": 0.1, "noise_multiplier": 2.0}
    run = write_run(tmp_path / "dp", defences=[dp], aggregation={"weights": "uniform"})
    (arm,) = load_arms([run])
    row = next(row for row in arm.summary["protection"] if row["epsilon"] is not None)
    # five rounds at z = 2 without sampling: one Gaussian at z = 2 / sqrt(5), delta 1e-5
    assert row["epsilon"] == pytest.approx(5.0, abs=0.5) and row["epsilon_rdp"] > row["epsilon"]
    _, *rows = cells(section([arm]), "Defences and settings")
    text = next(cell[3] for cell in rows if "client-level DP" in cell[0])
    assert f"ε = {up(row['epsilon'])}" in text and "unit: client" in text and "δ = 1e−05" in text


def test_an_epsilon_among_the_figures_is_not_shown_bare() -> None:
    row = rows_of.row(replace(NOISE, figures={"epsilon_least": 0.5, "sigma": 0.01}))
    assert row["figures"]["epsilon_least"] == 0.5 and figures(row) == "sigma 0.01"


def test_record_level_dp_for_real(tmp_path: Path) -> None:
    dp = {"noise_multiplier": 1.0}
    run = write_run(tmp_path / "dp", training={"dp": dp})
    bare = section(load_arms([run]))  # nobody told the accountant's figures
    assert "ε" not in bare and "ccountant state lost" in bare and sentence(NO_DP) in bare
    told = {"dp_noise_multiplier": 1.0, "dp_sample_rate": 0.1, "dp_steps": 10.0}
    told |= {"dp_units": 80.0, "dp_largest": 1.0, "dp_holders": 1.0}
    rows = metrics()
    for row in rows:
        row["train"] = {name: known | told for name, known in row["train"].items()}
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = section(load_arms([run]))
    _, found, *_ = cells(said, "Defences and settings")
    assert re.search(r"ε = \d+\.\d\d \(by RDP \d+\.\d\d\) at δ = 1e−05, unit: record", found[3])
    assert "each client trusts itself alone" in found[4] and said.count("ε = ") == 1
