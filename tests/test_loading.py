"""From YAML and overrides to a config: what is accepted, and what each refusal says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fedmem.config import Config
from fedmem.errors import ConfigError
from fedmem.layers import set_path
from fedmem.loading import (
    arm_configs,
    config_hash8,
    dump_config,
    find_config,
    load_config,
    packaged_configs,
)

BASE = """\
name: small
data:
  clients:
    - {name: a, source: {kind: synthetic, adapter: mcq}}
    - {name: b, source: {kind: synthetic, adapter: closed}}
training: {lr: 1e-3}
arms:
  full: {model: {method: full}}
  lora: {training.lr: 3e-3}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(BASE)
    return path


def refusal(file: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(file, overrides)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_numbers_that_yaml_reads_as_text_become_numbers(file: Path) -> None:
    assert load_config(file).training.lr == 1e-3


def test_overrides_reach_mappings_lists_and_clients_by_name(file: Path) -> None:
    config = load_config(
        file, ["rounds.count=2", "data.clients.0.source.records=5", "data.clients.b.lr=1e-4"]
    )
    assert config.rounds.count == 2
    assert config.data.clients[0].source.records == 5  # type: ignore[union-attr]
    assert config.data.clients[1].lr == 1e-4


def test_override_with_a_mapping_replaces_the_whole_value(file: Path) -> None:
    source = "data.clients.0.source={kind: jsonl, path: x.jsonl, adapter: medmcqa}"
    assert load_config(file, [source]).data.clients[0].source.kind == "jsonl"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("trainin.lr=1", ["trainin.lr=1", "unknown key", "did you mean `training`?"]),
        ("training.lrr=1", ["training.lrr", "did you mean `lr`?"]),
        ("lr=1", ["did you mean `training.lr`?"]),
        ("zzz=1", ["unknown key", "allowed here: name, seed"]),
        ("training.lr=abc", ["training.lr: must be a valid number, not 'abc'"]),
        ("training.lr=-1", ["training.lr: must be greater than 0, not -1"]),
        ("rounds.count=1.5", ["rounds.count", "integer", "1.5"]),
        ("rounds.clients_per_round=0", ["must be 'all' or greater than or equal to 1, not 0"]),
        ("rounds.clients_per_round=9", ["rounds.clients_per_round: 9 of 2 clients"]),
        ("rounds.topology=federatd", ["'federated', 'centralized'", "did you mean `federated`?"]),
        ("data.clients.1.lrr=2", ["data.clients.1.lrr (client 'b')", "did you mean `lr`?"]),
        ("data.clients.0.source.kind=jsnl", ["(client 'a')", "did you mean `jsonl`?"]),
        ("data.clients.0.source={adapter: mcq}", ["kind is missing", "'hub', 'synthetic'"]),
        ("data.clients.0.source={kind: jsonl, adapter: generic}", ["source.path", "missing"]),
        ("data.clients=[]", ["data.clients", "at least 1"]),
        ("data.clients.1.name=a", ["data.clients: the name 'a' stands twice"]),
        ("data.clients.7.lr=1", ["`data.clients` has 2 entries", "none is `7`"]),
        ("data.canaries.levels.0.notes=2", ["no list `data.canaries.levels`", "give it whole"]),
        ("name=a b", ["name: must be 1 to 40 letters"]),
        ("name.x=1", ["`name` is a text and has no key `x`"]),
        ("model=5", ["model: must be a mapping"]),
        ("training.lr=[1", ["training.lr=[1", "not valid YAML"]),
        ("training.lr=.nan", ["training.lr: must be", "nan"]),
        ("training.lr", ["written key=value"]),
        ("=1", ["written key=value"]),
        ("arms.ful.seed=1", ["no arm `ful`", "did you mean `full`?"]),
        ("arms.full.training.lrr=1", ["arms.full", "training.lrr", "did you mean `lr`?"]),
        ("arms.full.name=x", ["arms.full", "`name` cannot differ between runs"]),
    ],
)
def test_a_bad_override_is_refused_in_one_clear_line(
    file: Path, override: str, expected: list[str]
) -> None:
    text = refusal(file, override)
    for part in expected:
        assert part in text


