"""Actors over the nodes of a cluster: placed, checked, given work, and replaced when they are lost.

A client's turn is a pure function of its message and its state, so one that is lost with its actor
is given to another. Nothing is dropped: every job ends in a result or in an error.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import ray
from ray.exceptions import (
    ActorUnavailableError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    WorkerCrashedError,
)

from fedmem.config import Engine
from fedmem.engine.ray_actor import ClientActor, installed
from fedmem.errors import ConfigError, FedmemError, RunError

log = logging.getLogger(__name__)

LOST = (RayActorError, NodeDiedError, ObjectLostError, OutOfMemoryError, WorkerCrashedError)
PLACING, LOADING, IDLE, BUSY = "placing", "loading", "idle", "busy"
STRAGGLERS = 30.0  # seconds that actors without a place yet are waited for at the start
POLL = 1.0  # seconds between looks at the deadlines


@dataclass(eq=False)
class Job:
    """A client's turn: `arguments` are those of `ClientActor.answer`. `tries`: how often lost."""

    round: int
    client: str
    kind: str
    arguments: tuple[Any, ...]
    tries: int = 0


@dataclass(eq=False)
class Actor:
    """One process. `tries`: how many were lost in its place before it, while they loaded."""

    handle: Any
    tries: int
    stage: str = PLACING
    node_id: str = ""
    node: str = "unknown"
    job: Job | None = None
    patience: float = float("inf")  # seconds
    deadline: float = float("inf")


