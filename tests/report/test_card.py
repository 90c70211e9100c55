"""The model card of real runs: a header that the hub reads, a warning, the run's own figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from huggingface_hub import ModelCard
from tiny import config

from fedmem import workspace as workspaces
from fedmem.config import Config
from fedmem.engine.inline import run_inline
from fedmem.report.card import card
from fedmem.rounds import Round
from fedmem.simulation import run


def made(base: Path, output: Path, **sections: Any) -> Path:
    sections = {"rounds": {"count": 1}, **sections}
    chosen: Config = config(base, output=str(output), **sections)
    return run(chosen).path


@pytest.fixture(scope="module")
def adapters(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(base_folder, tmp_path_factory.mktemp("runs"))


def test_the_header_is_one_that_the_hub_reads(adapters: Path) -> None:
    data = ModelCard.load(adapters / "MODEL_CARD.md").data
    assert data.library_name == "peft" and "lora" in data.tags
    assert data.base_model is None  # a folder has no name on the hub


def test_it_lies_beside_the_last_weights_too(adapters: Path) -> None:
    beside = adapters / "adapters" / "round_001" / "README.md"
    assert beside.read_bytes() == (adapters / "MODEL_CARD.md").read_bytes()


def test_it_says_what_the_summary_says_and_warns(adapters: Path) -> None:
    text = (adapters / "MODEL_CARD.md").read_text(encoding="utf-8")
    summary = json.loads((adapters / "summary.json").read_text())
    assert len(summary["sentences"]) >= 2
    assert all(sentence in text for sentence in summary["sentences"])
    assert "Treat them as you treat the\n> notes" in text
    assert "Not for clinical use" in text
    data = json.loads((adapters / "data.json").read_text())["clients"]["a"]
    counts = (data["records"], data["canaries"], data["canary_copies"], data["examples"])
    assert f"| a | {' | '.join(map(str, counts))} |" in text
    last = [row for row in summary["utility"] if row["round"] == 1]
    for row in last:
        assert f"| 1 | global | {row['task']} | {row['n']} |" in text
    # the verdicts in the table are those of the summary, row by row
    verdicts = [
        {None: "–", True: "yes", False: "no"}[row["clear"]]
        for row in summary["leakage"]
        if row["round"] == 1 and row["copies"] and row["prefix"] is None
        if row["attacker"] in ("*", "any")
    ]
    table = text.split("| clear of the twins |\n")[1].split("\n\n")[0].splitlines()[1:]
    assert [line.rstrip(" |").rpartition("| ")[2] for line in table] == verdicts


def test_a_clear_leak_is_called_clear_and_no_other(adapters: Path) -> None:
    summary = json.loads((adapters / "summary.json").read_text())
    for clear, word in ((True, "yes"), (False, "no"), (None, "–")):
        for row in summary["leakage"]:
            row["clear"] = clear
        changed = adapters.parent / f"changed-{word}"
        changed.mkdir()
        for name in ("config.yaml", "data.json"):
            (changed / name).write_bytes((adapters / name).read_bytes())
        (changed / "summary.json").write_text(json.dumps(summary))
        table = card(changed).split("| clear of the twins |\n")[1].split("\n\n")[0]
        assert {line[-4:].strip("| ") for line in table.splitlines()[1:]} == {word[-2:]}


def test_it_holds_no_path_and_nothing_of_a_note(adapters: Path, base_folder: Path) -> None:
    text = (adapters / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert str(base_folder.parent) not in text and str(adapters.parent) not in text
    assert adapters.name not in text  # the time would differ between equal runs
    assert base_folder.name in text
    rows = pq.read_table(adapters / "canaries.parquet").to_pylist()
    values = {value for row in rows for value in [*row["phi_values"], row["canary"], row["text"]]}
    values = {value for value in values if len(value) > 4}
    assert len(values) > 50
    assert [value for value in values if value in text] == []


def test_full_fine_tuning_alone_at_each_client(base_folder: Path, tmp_path: Path) -> None:
    path = made(base_folder, tmp_path, model={"method": "full"}, attack={"knowledge": []})
    text = (path / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert ModelCard(text).data.library_name == "transformers"
    assert "PeftModel" not in text and "nothing can be said of leakage" in text


def test_each_client_s_own_adapter_gets_one(base_folder: Path, tmp_path: Path) -> None:
    path = made(base_folder, tmp_path, rounds={"count": 1, "topology": "local"})
    found = {file.parent.name for file in (path / "adapters").rglob("README.md")}
    assert found == {"a", "b"}


def test_a_base_from_the_hub_is_named_in_the_header(adapters: Path, tmp_path: Path) -> None:
    for name in ("summary.json", "data.json"):
        (tmp_path / name).write_bytes((adapters / name).read_bytes())
    lines = (adapters / "config.yaml").read_text().splitlines()
    lines = ["  base: org/small" if line.startswith("  base:") else line for line in lines]
    lines = [f"  revision: '{'0' * 40}'" if x.startswith("  revision:") else x for x in lines]
    (tmp_path / "config.yaml").write_text("\n".join(lines))
    text = card(tmp_path)
    assert ModelCard(text).data.base_model == "org/small" and "0" * 40 in text


@pytest.mark.parametrize(
    ("method", "rule"), [("lora", "fedavg"), ("lora", "product"), ("full", "fedavg")]
)
def test_the_code_in_the_card_loads_the_model_that_was_saved(
    base_folder: Path, tmp_path: Path, method: str, rule: str
) -> None:
    sections = {"model": {"method": method}, "aggregation": {"rule": rule}}
    plan = config(base_folder, output=str(tmp_path), rounds={"count": 1}, **sections)
    done = run(plan)
    text = (done.path / "MODEL_CARD.md").read_text(encoding="utf-8")
    code = text.partition("```python\n")[2].partition("```")[0]
    folder = done.path / "adapters" / "round_001"
    code = code.replace("BASE", str(base_folder)).replace("FOLDER", str(folder))
    loaded: dict[str, Any] = {}
    exec(code, loaded)
    ids = torch.arange(3, 40).view(1, -1)
    workspace = workspaces.get(plan.model_dump_json())
    last: list[Round] = []
    run_inline(plan, last.append)
    with torch.no_grad():
        theirs = loaded["model"].eval()(input_ids=ids).logits
        ours = workspace.load(last[-1].models["global"])(input_ids=ids).logits
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-5)


def test_without_a_defence_the_card_and_privacy_json_say_so(adapters: Path) -> None:
    text = (adapters / "MODEL_CARD.md").read_text(encoding="utf-8")
    defences = text.split("## Defences")[1].split("\n## ")[0]
    assert "None." in defences and "nothing protects the participants" in defences
    assert "ε" not in defences
    privacy = json.loads((adapters / "privacy.json").read_text())
    summary = json.loads((adapters / "summary.json").read_text())
    assert privacy["claims"] == summary["protection"] and privacy["audited"] is None
    assert all(row["epsilon"] is None for row in privacy["claims"])


def test_defences_of_a_run_stand_in_its_card(base_folder: Path, tmp_path: Path) -> None:
    noise = {"kind": "gaussian_noise", "sigma": 0.001}
    defences = [{"kind": "clip", "norm": 0.01}, noise]
    path = made(base_folder, tmp_path, defences=defences, attack={"knowledge": []})
    text = (path / "MODEL_CARD.md").read_text(encoding="utf-8")
    defences_ = text.split("## Defences")[1].split("\n## ")[0]
    assert "- **update clipping**, each client, before it sends: L2 norm at most 0.01." in defences_
    assert "- **Gaussian noise**" in defences_ and "signal-to-noise ratio" in defences_
    assert "Guarantee: no DP guarantee." in defences_ and "ε" not in defences_
    assert "What stays open" in defences_ and "the server sees each client's update" in defences_
    clip = json.loads((path / "privacy.json").read_text())["claims"][0]
    assert clip["figures"]["clipped"] == 1.0 and clip["figures"]["norm"] > 0.01
