"""Secure aggregation under Flower's own commands, as real processes on loopback."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from flowernet import Net, app_copy
from safetensors.numpy import load_file
from tiny import config

from fedmem.loading import dump_config
from fedmem.simulation import run

NAMES = ("a", "b", "c")


@pytest.mark.heavy
def test_three_hospitals_end_with_the_model_of_a_simulation(
    base_folder: Path, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    root.mkdir()
    for at, name in enumerate(NAMES):
        rows = [{"prompt": f"{name} {i}?", "completion": f"{name} {i}"} for i in range(8 + 4 * at)]
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    clients = [
        {"name": n, "source": {"kind": "jsonl", "path": f"{n}.jsonl", "adapter": "generic"}}
        for n in NAMES
    ]
    made = config(
        base_folder,
        output=str(tmp_path / "deployed"),
        data={"clients": clients},
        rounds={"count": 1},
        aggregation={"secure": {"enabled": True, "max_examples": 100}},
    )
    file = tmp_path / "three.yaml"
    file.write_text(dump_config(made))
    app = app_copy(tmp_path / "app")
    with Net(tmp_path, tls=False) as net:
        for partition in range(3):
            net.node(partition, 3, root)
        done = net.flwr("run", str(app), "lab", "--stream", "--run-config", f'config="{file}"')
        said = done.stdout + done.stderr + net.log("superlink")
        assert done.returncode == 0, said
        (folder,) = (tmp_path / "deployed").iterdir()
        assert json.loads((folder / "manifest.json").read_text())["status"] == "finished", said

    data = made.data.model_copy(update={"root": root})
    inline = run(made.model_copy(update={"data": data, "output": tmp_path / "inline"})).path
    adapter = "adapters/round_001/adapter_model.safetensors"
    ours, theirs = load_file(inline / adapter), load_file(folder / adapter)
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_allclose(theirs[name], ours[name], atol=1e-5)
    lines = [
        json.loads((path / "metrics.jsonl").read_text().splitlines()[1])
        for path in (folder, inline)
    ]
    assert [line["participants"] for line in lines] == [list(NAMES)] * 2
    assert lines[0]["train"]["all"]["num-examples"] == lines[1]["train"]["all"]["num-examples"]
