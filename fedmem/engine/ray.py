"""Clients over the nodes of a Ray cluster: the same apps, strategy and results as in one process.

Why not Flower's own Ray backend: there a lost actor or node takes its clients out of every later
round, and the run ends as if nothing had happened.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.util import find_spec
from typing import Any

from fedmem import workspace as workspaces
from fedmem.config import Config, Engine
from fedmem.engine import FLOWER_ENVIRONMENT
from fedmem.errors import ConfigError
from fedmem.model.state import Arrays
from fedmem.rounds import OnRound, Start
from fedmem.versions import cores
from fedmem.workers import environment as with_threads
from server.rounds import run_rounds

# Ray reads these when it is imported: no usage statistics, and the
# behaviour that later versions will have where an actor has no GPU.
RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
for _name, _value in RAY_ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)

# What an actor takes over from this process. Nothing secret: Ray writes them into its logs.
TAKEN_OVER = (
    *FLOWER_ENVIRONMENT,
    "HF_HUB_OFFLINE",
    "TOKENIZERS_PARALLELISM",
    "TRANSFORMERS_VERBOSITY",
    "PYTHONUTF8",
)
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
CONNECT_SECONDS = 5.0


def run_ray(
    config: Config,
    on_round: OnRound,
    start: Start | None = None,
    client_app: str = "clients.app:app",
) -> dict[str, Arrays]:
    """Run all rounds on a Ray cluster, or those after `start`; return the last models by name.

    As `run_inline`, to the same arrays. `client_app` is MODULE:NAME, to be found on every node.
    Raises ConfigError where there is no cluster or a node has other software, what a node's
    workspace raises with the node named, and RunError where an actor was lost too often.
    """
    engine, config_json = config.engine, config.model_dump_json()
    workspace = workspaces.get(config_json)
    with connected(engine):
        from fedmem.engine.ray_grid import RayGrid
        from fedmem.engine.ray_pool import Pool, room

        count = engine.actors or max(1, room(engine))
        count = min(count, len(workspace.clients))
        with closing(Pool(engine, config_json, client_app, count, environment(engine))) as pool:
            pool.wait_for_all()
            return run_rounds(RayGrid(pool, workspace.clients), config, on_round, start)


def environment(engine: Engine) -> dict[str, str]:
    """The variables of an actor's process, set before Python starts."""
    names = (*THREADS, *TAKEN_OVER, *(("PYTHONPATH",) if engine.address is None else ()))
    held = with_threads(engine.threads)
    return {name: held[name] for name in names if name in held}


@contextmanager
def connected(engine: Engine) -> Iterator[None]:
    """Connect this process to the config's cluster, or to one that is started for it on loopback
    and ended with it. Raises ConfigError."""
    address = check(engine)
    import ray
    from ray._private import worker as _worker

    if ray.is_initialized():
        raise ConfigError(
            "engine.kind: this process is connected to Ray; call ray.shutdown() first"
        )
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        needed = engine.threads * (engine.actors or 1)
        options |= {
            "address": "local",
            "num_cpus": max(cores(), needed),
            "include_dashboard": False,
            "_node_ip_address": "127.0.0.1",
        }
    else:
        options["address"] = address
    try:
        ray.init(**options)
    except (RuntimeError, OSError, ValueError) as error:  # among them: other versions than here
        what = " ".join(str(error).split())[:400]
        raise ConfigError(f"engine.address: {address or 'a local Ray'}: {what}") from None
    # Ray writes of raylets that died to standard output, whatever `log_to_driver` says, and has no
    # public switch for it; the pool reports losses.
    _worker._worker_logs_enabled = False
    try:
        yield
    finally:
        ray.shutdown()
        _worker._worker_logs_enabled = True


def check(engine: Engine) -> str | None:
    """HOST:PORT of the config's cluster, None if one is to be started. Takes seconds, not minutes.

    Raises ConfigError where Ray is not installed, or does not answer at the address.
    """
    if find_spec("ray") is None:
        raise ConfigError("engine.kind: ray is not installed; pip install 'flwr[simulation]'")
    if engine.address is None:
        return None
    address = engine.address
    if address == "auto":
        from ray._private.services import canonicalize_bootstrap_address_or_die

        try:
            address = canonicalize_bootstrap_address_or_die("auto")
        except (ConnectionError, ValueError):
            raise ConfigError(
                "engine.address: auto: no Ray is running on this machine; `ray start --head` "
                "starts one, address=null a private one"
            ) from None
    if not re.fullmatch(r".+:\d+", address) or not answers(address):
        raise ConfigError(
            f"engine.address: {address}: no Ray answers there; give HOST:PORT as `ray start "
            "--head` prints it (port 6379 unless it says otherwise)"
        )
    return address


def answers(address: str) -> bool:
    """Whether Ray's control service is at the address; `ray.init` would try for over a minute."""
    import grpc  # type: ignore[import-untyped]

    options = [("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(address, options=options) as channel:
        call = channel.unary_unary("/ray.rpc.NodeInfoGcsService/CheckAlive")
        try:
            call(b"", timeout=CONNECT_SECONDS)
        except grpc.RpcError as error:
            # a cluster that asks for a token does answer
            return error.code() is grpc.StatusCode.UNAUTHENTICATED
    return True
