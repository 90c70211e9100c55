"""`split`: one entry of data.clients that stands for several clients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedmem.config import Config
from fedmem.errors import ConfigError
from fedmem.loading import arm_configs, dump_config, load_config

FILE = {"kind": "jsonl", "path": "a.jsonl", "adapter": "medmcqa"}
SYNTHETIC = {"kind": "synthetic", "adapter": "mcq", "records": 11}
DIRICHLET = {"kind": "dirichlet", "clients": 3, "column": "subject", "alpha": 0.5}


def written(folder: Path, *clients: dict[str, Any], **sections: Any) -> Path:
    config = {"data": {"clients": [{"name": "site", "source": FILE} | c for c in clients]}}
    file = folder / "config.yaml"
    file.write_text(str(config | sections), encoding="utf-8")  # flow style
    return file


def test_an_entry_becomes_its_clients_and_loads_back(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, {"split": DIRICHLET, "lr": 0.1, "max_records": 9}))
    assert [client.name for client in config.data.clients] == ["site-1", "site-2", "site-3"]
    for number, client in enumerate(config.data.clients, start=1):
        assert client.part is not None
        assert (client.part.index, client.part.split.model_dump()) == (number, DIRICHLET)
        assert (client.split, client.lr, client.max_records) == (None, 0.1, 9)
    dumped = tmp_path / "resolved.yaml"
    dumped.write_text(dump_config(config), encoding="utf-8")
    assert load_config(dumped) == config
    assert Config.model_validate_json(config.model_dump_json()) == config


def test_arms_change_one_of_the_clients(tmp_path: Path) -> None:
    arms = {"fast": {"data.clients.site-2.lr": 0.5}}
    made = arm_configs(load_config(written(tmp_path, {"split": DIRICHLET}, arms=arms)))["fast"]
    assert [client.lr for client in made.data.clients] == [None, 0.5, None]


def test_synthetic_records_are_shared_out_by_number(tmp_path: Path) -> None:
    splits = ({"kind": "size", "shares": [5, 3, 2]}, {"kind": "iid", "clients": 2})
    entries = [
        {"name": name, "source": SYNTHETIC, "split": split}
        for name, split in zip("ab", splits, strict=True)
    ]
    clients = load_config(written(tmp_path, *entries)).data.clients
    assert [client.name for client in clients] == ["a-1", "a-2", "a-3", "b-1", "b-2"]
    assert [client.part for client in clients] == [None] * 5
    counts = [client.source.model_dump()["records"] for client in clients]
    assert sum(counts[:3]) == sum(counts[3:]) == 11
    assert counts[:3] == [6, 3, 2]


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([{"split": {"kind": "iidd", "clients": 2}}], "kind 'iidd' is not known; allowed: 'iid'"),
        ([{"split": {"clients": 2}}], "split .*kind is missing; allowed: 'iid', 'size', 'dirich"),
        ([{"split": DIRICHLET | {"alpha": 0}}], "split.alpha .*must be greater than 0"),
        ([{"split": {"kind": "size", "shares": [1, -1]}}], "split.shares.1 .*greater than 0"),
        ([{"split": {"kind": "iid", "clients": 2, "alpha": 1}}], "split.alpha .*unknown key"),
        ([{"source": SYNTHETIC, "split": DIRICHLET}], "synthetic records have no columns"),
        (
            [{"source": SYNTHETIC, "split": {"kind": "iid", "clients": 12}}],
            "split: 11 records for 12 clients",
        ),
        ([{"name": "x" * 39, "split": DIRICHLET}], "name: too long to be followed by -3"),
        ([{"split": DIRICHLET}, {"name": "other"}], "site-1 and other split one source in two"),
        (
            [{"split": DIRICHLET}, {"name": "b", "split": DIRICHLET | {"alpha": 1.0}}],
            "site-1 and b-1 split one source in two ways",
        ),
        ([{"split": DIRICHLET}, {"name": "b", "split": DIRICHLET}], "part 1 of a source .* twice"),
        (
            [{"split": DIRICHLET}, {"name": "site-2", "source": SYNTHETIC}],
            "the name 'site-2' stands twice",
        ),
        ([{"part": {"index": 4, "split": DIRICHLET}}], "part .*index: 4, of 3 parts"),
        (
            [{"split": DIRICHLET, "part": {"index": 1, "split": DIRICHLET}}],
            "give split or part, not both",
        ),
    ],
)
def test_faults_name_the_key(tmp_path: Path, entries: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(ConfigError, match=f"config.yaml: data.clients.*{said}") as fault:
        load_config(written(tmp_path, *entries))
    assert "\n" not in str(fault.value)
