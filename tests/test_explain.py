"""What the config says about sources that it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedmem import load_config
from fedmem.errors import ConfigError

HUB = "kind: hub, path: cais/mmlu, adapter: mmlu"


def refusal(source: str, key: str = "data.clients.0.source") -> str:
    with pytest.raises(ConfigError) as caught:
        load_config("quickstart", [f"{key}={source}"])
    text = str(caught.value)
    assert "\n" not in text
    return text.removeprefix(f"{key}={source}: ")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{path: a}", ["kind is missing", "'csv', 'parquet', 'disk', 'hub', 'synthetic'"]),
        ("{kind: parket}", ["'jsonl', 'csv'", "did you mean `parquet`?"]),
        ("{kind: csv, path: a, adapter: medmcq}", ["must be one of", "mean `medmcqa`?"]),
        ("{kind: synthetic, adapter: mc}", ["'mcq', 'closed', 'flashcards', 'mixed', not 'mc'"]),
        ("{kind: csv, path: a, adapter: mmlu, delimiter: ab}", ["delimiter", "'ab'"]),
        ("{kind: jsonl, path: a, adapter: mmlu, delimiter: ;}", ["unknown key"]),
        (f"{{{HUB}}}", ["source.revision", "missing"]),
        (f"{{{HUB}, revision: main}}", ["hash, 40 hex digits", "not 'main'"]),
        (f"{{{HUB}, revision: {'a' * 39}}}", ["a commit's hash, 40 hex digits"]),
        (
            "{kind: hub, path: mmlu, adapter: mmlu, revision: x}",
            ["must be ORGANISATION/NAME"],
        ),
    ],
)
def test_a_wrong_source_is_refused_with_what_is_allowed(source: str, expected: list[str]) -> None:
    text = refusal(source)
    for part in expected:
        assert part in text


@pytest.mark.parametrize("source", ["{path: a}", "{kind: x}", "{kind: csv, path: a, adapter: x}"])
def test_what_is_for_notes_alone_is_offered_for_notes_alone(source: str) -> None:
    text = refusal(source)
    assert "notes" not in text
    assert "i2b2_xml" not in text
    assert "notes" in (text := refusal(source, "data.canaries.source")) or "i2b2_xml" in text


def test_notes_for_a_client_are_refused() -> None:
    assert "notes come in through data.canaries" in refusal("{kind: i2b2_xml, path: a}")


def test_a_source_of_each_kind_is_taken(tmp_path: Path) -> None:
    revision = "0123456789abcdef" * 2 + "01234567"
    for source in (
        "{kind: csv, path: a.csv, adapter: generic, delimiter: ';', patient: who}",
        "{kind: parquet, path: a.parquet, adapter: medqa}",
        "{kind: disk, path: a, adapter: mmlu, split: train}",
        f"{{{HUB}, name: anatomy, revision: {revision}}}",
    ):
        loaded = load_config("quickstart", [f"data.clients.0.source={source}"])
        assert f"kind: {loaded.data.clients[0].source.kind}" in source
    config = load_config("quickstart", ["data.canaries.source={kind: i2b2_xml, path: notes}"])
    assert config.data.canaries.source.adapter == "notes"
