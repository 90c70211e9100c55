"""The Ray engine on real clusters: nodes and processes that are killed, and what a run makes of it.

A head without CPUs and two nodes with one each, all on loopback; in a network namespace of its own
where the system lets this process make one.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from pydantic import ValidationError

from fedmem.config import Config
from fedmem.engine.inline import run_inline
from fedmem.engine.ray import run_ray
from fedmem.errors import ConfigError, DataError, RunError
from fedmem.rounds import Round

ROOT = Path(__file__).resolve().parents[2]
PATH = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
APP = "rayapps:app"
CLONE_NEWNET, SIOCSIFFLAGS, IFF_UP = 0x40000000, 0x8914, 1


@contextmanager
def own_network() -> Iterator[None]:
    """Move this thread, and what it starts, to a namespace that holds nothing but loopback."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    moved = libc.unshare(CLONE_NEWNET) == 0
    try:
        if moved:
            with socket.socket() as probe:
                fcntl.ioctl(probe, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
        yield
    finally:
        if moved:
            libc.setns(before, CLONE_NEWNET)
        os.close(before)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def marked(mark: str) -> set[int]:
    """The processes that inherited this mark in their environment, zombies not counted."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                found.add(int(folder.name))
        except OSError:
            continue
    return found


def end(mark: str) -> None:
    """Kill a node: raylet, workers and all, at once."""
    for pid in marked(mark):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def wait_until(what: Callable[[], Any], seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
    return found


class Cluster:
    """`ray start`, three times. `marks`: by node, what stands in its processes' environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = f"127.0.0.1:{free_port()}"
        self.marks = {name: uuid.uuid4().hex for name in ("head", "left", "right")}

    def begin(self) -> None:
        port = self.address.partition(":")[2]
        head = ["--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false"]
        self.start("head", *head, f"--temp-dir={self.folder}")
        for name in self.workers:
            self.start(name, f"--address={self.address}", "--num-cpus=1")

    workers = ("left", "right")

    def start(self, name: str, *arguments: str) -> None:
        """One node. On a busy machine Ray may give up after its 30 s: then once more."""
        ray = [sys.executable, "-m", "ray.scripts.scripts", "start", f"--node-name={name}"]
        small = ["--node-ip-address=127.0.0.1", "--object-store-memory=100000000"]
        quiet = ["--disable-usage-stats", "--log-style=record"]
        mark = f"FEDMEM_TEST_NODE_{self.marks[name]}"
        env = {**os.environ, "PYTHONPATH": PATH, "OMP_NUM_THREADS": "1", mark: "1"}
        command = [*ray, *small, *quiet, *arguments]
        file = self.folder / f"{name}.log"  # not a pipe: the node would hold it open
        for _ in range(3):
            with file.open("wb") as log:
                done = subprocess.run(command, env=env, stdout=log, stderr=log, timeout=150)
            if done.returncode == 0:
                return
            self.kill(name)
        raise AssertionError(file.read_text())

    def kill(self, name: str) -> None:
        end(self.marks[name])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    pytest.importorskip("ray")
    if not sys.platform.startswith("linux"):
        pytest.skip("finds a node's processes in /proc")
    folder = Path(f"/tmp/fedmem-{uuid.uuid4().hex[:8]}")  # a socket's path may not be long
    folder.mkdir()
    with own_network():
        made = Cluster(folder)
        try:
            made.begin()
            yield made
        finally:
            for name in made.marks:
                made.kill(name)
            shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Case:
    """One run: its config, its folder, what inline makes of it, and what the clients saw there."""

    config: Config
    folder: Path
    inline: dict[str, np.ndarray]
    scores: list[list[bytes]]

    def with_engine(self, address: str | None, **engine: Any) -> Config:
        made = {"kind": "ray", "address": address, "retries": 2, **engine}
        return Config.model_validate({**self.config.model_dump(), "engine": made})

    def turns(self) -> dict[tuple[int, int], list[tuple[str, int, int]]]:
        """(round, partition) -> (node id, pid, turn of this client) of each that was begun."""
        found: dict[tuple[int, int], list[tuple[str, int, int]]] = {}
        for file in self.folder.glob("turn-*[0-9]"):
            _, round_, partition, pid = file.name.split("-")
            node, turns = file.read_text().split()
            found.setdefault((int(round_), int(partition)), []).append((node, int(pid), int(turns)))
        return found

    def hold(self, round_: int) -> Path:
        file = self.folder / f"hold-{round_}"
        file.touch()
        return file

    def same(self, arrays: dict[str, np.ndarray]) -> bool:
        assert list(arrays) == list(self.inline)
        return all(a.tobytes() == self.inline[name].tobytes() for name, a in arrays.items())


@pytest.fixture
def case(base_folder: Path, tmp_path: Path) -> Case:
    source = {"kind": "synthetic", "adapter": "flashcards", "records": 4}
    clients = {"clients": [{"name": name, "source": source} for name in ("a", "b", "c")]}
    made = tiny.config(
        base_folder,
        output=str(tmp_path),
        data=clients,
        rounds={"local_steps": 2},
        attack={"own_prefixes": 1, "every": 2},
    )
    rounds: list[Round] = []
    models = run_inline(made, rounds.append)
    return Case(made, tmp_path, models["global"], [done.scores for done in rounds])


def test_two_nodes_give_the_same_bytes_as_one_process(cluster: Cluster, case: Case) -> None:
    rounds: list[Round] = []
    hold = case.hold(1)

    def let_go() -> None:
        try:
            wait_until(lambda: len(case.turns()) == 2)  # both nodes are at work, then both go on
        finally:
            hold.unlink()  # a machine too slow fails the test and does not hold it up

    release = threading.Thread(target=let_go)
    release.start()
    models = run_ray(case.with_engine(cluster.address), rounds.append, client_app=APP)
    release.join()
    assert case.same(models["global"])
    turns = case.turns()
    assert set(turns) == {(round_, client) for round_ in (1, 2) for client in (0, 1, 2)}
    assert len({node for begun in turns.values() for node, _, _ in begun}) == 2
    # a client's state goes with it, whichever actor plays it
    assert all(begun[0][2] == round_ for (round_, _), begun in turns.items())
    assert [done.losses for done in rounds] == [[], [], []]
    assert [len(scores) for scores in case.scores] == [3, 0, 3]
    assert [done.scores for done in rounds] == case.scores


def test_an_actor_that_dies_is_an_error_without_retries(cluster: Cluster, case: Case) -> None:
    hold = case.hold(1)

    def kill() -> None:
        begun = wait_until(lambda: case.turns().get((1, 0)))
        os.kill(begun[0][1], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    config = case.with_engine(cluster.address, retries=0)
    with pytest.raises(
        RunError, match=r"round 1, client a: actor lost 1 times, .* on node (left|right)"
    ):
        run_ray(config, lambda done: None, client_app=APP)
    killer.join()
    assert hold.exists()


def test_an_actor_that_hangs_counts_as_lost(cluster: Cluster, case: Case) -> None:
    case.hold(1)
    config = case.with_engine(cluster.address, retries=0, reply_timeout=8, actors=1)
    with pytest.raises(RunError, match=r"round 1, client a: .*no answer within 8 s"):
        run_ray(config, lambda done: None, client_app=APP)
    ((_, pid, _),) = case.turns()[1, 0]
    wait_until(lambda: not Path(f"/proc/{pid}").exists())


def test_an_exception_in_a_client_is_not_tried_again(cluster: Cluster, case: Case) -> None:
    (case.folder / "fail").touch()
    failed = r"round 1, client .: failed: client . raised ValueError: no room"
    with pytest.raises(RunError, match=failed):
        run_ray(case.with_engine(cluster.address, actors=1), lambda done: None, client_app=APP)
    assert all(len(begun) == 1 for begun in case.turns().values())


def test_data_that_a_node_lacks_are_named_with_the_node(
    cluster: Cluster, case: Case, tmp_path: Path
) -> None:
    config = case.with_engine(cluster.address, actors=1)
    run_inline(config, lambda done: None)  # the driver has read its own copy
    base = Path(config.model.base)
    base.rename(base.with_name("away"))
    try:
        with pytest.raises(DataError, match=r"\(on node (left|right)\)") as raised:
            run_ray(config, lambda done: None)
        assert raised.value.exit_code == 2 and "\n" not in str(raised.value)
    finally:
        base.with_name("away").rename(base)


def test_what_is_not_on_the_nodes_is_named(cluster: Cluster, case: Case) -> None:
    config = case.with_engine(cluster.address, actors=1)
    with pytest.raises(RunError, match=r"an actor could not start: .*nowhere.* \(on node"):
        run_ray(config, lambda done: None, client_app="nowhere:app")


# --- addresses -------------------------------------------------------------------------------


def command(case: Case, address: str) -> subprocess.CompletedProcess[str]:
    """`fedmem run` in a process of its own."""
    import yaml

    file = case.folder / "config.yaml"
    tree = case.config.model_dump(mode="json")
    file.write_text(yaml.safe_dump(tree | {"engine": {"kind": "ray", "address": address}}))
    return subprocess.run(
        [sys.executable, "-m", "fedmem", "run", str(file)],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "PYTHONPATH": PATH},
    )


def test_an_address_without_ray_is_one_line_at_once(cluster: Cluster, case: Case) -> None:
    address = f"127.0.0.1:{free_port()}"
    began = time.monotonic()
    done = command(case, address)
    assert time.monotonic() - began < 60  # `ray.init` alone would try for 70 s
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("fedmem: error: ")
    assert f"engine.address: {address}: no Ray answers there" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_something_else_that_listens_there_is_no_ray(cluster: Cluster, case: Case) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(ConfigError, match=f"{address}: no Ray answers there"):
            run_ray(case.with_engine(address), lambda done: None)
        assert time.monotonic() - began < 15


@pytest.mark.parametrize("address", ["here", "ray://h:10001", "h:1:2", "h:port", ""])
def test_an_address_of_another_form_is_refused(case: Case, address: str) -> None:
    with pytest.raises(ValidationError, match="address"):
        case.with_engine(address)


def test_keys_of_ray_need_ray(case: Case) -> None:
    for key, value in [("actors", 2), ("gpus", 0.5), ("retries", 1), ("address", "auto")]:
        tree = {**case.config.model_dump(), "engine": {key: value}}
        with pytest.raises(ValidationError, match=f"{key}: only for kind: ray"):
            Config.model_validate(tree)
    with pytest.raises(ValidationError, match="go together"):
        case.with_engine(None, device="cuda")


def test_ctrl_c_stops_a_private_ray_and_leaves_nothing(cluster: Cluster, case: Case) -> None:
    mark = uuid.uuid4().hex
    hold = case.hold(2)
    code = (
        "import sys; from fedmem.config import Config; from fedmem.engine.ray import run_ray; "
        "config = Config.model_validate_json(sys.argv[1]); "
        f"run_ray(config, lambda done: None, client_app={APP!r})"
    )
    config = case.with_engine(None, actors=1)
    child = subprocess.Popen(
        [sys.executable, "-c", code, config.model_dump_json()],
        env={**os.environ, "PYTHONPATH": PATH, f"FEDMEM_TEST_{mark}": "1"},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=tiny.listen_to_ctrl_c,
    )
    wait_until(lambda: (2, 0) in case.turns() or child.poll() is not None, 120)
    assert child.poll() is None, child.stderr and child.stderr.read()
    child.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, said = child.communicate(timeout=30)
    assert "KeyboardInterrupt" in said and hold.exists()
    wait_until(lambda: not marked(mark), 30)
    assert time.monotonic() - began < 30


# --- the last ones: they take the cluster apart ----------------------------------------------


def test_a_node_that_dies_in_round_2_changes_nothing(
    cluster: Cluster, case: Case, capfd: pytest.CaptureFixture[str]
) -> None:
    hold = case.hold(2)
    killed: list[str] = []

    def kill() -> None:
        wait_until(lambda: {(2, 0), (2, 1)} <= set(case.turns()))  # both nodes are at work
        pid = case.turns()[2, 0][0][1]
        name = next(n for n in cluster.workers if pid in marked(cluster.marks[n]))
        killed.append(name)
        cluster.kill(name)
        hold.unlink()

    killer = threading.Thread(target=kill)
    killer.start()
    rounds: list[Round] = []
    models = run_ray(case.with_engine(cluster.address), rounds.append, client_app=APP)
    killer.join()
    assert case.same(models["global"])
    assert "raylet" not in capfd.readouterr().out.lower()
    (loss,) = rounds[-1].losses
    # Ray may know of the process before it knows of the node
    assert loss.pop("why").startswith(("its node died", "its process"))
    assert loss == {"round": 2, "node": killed[0], "client": "a", "at": "train"}
    begun = case.turns()[2, 0]
    assert len(begun) == 2 and len({node for node, _, _ in begun}) == 2
    assert {turn for _, _, turn in begun} == {2}  # the lost turn left no trace in the state


def test_without_any_node_the_run_ends(cluster: Cluster, case: Case) -> None:
    hold = case.hold(1)

    def kill() -> None:
        wait_until(lambda: (1, 0) in case.turns())
        for name in cluster.workers:
            cluster.kill(name)
        hold.unlink()

    killer = threading.Thread(target=kill)
    killer.start()
    config = case.with_engine(cluster.address, timeout=12, actors=1)
    with pytest.raises(RunError, match="round 1, client a: no actor found a place within 12 s"):
        run_ray(config, lambda done: None, client_app=APP)
    killer.join()
