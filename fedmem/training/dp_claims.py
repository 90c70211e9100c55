"""What DP-SGD guarantees in a run: an epsilon with its unit, or that there is none."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

from fedmem.accounting import Epsilon, Step, epsilon
from fedmem.claims import NO_DP, Claim, History
from fedmem.config import Config
from fedmem.config.dp import DPSGD
from fedmem.errors import DataError

KEYS = ("dp_noise_multiplier", "dp_sample_rate", "dp_steps", "dp_units", "dp_largest", "dp_holders")
UNITS = {
    "record": "record, with all its copies at a client",
    "patient": "patient, with all records at a client",
    "example": "training example; a record written k times is k of them",
}
FEW = 10  # compositions, about a second each
POOLED = "whoever trains, with all clients' records in one place"
TRUST = (
    "each client trusts itself alone: it holds against the server, the other clients and whoever "
    "gets the models"
)
NOTES = (
    "composed over all rounds; no amplification by the sampling of clients is claimed",
    "learning rates and early stopping picked on private data are not covered",
    "sample rates and step counts follow the number of a client's units, which counts as public",
    "noise from floating-point numbers and a generator that is not cryptographic",
)


def ledgers(config: Config, history: History) -> dict[str, list[Step]]:
    """Every client's steps, round by round, from the figures that clients told.

    Raises DataError where a round of a client is not accounted: then no epsilon holds.
    """
    dp = config.training.dp
    assert dp is not None
    found: dict[str, list[Step]] = {}
    for number, (names, told) in enumerate(
        zip(history.participants, history.train, strict=True), start=1
    ):
        for name in names:
            z, q, steps, *_ = _figures(told.get(name, {}), f"round {number}, client {name}", dp)
            found.setdefault(name, []).append(Step(z, q, int(steps)))
    return found


def _figures(told: Mapping[str, float], where: str, dp: DPSGD) -> tuple[float, ...]:
    try:
        figures = tuple(float(told[key]) for key in KEYS)
    except (KeyError, TypeError, ValueError):
        raise DataError(
            f"metrics.jsonl: {where}: accountant state lost: no figures of DP-SGD; no epsilon "
            "holds any more, start anew without --resume"
        ) from None
    z, q, steps, *counts = figures
    if not (0 < z < math.inf and 0 < q <= 1 and steps >= 1 and steps == int(steps)) or not all(
        1 <= count < math.inf for count in counts
    ):
        raise DataError(
            f"metrics.jsonl: {where}: accountant state lost: its figures of DP-SGD make no sense; "
            "start anew without --resume"
        )
    fixed = dp.noise_multiplier
    if fixed is not None and not math.isclose(z, fixed):
        raise DataError(
            f"metrics.jsonl: {where}: accountant state changed: noise multiplier {z:g}, and the "
            f"config's is {fixed:g}; no epsilon holds any more"
        )
    return figures


def claim(config: Config, history: History) -> Claim:
    """The claim of `training.dp`. An epsilon stands in it only where every round is accounted."""
    dp = config.training.dp
    assert dp is not None
    notes = list(NOTES)
    if config.engine.kind != "deployment":
        notes.append("simulated: noise follows from the seed, and whoever knows it can take it off")
        notes.append("losses and shares clipped that a simulation records are outside the epsilon")
    if dp.unit == "record":
        notes.append("a patient with k records, and near-copies, need group privacy")
    if dp.unit == "patient":
        notes.append("a record without a patient counts as one of its own")
    try:
        of = _by_target if config.aggregation.secure.enabled else _accounted
        figures, found, delta, sampling = of(config, dp, history, notes)
    except DataError as error:
        figures, found, delta, sampling, notes = {}, None, dp.delta, "Poisson", [str(error)]
    units = history.mean("dp_units")
    small = delta < 1 if units is None else delta < 1 / units
    good = found is not None and math.isfinite(found.pld) and small
    pooled = config.rounds.topology == "centralized"
    if config.aggregation.weights == "examples" and not pooled:
        notes.append("clients weigh by their exact number of examples, which counts as public")
    return Claim(
        what="DP-SGD",
        where=f"training: each {dp.unit}'s gradient clipped to {dp.max_grad_norm:g}, Gaussian "
        f"noise on their sum, {'in the one place that trains' if pooled else 'at every client'}",
        protects="nothing sure"
        if not good
        else f"each {dp.unit} from whoever gets the models"
        if pooled
        else f"each {dp.unit} of every client from everybody else",
        trust=POOLED if pooled else TRUST,
        guarantee=f"differential privacy of {'an' if dp.unit == 'example' else 'a'} {dp.unit}"
        if good
        else NO_DP,
        epsilon=found.pld if found and good else None,
        epsilon_rdp=found.rdp if found and good and math.isfinite(found.rdp) else None,
        delta=delta if good else None,
        unit=UNITS[dp.unit],
        adjacency=f"one {dp.unit} added or removed",
        sampling=sampling,
        figures=figures,
        notes=tuple(notes),
    )


Accounted = tuple[dict[str, float], Epsilon, float, str]  # figures, epsilon, delta, sampling


def _accounted(config: Config, dp: DPSGD, history: History, notes: list[str]) -> Accounted:
    """From what clients told; the epsilon is the largest of all. Adds to the notes."""
    own = ledgers(config, history)
    if not own:
        return {"rounds": 0.0}, Epsilon(0.0, 0.0), dp.delta, "Poisson"
    told = {name: figures for round_ in history.train for name, figures in round_.items()}
    each = {name: epsilon(steps, dp.delta) for name, steps in own.items()}
    worst = max(each.values(), key=lambda e: e.pld)
    largest = int(max(told[name]["dp_largest"] for name in own))
    holders = int(max(told[name]["dp_holders"] for name in own))
    figures = {
        "rounds": float(len(history.train)),
        "steps": float(max(sum(step.steps for step in steps) for steps in own.values())),
        "noise_multiplier": min(step.noise_multiplier for steps in own.values() for step in steps),
        "max_grad_norm": dp.max_grad_norm,
        "epsilon_least": min(e.pld for e in each.values()),
        "largest_group": float(largest),
    }
    means = {name: history.mean(f"dp_{name}") for name in ("clipped", "norm", "empty")}
    figures |= {f"mean_{name}": mean for name, mean in means.items() if mean is not None}
    if dp.unit == "example" and (largest > 1 or holders > 1):
        groups = [as_group(steps, int(told[name]["dp_largest"])) for name, steps in own.items()]
        figures["epsilon_of_largest_group"] = group = shared(groups, holders, dp.delta).pld
        notes.insert(
            0,
            f"a record written {largest} times at a client, and at {holders}, is not covered: as a "
            f"group it has an epsilon of {group:.3g} (group privacy, conservative)",
        )
    elif holders > 1:  # a unit that several clients hold is in all their mechanisms
        worst = shared(list(own.values()), holders, dp.delta)
        notes.insert(0, f"some {dp.unit} lies at {holders} clients: composed over as many")
    if config.engine.kind == "deployment" and len(own) > 1:
        notes.append("that no other client holds the same is taken on trust, but for canaries")
    if worst.method == "rdp":
        notes.append("epsilon is the looser bound by Renyi DP: composition by PRV was out of reach")
    units = min(told[name]["dp_units"] for name in own)
    if dp.delta >= 1 / units:
        notes.append(f"delta {dp.delta:g} is not below 1 / {units:g}, a client's number of units")
    rates = [step.sample_rate for steps in own.values() for step in steps]
    rate = " to ".join(dict.fromkeys(f"{r:.3g}" for r in (min(rates), max(rates))))
    return figures, worst, dp.delta, f"Poisson, rate {rate}"


def _by_target(config: Config, dp: DPSGD, history: History, notes: list[str]) -> Accounted:
    """Under secure aggregation no client tells its rate: what each has set out not to exceed."""
    assert dp.target_epsilon is not None
    target, delta, clients = dp.target_epsilon, dp.delta, len(history.clients)
    figures = {"rounds": float(len(history.train)), "max_grad_norm": dp.max_grad_norm}
    notes.insert(0, "what no client exceeds; each keeps its own account, and tells none of it")
    holders = history.mean("dp_holders")
    spread = config.data.canaries.placement == "by_bytes" if holders is None else holders > 1
    if spread and dp.unit != "example":
        notes.insert(0, f"some {dp.unit} lies at several clients: the sum over all {clients}")
        target, delta = clients * target, clients * delta
    if dp.unit == "example":
        notes.insert(0, "a record written several times is not covered at this epsilon")
    if config.engine.kind == "deployment":
        notes.append("that no other client holds the same is taken on trust, but for canaries")
    return figures, Epsilon(target, math.inf), delta, "Poisson, each client's own rate"


def as_group(steps: Iterable[Step], size: int) -> list[Step]:
    """The steps as a group of `size` units meets them.

    Of a group in the sample at all, with probability 1 - (1 - q)^k, at most k gradients are there:
    sensitivity k, that is noise z / k (group members fewer are a noisier version of k).
    """
    return [
        Step(s.noise_multiplier / size, -math.expm1(size * math.log1p(-s.sample_rate)), s.steps)
        if s.sample_rate < 1
        else Step(s.noise_multiplier / size, 1.0, s.steps)
        for s in steps
    ]


def shared(own: Sequence[Sequence[Step]], holders: int, delta: float) -> Epsilon:
    """An upper bound for a unit that `holders` of the clients hold, whichever they are.

    One: the largest of a single client's. More: the largest over all choices of clients, where
    these are few; else all clients' steps together, or `holders` times a client that is worst in
    noise, rate and steps at once, the smaller of both.
    """
    if holders <= 1:
        return max((epsilon(steps, delta) for steps in own), key=lambda e: e.pld)
    if math.comb(len(own), min(holders, len(own))) <= FEW:
        choices = combinations(own, min(holders, len(own)))
        together = [epsilon([s for steps in chosen for s in steps], delta) for chosen in choices]
        return max(together, key=lambda e: e.pld)
    every = [step for steps in own for step in steps]
    bounds = [epsilon(every, delta)]
    if holders < len(own):
        count = max(sum(step.steps for step in steps) for steps in own)
        noise = min(step.noise_multiplier for step in every)
        rate = max(step.sample_rate for step in every)
        bounds.append(epsilon([Step(noise, rate, count * holders)], delta))
    return min(bounds, key=lambda e: e.pld)