def test_a_fault_of_the_file_is_not_blamed_on_an_override(file: Path) -> None:
    file.write_text(BASE.replace("lr: 1e-3", "lr: fast"))
    assert refusal(file, "training.batch_size=2").startswith(f"{file}: training.lr: must be")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", ["is empty"]),
        (b"# only a comment\n", ["is empty"]),
        (b"- a\n- b\n", ["must be a mapping", "list"]),
        (b"name: x\nname: y\n", [":2:", "`name` stands twice"]),
        (b"name: x\ndata: {a: 1, a: 2}\n", [":2:", "`a` stands twice"]),
        (b"name: x\ndata: [1\nseed: 2\n", [":3:", "not valid YAML"]),
        (b"name: \xff\xfe\n", [":1:", "not UTF-8"]),
        (b"name: x\x00\n", ["not valid YAML"]),
        (b"name: !!python/object:os.system x\n", ["not valid YAML"]),
        (b"[" * 5000, ["not valid YAML"]),
        (b"name: x\n", ["data: missing"]),
        (b"name: x\ndatas: {clients: []}\n", ["datas: unknown key", "did you mean `data`?"]),
    ],
)
def test_a_bad_file_is_named_with_its_line(
    tmp_path: Path, content: bytes, expected: list[str]
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    text = refusal(path)
    assert text.startswith(str(path))
    for part in expected:
        assert part in text


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert "no such config file" in refusal(tmp_path / "none.yaml")
    assert "is a folder" in refusal(tmp_path)


def test_configs_that_come_along_are_found_by_name_and_load() -> None:
    assert "quickstart" in packaged_configs()
    for name, path in packaged_configs().items():
        assert find_config(name) == path
        assert load_config(name).name


# --- overrides equal YAML ------------------------------------------------------------------

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "seed": st.integers(0, 2**31 - 1),
    "name": st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,20}", fullmatch=True),
    "model.base": st.text(st.characters(categories=["L", "N", "P", "Zs", "S"]), min_size=1),
    "model.lora.r": st.integers(1, 4096),
    "model.lora.targets": st.lists(st.sampled_from(["q_proj", "v_proj", "up_proj"])),
    "training.lr": st.floats(1e-12, 10),
    "training.max_grad_norm": st.none() | st.floats(0.001, 1e6),
    "training.packing": st.booleans(),
    "data.clients.1.lr": st.none() | st.floats(1e-9, 1),
    "data.clients.0.source.records": st.integers(1, 100_000),
    "data.canaries.twins": st.integers(0, 100),
    "attack.prefix_lengths": st.lists(st.integers(1, 2000)),
}
CHOICES = st.fixed_dictionaries({}, optional=VALUES)