def alive() -> dict[str, dict[str, Any]]:
    """The nodes that are alive, by id: what Ray knows of each."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return {node["NodeID"]: node for node in nodes if node["Alive"]}


def name_of(node: dict[str, Any]) -> str:
    """The node's name where somebody gave it one, else its host's."""
    given, address = str(node["NodeName"]), str(node["NodeManagerAddress"])
    return str(node["NodeManagerHostname"]) if given == address else given


def room(engine: Engine) -> int:
    """How many actors the cluster's nodes hold, whatever else may run there."""
    total = 0
    for node in alive().values():
        held = node["Resources"].get("CPU", 0.0) // engine.threads
        if engine.gpus:
            held = min(held, (node["Resources"].get("GPU", 0.0) + 1e-6) // engine.gpus)
        total += int(held)
    return total


class Pool:
    """`count` actors for one run. `losses`: a row for each that was lost, with its round."""

    def __init__(
        self, engine: Engine, config_json: str, app: str, count: int, environment: dict[str, str]
    ) -> None:
        self.losses: list[dict[str, Any]] = []
        self._engine = engine
        self._open = (config_json, app, str(Path.cwd()))
        self._class = ray.remote(ClientActor).options(
            num_cpus=engine.threads,
            num_gpus=engine.gpus,
            scheduling_strategy="SPREAD",
            max_restarts=0,
            max_task_retries=0,
            runtime_env={"env_vars": environment},
        )
        self._here = installed()
        self._round = 0
        self._actors: list[Actor] = []
        self._waited: dict[Any, Actor] = {}  # by the reference to the result that will come
        self._placed = monotonic()  # when an actor was last known to have a place
        for _ in range(count):
            self._start(tries=0)

    def wait_for_all(self) -> None:
        """Return when the actors are ready. Those without a place are given up on after a while, as
        long as there are others: they join when there is room. Raises as `work`."""
        began = monotonic()
        while True:
            stages = {actor.stage for actor in self._actors}
            late = monotonic() - began > STRAGGLERS
            if stages <= ({IDLE, PLACING} if late else {IDLE}) and IDLE in stages:
                break
            self._settle(deque())
        without = sum(actor.stage == PLACING for actor in self._actors)
        if without:
            log.warning("%d of %d actors have no place yet", without, len(self._actors))

    def nodes(self) -> dict[str, int]:
        """How many actors each node has, by the node's name."""
        names = [actor.node for actor in self._actors if actor.stage != PLACING]
        return {name: names.count(name) for name in sorted(set(names))}

    def work(self, jobs: Iterator[Job]) -> Iterator[tuple[Job, Any]]:
        """Yield each job and its result as it is done, in any order. A job is taken from `jobs`
        when there is an actor free for it.

        Raises what a client or its workspace raised (FedmemError), ConfigError for a node with
        other software, and RunError where a job was lost too often or no actor finds a place.
        """
        again: deque[Job] = deque()
        more = True
        done: list[tuple[Job, Any]] = []
        self._placed = monotonic()
        self._bury()
        while True:
            for actor in [actor for actor in self._actors if actor.stage == IDLE]:
                job = again.popleft() if again else next(jobs, None) if more else None
                if job is None:
                    more = False
                    break
                self._round = job.round
                actor.stage, actor.job = BUSY, job
                reply = actor.handle.answer.remote(*job.arguments)
                self._wait_for(actor, reply, self._engine.reply_timeout)
            yield from done  # now that their actors have the next
            if not (more or again or any(actor.job for actor in self._actors)):
                return
            lost = len(self.losses)
            done = self._settle(again)
            if len(self.losses) > lost:
                self._bury()

    def close(self) -> None:
        """End all actors now, whatever they are at."""
        for actor in self._actors:
            with suppress(RayError):
                ray.kill(actor.handle)
        self._actors, self._waited = [], {}

    # --- an actor's way ----------------------------------------------------------------------

    def _start(self, tries: int) -> None:
        actor = Actor(self._class.remote(), tries)
        self._actors.append(actor)
        self._waited[actor.handle.about.remote()] = actor

    def _wait_for(self, actor: Actor, reference: Any, seconds: float) -> None:
        actor.patience, actor.deadline = seconds, monotonic() + seconds
        self._waited[reference] = actor

    def _settle(self, again: deque[Job]) -> list[tuple[Job, Any]]:
        """Take what has come in: jobs that are done are returned, lost ones go to `again`."""
        finished = []
        now = monotonic()
        nearest = min(actor.deadline for actor in self._waited.values())
        pause = max(0.0, min(nearest - now, POLL))
        done, _ = ray.wait(list(self._waited), num_returns=1, timeout=pause)
        for reference in done:
            actor = self._waited.pop(reference)
            try:
                result = ray.get(reference)
            except LOST as error:
                self._lose(actor, self._why(actor, error), again)
                continue
            except RayError as error:
                raise RunError(f"{self._who(actor)}: Ray: {_short(error)}") from None
            if isinstance(result, FedmemError):
                raise result if actor.job else type(result)(f"{result} (on node {actor.node})")
            if actor.job is not None:
                job, actor.job, actor.stage = actor.job, None, IDLE
                finished.append((job, result))
            elif actor.stage == PLACING:
                self._check(actor, *result)
                actor.stage = LOADING
                loaded = actor.handle.open.remote(*self._open)
                self._wait_for(actor, loaded, self._engine.timeout)
            else:
                actor.stage, actor.tries = IDLE, 0
        self._look_at_the_clock(again)
        return finished

    def _check(self, actor: Actor, node_id: str, there: dict[str, str]) -> None:
        """Refuse a node on which results could differ."""
        nodes = alive()
        actor.node_id = node_id
        actor.node = name_of(nodes[node_id]) if node_id in nodes else node_id[:8]
        for part, here in self._here.items():
            if there[part].partition("+")[0] != here.partition("+")[0]:
                raise ConfigError(
                    f"node {actor.node}: has {part} {there[part]}, and here is {part} {here}; "
                    "install the same on every node"
                )
            if there[part] != here:  # torch for CPUs here and for GPUs there, say
                log.warning("node %s has %s %s, here is %s", actor.node, part, there[part], here)

    # --- losses ------------------------------------------------------------------------------

    def _look_at_the_clock(self, again: deque[Job]) -> None:
        now = monotonic()
        for reference, actor in list(self._waited.items()):
            if actor.deadline <= now:
                del self._waited[reference]
                self._lose(actor, f"no answer within {actor.patience:g} s", again)
        if any(actor.stage != PLACING for actor in self._actors):
            self._placed = now
        elif now - self._placed > self._engine.timeout:
            held = ", ".join(
                f"{name_of(node)} {node['Resources'].get('CPU', 0):g}" for node in alive().values()
            )
            gpus = f" and {self._engine.gpus:g} GPUs" if self._engine.gpus else ""
            who = f"round {again[0].round}, client {again[0].client}" if again else "round 0"
            raise RunError(
                f"{who}: no actor found a place within {self._engine.timeout:g} s; each needs "
                f"{self._engine.threads} CPUs{gpus}, and the nodes' CPUs are: {held or 'no node'}"
            )

    def _why(self, actor: Actor, error: RayError) -> str:
        if isinstance(error, RayActorError) and error.actor_init_failed:
            raise ConfigError(f"no actor could start: {_short(error)}; is fedmem on every node?")
        if actor.node_id and actor.node_id not in alive():
            return "its node died"
        if isinstance(error, ActorUnavailableError):
            return "its process or its node no longer answers"
        return f"its process died: {_short(error)}"

    def _lose(self, actor: Actor, why: str, again: deque[Job]) -> None:
        """Count the loss, put another actor in its place and its job first in the queue."""
        job = actor.job
        loss = {
            "round": self._round,
            "node": actor.node,
            "client": job.client if job else None,
            "at": job.kind if job else actor.stage,
            "why": why,
        }
        self.losses.append(loss)
        log.warning("%s: lost an actor on node %s: %s", self._who(actor), actor.node, why)
        ray.kill(actor.handle)
        self._actors.remove(actor)
        tries = actor.tries + 1 if actor.stage in (PLACING, LOADING) else 0
        if job is not None:
            job.tries += 1
        lost = max(tries, job.tries if job else 0)
        if lost > self._engine.retries:
            raise RunError(
                f"{self._who(actor)}: actor lost {lost} times, the last on node {actor.node} "
                f"({why}); engine.retries is {self._engine.retries}"
            )
        if job is not None:
            again.appendleft(job)
        self._start(tries)

    def _bury(self) -> None:
        """Replace idle actors whose node has died, before a job is sent to them in vain."""
        idle = [actor for actor in self._actors if actor.stage == IDLE]
        nodes = alive() if idle else {}
        for actor in idle:
            if actor.node_id not in nodes:
                self._lose(actor, "its node died", deque())

    def _who(self, actor: Actor) -> str:
        job = actor.job
        return f"round {job.round}, client {job.client}" if job else f"round {self._round}"


def _short(error: BaseException) -> str:
    """The last line of Ray's many, which says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__
