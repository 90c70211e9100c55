"""Flower's own commands, as real processes on loopback: the same result, and no data on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import zipfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from flowernet import Net, app_copy, environment, write_node_key
from safetensors.numpy import load_file
from tiny import config

from fedmem.config import Config
from fedmem.engine.deployment import at_home, requested
from fedmem.errors import ConfigError, DataError
from fedmem.loading import dump_config
from fedmem.metrics.tokens import read_tokens
from fedmem.simulation import run


def questions(count: int, word: str) -> str:
    """JSONL of a hospital's own questions."""
    rows = [
        {"prompt": f"{word} {i}: what is it?", "completion": f"{word} {i}"} for i in range(count)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


def hospitals(folder: Path) -> dict[str, Path]:
    """A folder a hospital, each with its own file alone."""
    roots = {}
    for name, count in (("a", 12), ("b", 20)):
        roots[name] = folder / f"hospital-{name}"
        roots[name].mkdir()
        (roots[name] / f"{name}.jsonl").write_text(questions(count, f"finding-{name}"))
    return roots


def plan(base: Path, output: Path) -> Config:
    """Two hospitals, each with a file of its own, whose folder is not told."""
    clients = [
        {"name": n, "source": {"kind": "jsonl", "path": f"{n}.jsonl", "adapter": "generic"}}
        for n in ("a", "b")
    ]
    return config(base, output=str(output), data={"clients": clients}, rounds={"count": 1})


def test_the_app_bundle_holds_code_and_no_data(tmp_path: Path) -> None:
    app = app_copy(tmp_path / "app")
    (app / "notes.jsonl").write_text('{"text": "a note"}\n')
    (app / "runs").mkdir()
    (app / "runs" / "canaries.json").write_text("{}")
    (app / "clients" / "leftover.json").write_text("{}")
    (app / "data.yaml").write_text("a: 1\n")
    done = subprocess.run(
        ["flwr", "build", "--app", str(app)],
        env=environment(tmp_path / "home"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (bundle,) = tmp_path.glob("*.fab")
    with zipfile.ZipFile(bundle) as held:
        names = set(held.namelist())
    code = {f"clients/{n}.py" for n in ("__init__", "app", "honest", "curious")}
    code |= {f"clients/{n}.py" for n in ("privacy", "secagg")}
    code |= {f"server/{n}.py" for n in ("__init__", "app", "nodes", "rounds", "secagg", "strategy")}
    assert names == code | {"LICENSE", "pyproject.toml", ".info/CONTENT"}


@pytest.mark.parametrize(
    "tls",
    [pytest.param(False, id="insecure", marks=pytest.mark.heavy), pytest.param(True, id="tls")],
)
def test_two_hospitals_end_with_the_model_of_a_simulation(
    base_folder: Path, tmp_path: Path, tls: bool
) -> None:
    roots = hospitals(tmp_path)
    made = plan(base_folder, tmp_path / "deployed")
    file = tmp_path / "two.yaml"
    file.write_text(dump_config(made))
    app = app_copy(tmp_path / "app")
    with Net(tmp_path, tls) as net:
        keys: list[Path | None] = [None, None]
        if tls:
            keys = [write_node_key(tmp_path / f"node-{i}-key") for i in range(2)]
            # nobody has registered this one: it must not be let in
            net.node(1, 2, roots["b"], write_node_key(tmp_path / "stranger"), "stranger")
            for key in keys:
                assert key is not None
                done = net.flwr("supernode", "register", str(key.with_suffix(".pub")), "lab")
                assert done.returncode == 0, done.stdout + done.stderr
        for partition, name in enumerate(roots):
            net.node(partition, 2, roots[name], keys[partition])
        done = net.flwr("run", str(app), "lab", "--stream", "--run-config", f'config="{file}"')
        said = done.stdout + done.stderr + net.log("superlink")
        assert done.returncode == 0, said
        (folder,) = (tmp_path / "deployed").iterdir()
        manifest = json.loads((folder / "manifest.json").read_text())
        assert manifest["status"] == "finished", said
        if tls:
            assert "attempt failed" in net.log("stranger-1")
            assert not any("attempt failed" in net.log(f"node-{i}") for i in range(2))

    # each node read its own file, and what it read is what a simulation over both files gives
    both = tmp_path / "both"
    both.mkdir()
    for name, root in roots.items():
        (both / f"{name}.jsonl").symlink_to(root / f"{name}.jsonl")
    data = made.data.model_copy(update={"root": both})
    inline = run(made.model_copy(update={"data": data, "output": tmp_path / "inline"})).path
    adapter = "adapters/round_001/adapter_model.safetensors"
    ours, theirs = load_file(inline / adapter), load_file(folder / adapter)
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_allclose(theirs[name], ours[name], atol=1e-5)
    counts = {
        n: c["records"]
        for n, c in json.loads((folder / "data.json").read_text())["clients"].items()
    }
    assert counts == {
        n: c["records"]
        for n, c in json.loads((inline / "data.json").read_text())["clients"].items()
    }

    # what the nodes told is what an auditor who sees everything finds
    def rows(path: Path) -> set[tuple[object, ...]]:
        keys = ("round", "attacker", "knowledge", "attack", "canary", "target", "hit", "matched")
        return {
            tuple(row[k] for k in keys)
            for row in pq.read_table(path / "scores.parquet").to_pylist()
        }

    assert rows(folder) == rows(inline)
    figures, expected = read_tokens(folder), read_tokens(inline)
    assert figures.keys() == expected.keys() != set()
    for key, one in figures.items():
        assert one.logprob == pytest.approx(expected[key].logprob, abs=1e-4), key[0]
        assert one.zlib == expected[key].zlib
    plans = [pq.read_table(p / "canaries.parquet").sort_by("canary") for p in (folder, inline)]
    assert plans[0].equals(plans[1])
    told = [json.loads((p / "utility.json").read_text()) for p in (folder, inline)]
    assert [(r["round"], r["task"], r["n"]) for r in told[0]] == [
        (r["round"], r["task"], r["n"]) for r in told[1]
    ]
    assert "</html>" in (folder / "report.html").read_text()


def test_flwr_run_simulates_from_a_clean_home(tmp_path: Path) -> None:
    """The command of the README, with nothing set up: Flower's own simulation of two nodes."""
    app = app_copy(tmp_path / "app")
    env = environment(tmp_path / "home") | {
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": "38391",
        "FLWR_LOCAL_CONTROL_API_PORT": "38393",
    }
    small = "rounds.count=1 data.clients.0.source.records=16 data.clients.1.source.records=16"
    small += " data.canaries.levels='[{copies: 2, notes: 2}]' data.canaries.twins=2"
    small += " utility.max_records=8"
    try:
        done = subprocess.run(
            ["flwr", "run", ".", "--stream", "--run-config", f'set="{small}"'],
            env=env,
            cwd=app,
            capture_output=True,
            text=True,
            timeout=280,
        )
        said = done.stdout + done.stderr
        assert done.returncode == 0, said
        (folder,) = (app / "runs").iterdir()
        assert json.loads((folder / "manifest.json").read_text())["status"] == "finished", said
        assert str(folder) in said
    finally:
        stop_local_superlink(tmp_path / "home")


def stop_local_superlink(home: Path) -> None:
    """`flwr run` leaves a SuperLink behind, on purpose; its command line names the home."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if str(home).encode() in (entry / "cmdline").read_bytes():
                os.kill(int(entry.name), signal.SIGTERM)
        except OSError:
            continue
    time.sleep(1)


def test_what_flower_hands_over_is_checked(tmp_path: Path) -> None:
    made, resume = requested({"config": "flower", "set": "rounds.count=7 training.lr=1e-3"})
    assert (made.rounds.count, made.training.lr, made.engine.kind) == (7, 1e-3, "deployment")
    assert resume is False and requested({"config": "quickstart", "resume": True})[1] is True
    with pytest.raises(ConfigError, match="no such config file"):
        requested({"config": str(tmp_path / "none.yaml")})
    with pytest.raises(ConfigError, match=r"rounds\.cuont"):
        requested({"config": "flower", "set": "rounds.cuont=7"})
    with pytest.raises(ConfigError, match="started by Flower's own command"):
        run(made)


def test_a_node_reads_below_its_own_folder_alone(base_folder: Path, tmp_path: Path) -> None:
    made = plan(base_folder, tmp_path)
    taken = Config.model_validate_json(at_home(made.model_dump_json(), tmp_path / "mine"))
    assert taken.data.root == tmp_path / "mine"
    assert taken.model_copy(update={"data": made.data}) == made
    for path in ("/etc/passwd", "../other/a.jsonl", "x/../../a.jsonl"):
        text = made.model_dump_json().replace('"a.jsonl"', json.dumps(path))
        with pytest.raises(DataError, match="leads out of this node's data-root"):
            at_home(text, tmp_path / "mine")