@given(CHOICES)
def test_any_key_set_by_override_equals_the_value_set_in_yaml(
    tmp_path_factory: pytest.TempPathFactory, choices: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("overrides")
    plain = folder / "plain.yaml"
    plain.write_text(BASE)
    tree = yaml.safe_load(BASE)
    for key, value in choices.items():
        here = tree
        *way, last = (int(part) if part.isdigit() else part for part in key.split("."))
        for part in way:
            here = here[part] if isinstance(part, int) else here.setdefault(part, {})
        here[last] = value
    written = folder / "written.yaml"
    written.write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")
    overrides = [f"{key}={yaml.safe_dump(value)}" for key, value in choices.items()]
    config = load_config(plain, overrides)
    assert config == load_config(written)
    for key, value in choices.items():
        here = config.model_dump()
        for part in key.split("."):
            here = here[int(part) if part.isdigit() else part]
        assert here == value


@given(CHOICES)
def test_a_dumped_config_loads_back_equal(
    tmp_path_factory: pytest.TempPathFactory, choices: dict[str, Any]
) -> None:
    tree = yaml.safe_load(BASE)
    for key, value in choices.items():
        set_path(tree, key.split("."), value, "test")
    config = Config.model_validate(tree)
    file = tmp_path_factory.mktemp("dump") / "config.yaml"
    file.write_text(dump_config(config), encoding="utf-8")
    assert load_config(file) == config
    assert config_hash8(load_config(file)) == config_hash8(config)


def test_yaml_anchors_do_not_tie_two_clients_together(tmp_path: Path) -> None:
    file = tmp_path / "anchor.yaml"
    file.write_text(
        "data:\n  clients:\n"
        "    - {name: a, source: &s {kind: synthetic, adapter: mcq}}\n"
        "    - {name: b, source: *s}\n"
    )
    config = load_config(file, ["data.clients.0.source.records=7"])
    assert [c.source.records for c in config.data.clients] == [7, 200]  # type: ignore[union-attr]


# --- arms and the hash ---------------------------------------------------------------------


def test_arms_merge_mappings_and_set_dotted_keys(file: Path) -> None:
    arms = arm_configs(load_config(file, ["model.lora.r=4"]))
    assert list(arms) == ["full", "lora"]
    assert arms["full"].name == "small-full"
    assert arms["full"].model.method == "full"
    assert arms["full"].model.lora.r == 4  # a nested mapping is merged, not put in place
    assert arms["full"].training.lr == 1e-3
    assert arms["lora"].training.lr == 3e-3
    assert not arms["lora"].arms


def test_an_override_of_an_arm_wins_over_the_arm_in_the_file(file: Path) -> None:
    config = load_config(file, ["arms.lora.training.lr=5e-3", "arms.full.model.lora.r=2"])
    assert arm_configs(config)["lora"].training.lr == 5e-3
    assert arm_configs(config)["full"].model.lora.r == 2
    assert arm_configs(config)["full"].model.method == "full"


def test_an_arm_changes_a_client_by_number_or_name_and_a_source_as_a_whole(file: Path) -> None:
    source = "{kind: jsonl, path: x.jsonl, adapter: medmcqa}"
    override = f"arms={{x: {{data: {{clients: {{b: {{lr: 1e-4}}, 0: {{source: {source}}}}}}}}}}}"
    clients = arm_configs(load_config(file, [override]))["x"].data.clients
    assert clients[1].lr == 1e-4
    assert clients[0].source.kind == "jsonl"


def test_the_hash_tells_configs_apart_but_not_where_they_are_written(file: Path) -> None:
    plain = config_hash8(load_config(file))
    assert plain == config_hash8(load_config(file, ["output=elsewhere"]))
    assert plain != config_hash8(load_config(file, ["seed=1"]))
    assert len(plain) == 8


# --- extends -------------------------------------------------------------------------------


def test_a_config_lies_over_the_one_that_it_extends(file: Path) -> None:
    over = file.with_name("over.yaml")
    over.write_text(
        "extends: small.yaml\nname: over\ndata: {clients: {b: {lr: 1e-4}}}\n"
        "arms: {full: {training.lr: 2e-3}}\n"
    )
    config = load_config(over, ["seed=3"])
    assert (config.name, config.seed, config.training.lr) == ("over", 3, 1e-3)
    assert [client.lr for client in config.data.clients] == [None, 1e-4]
    arms = arm_configs(config)
    assert (arms["full"].model.method, arms["full"].training.lr) == ("full", 2e-3)
    assert arms["lora"].training.lr == 3e-3
    third = file.with_name("third.yaml")
    third.write_text("extends: over.yaml\nseed: 5\n")
    assert load_config(third).data.clients[1].lr == 1e-4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("extends: none.yaml\n", "extends: none.yaml: no such config file"),
        ("extends: [a]\n", "extends: must name a config file"),
        ("extends: over.yaml\n", "goes round in a circle: over.yaml extends over.yaml"),
        ("extends: small.yaml\ntrainin: {}\n", "unknown key; did you mean `training`?"),
        (
            "extends: small.yaml\ndata: {clients: {z: {lr: 1}}}\n",
            "`data.clients` has 2 entries, counted from 0; none is `z`",
        ),
    ],
)
def test_what_cannot_be_extended_is_said_in_one_line(file: Path, text: str, expected: str) -> None:
    over = file.with_name("over.yaml")
    over.write_text(text)
    assert expected in refusal(over)


def test_a_fault_is_said_of_the_file_that_it_stands_in(file: Path) -> None:
    over = file.with_name("over.yaml")
    over.write_text("extends: small.yaml\nname: over\n")
    file.write_text(file.read_text().replace("lr: 1e-3", "lr: fast"))
    assert "lr: fast" in file.read_text()
    assert refusal(over).startswith(f"{file}: training.lr")
    over.write_text("extends: small.yaml\ntraining: {lr: slow}\n")
    assert refusal(over).startswith(f"{over}: training.lr")


def test_a_config_that_comes_along_can_be_extended_by_its_name(tmp_path: Path) -> None:
    over = tmp_path / "over.yaml"
    over.write_text("extends: quickstart\nname: over\nseed: 7\n")
    mine, quick = load_config(over), load_config("quickstart")
    assert mine == quick.model_copy(update={"name": "over", "seed": 7})
    over.write_text("extends: quickstrt\n")
    assert "over.yaml: extends: quickstrt: no such config file; did you mean" in refusal(over)
