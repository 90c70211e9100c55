"""MODEL_CARD.md: what a run's adapters are, how they were made, what they give back.

The same file lies as README.md, where the Hugging Face hub looks for it, beside the weights of the
last round: they are what people pass on. It says nothing that differs between equal runs, and no
path: its bytes follow from the config, the seed and the data.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined

from fedmem.metrics.headline import interval, percent
from fedmem.metrics.summary import read_config, read_json
from fedmem.model.base import BUNDLED
from fedmem.report.protection import figures, guarantee, sentence
from fedmem.report.view import ATTACKS, KNOWLEDGE, clear, full, level, number
from fedmem.rundir import RunDir
from fedmem.versions import fedmem_version

CARD = "MODEL_CARD.md"
TEMPLATE = Path(__file__).parent / "card.md.j2"


def write_card(directory: RunDir) -> Path:
    """Write the card of a run with a summary.json; returns it. DataError where a file is amiss."""
    text = card(directory.path)
    last = max((directory.path / "adapters").glob("round_*"), default=None)
    for weights in sorted(last.rglob("*.safetensors")) if last else []:
        beside = weights.with_name("README.md").relative_to(directory.path)
        directory.write_text(beside.as_posix(), text)
    return directory.write_text(CARD, text)


def card(run: Path) -> str:
    """The card as text: a YAML header as on the Hugging Face hub, then Markdown."""
    summary, data = read_json(run / "summary.json"), read_json(run / "data.json")
    config = read_config(run).model_dump(mode="json")
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    last = summary["last_round"]
    return template.render(
        header=yaml.safe_dump(header(config), sort_keys=False, allow_unicode=True).strip(),
        config=config,
        base=base(config),
        summary=summary,
        clients=data["clients"],
        twins=next((lv["notes"] for lv in summary["levels"] if not lv["copies"]), 0),
        levels=[lv for lv in summary["levels"] if lv["copies"]],
        protections=[(row, guarantee(row), figures(row)) for row in summary["protection"]],
        sentence=sentence,
        utility=[row for row in summary["utility"] if row["round"] in (0, last)],
        leakage=leaks(summary),
        accuracy=accuracy,
        nll=nll,
        clear=clear,
        full=full,
        level=level,
        attacks=ATTACKS,
        knowledge=KNOWLEDGE,
        version=fedmem_version(),
    )


def header(config: dict[str, Any]) -> dict[str, Any]:
    """Metadata of the hub's kind. `base_model` only where the base has a name on the hub."""
    # averaged products are dense: no adapter that PEFT could load
    lora = config["model"]["method"] == "lora" and config["aggregation"]["rule"] != "product"
    found = {
        "library_name": "peft" if lora else "transformers",
        "pipeline_tag": "text-generation",
        "language": "en",
        "license": "other",
        "license_name": "as-the-base-and-the-data",
        "tags": ["fedmem", "memorization", "federated-learning", *(["lora"] if lora else [])],
    }
    on_hub = config["model"]["revision"] is not None
    return {"base_model": config["model"]["base"], **found} if on_hub else found


def base(config: dict[str, Any]) -> str:
    """The base in words, without a path."""
    model = config["model"]
    if model["base"] == BUNDLED:
        return "the small Llama that comes with fedmem"
    if model["revision"]:
        return f"`{model['base']}` at commit `{model['revision']}`"
    return f"a local folder called `{Path(model['base']).name}`"


def leaks(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """The last round's shares of notes, named attackers joined, all prompt lengths joined."""
    return [
        row
        for row in summary["leakage"]
        if row["round"] == summary["last_round"] and row["copies"] and row["prefix"] is None
        if row["attacker"] in ("*", "any")
    ]


def accuracy(row: dict[str, Any]) -> str:
    """As in "58 % (46–69 %), chance 25 %"."""
    if row["accuracy"] is None:
        return "–"
    share = f"{percent(row['accuracy'])} % ({interval(row)})"
    return f"{share} of {row['scored']}, chance {percent(row['chance'])} %"


def nll(row: dict[str, Any]) -> str:
    """As in "0.990 (0.880–1.100)"."""
    return f"{number(row['nll'])} ({number(row['nll_low'])}–{number(row['nll_high'])})"
