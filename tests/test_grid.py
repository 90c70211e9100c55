"""The points of a sweep: which they are, what they are called, and what cannot be a grid."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedmem.errors import ConfigError
from fedmem.grid import Point, points
from fedmem.loading import load_config

SMALL = """\
name: small
data:
  clients: [{name: a, source: {kind: synthetic, adapter: mcq, records: 20}}]
"""
ARMS = "arms: {full: {model.method: full, training.lr: 1e-3}, lora: {}}\n"


def grid(folder: Path, text: str, *changes: str) -> dict[str, Point]:
    file = folder / "small.yaml"
    file.write_text(SMALL + text)
    return points(load_config(file, changes))


def test_every_combination_is_a_point(tmp_path: Path) -> None:
    found = grid(tmp_path, "sweep: {training.lr: [1e-3, 0.003], seed: [0, 1, 2]}")
    assert list(found) == [
        f"small-lr{lr}-seed{seed}" for lr in ("1e-3", "0_003") for seed in (0, 1, 2)
    ]
    for name, point in found.items():
        assert point.config.name == name and point.arm is None
        assert point.config.training.lr == float(point.values["training.lr"])
        assert point.config.seed == point.values["seed"]
        assert not point.config.sweep and not point.config.arms


def test_every_arm_at_every_point_and_the_sweep_s_value_counts(tmp_path: Path) -> None:
    found = grid(tmp_path, ARMS + "sweep: {training.lr: [2e-3, 4e-3]}")
    assert list(found) == [f"small-{a}-lr{lr}" for a in ("full", "lora") for lr in ("2e-3", "4e-3")]
    assert [(p.arm, p.config.model.method, p.config.training.lr) for p in found.values()] == [
        ("full", "full", 2e-3),
        ("full", "full", 4e-3),
        ("lora", "lora", 2e-3),
        ("lora", "lora", 4e-3),
    ]


def test_a_grid_can_be_given_and_changed_on_the_command_line(tmp_path: Path) -> None:
    found = grid(tmp_path, "sweep: {seed: [0, 1]}", "sweep.seed=[7]", "sweep.model.lora.r=[2, 4]")
    assert list(found) == ["small-r2", "small-r4"]  # what does not vary is not in a name
    assert {point.config.seed for point in found.values()} == {7}
    assert list(grid(tmp_path, "", "sweep.seed=[3]")) == ["small-seed3"]


def test_mappings_and_entries_of_lists_can_vary(tmp_path: Path) -> None:
    text = "sweep: {model.lora: [{r: 2}, {r: 4}], data.clients.a.source.records: [10, 20]}"
    found = grid(tmp_path, text)
    assert list(found)[:2] == ["small-lora1-records10", "small-lora1-records20"]
    point = found["small-lora2-records20"].config
    assert point.model.lora.r == 4 and point.data.clients[0].source.records == 20  # type: ignore[union-attr]


def test_names_stay_short_and_differ(tmp_path: Path) -> None:
    text = "sweep: {data.clients.a.max_records: [1, 2], data.max_records: [1, 2]"
    text += ", utility.max_records: [111, 222]}"
    found = grid(tmp_path, text)
    assert len(found) == 8
    assert all(len(name) <= 40 for name in found)
    again = grid(tmp_path, text)
    assert list(again) == list(found)
    # two keys that end alike make names that are alike: each gets its hash
    alike = grid(tmp_path, "sweep: {data.clients.a.max_records: [1, 2], data.max_records: [1, 2]}")
    assert len(alike) == 4


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ("{training.lrr: [1]}", r"sweep: training\.lrr: unknown key; did you mean `lr`"),
        ("{training.lr: [1e-3, -1]}", r"sweep: training\.lr: must be greater than 0, not -1"),
        ("{seed: []}", r"sweep\.seed: must have at least 1 entries"),
        ("{seed: 3}", r"sweep\.seed: must be a valid list, not 3"),
        ("{training: {lr: [1]}}", r"sweep\.training: must be a valid list"),
        ("{seed: [1, 2, 1]}", r"sweep\.seed: 1 stands twice"),
        ("{output: [a, b]}", "sweep: `output` cannot differ"),
        ("{name: [a, b]}", "sweep: `name` cannot differ"),
        ("{arms: [{}]}", "sweep: `arms` cannot differ"),
        ("{sweep.seed: [[1]]}", "sweep: `sweep` cannot differ"),
        ("{rounds.clients_per_round: [1, 2]}", r"sweep: rounds\.clients_per_round: 2 of 1 clients"),
        (f"{{seed: {list(range(10_001))}}}", r"sweep: 10001 runs, at most 10000 \(seed: 10001\)"),
    ],
)
def test_a_grid_that_cannot_be_says_where(tmp_path: Path, sweep: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"small\.yaml: {message}") as raised:
        grid(tmp_path, f"sweep: {sweep}\n")
    assert "\n" not in str(raised.value)


def test_an_arm_is_named_where_it_does_not_fit(tmp_path: Path) -> None:
    arms = "arms: {one: {rounds.local_steps: 3}, other: {}}\n"
    with pytest.raises(ConfigError, match=r"sweep, arm one: rounds: give local_epochs or"):
        grid(tmp_path, arms + "sweep: {rounds.local_epochs: [1, 2]}")


def test_a_key_that_yaml_reads_as_true_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"sweep\.defences: keys must be text"):
        grid(tmp_path, "sweep: {defences: [[], [{kind: clip, on: update}]]}")
