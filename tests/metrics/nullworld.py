"""A cheap world for calibration: figures of canaries as if scored by models that saw none of them.

Notes differ in how easy they are, and rise and fall together over rounds; owners, copies and twins
are dealt at random, so that nothing but chance tells them apart. With `planted`, training lifts
what was written, in rounds in which its owner took part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from fedmem.metrics.leakage import Passes, passes
from fedmem.metrics.outcomes import Key, Outcome, Owned
from fedmem.metrics.targets import Target
from fedmem.metrics.tokens import Tokens, TokenTable

CLIENTS = ("a", "b", "c")
ROUNDS = {1: ["a", "b"], 2: ["b", "c"], 3: ["a", "c"]}
LAST = max(ROUNDS)
LEVELS = {1: 8, 10: 16, 0: 32}  # as the quickstart has them
TOKENS, VALUES, LISTED, CONTINUATION = 30, 6, 20, 8
SHAPE = 0.5  # of the Beta law of a note's chance to give back a value


@dataclass
class World:
    """What the metrics read. value: the chance of a value by nobody's training, a mean over notes;
    on: that of one token more behind a prompt. They differ by world, as sources and models do."""

    value: float
    on: float
    canaries: dict[str, Owned]
    tokens: TokenTable
    outcomes: dict[Key, Outcome]
    secrets: list[Target] = field(default_factory=list)

    @property
    def phi(self) -> float:
        """The chance that a note gives back one value or more."""
        a, b = SHAPE, SHAPE / self.value - SHAPE
        beta = [math.lgamma(b + n) - math.lgamma(a + b + n) for n in (VALUES, 0)]
        return 1 - math.exp(beta[0] - beta[1])

    @property
    def exact(self) -> float:
        """The chance of a continuation without a fault."""
        return self.on**CONTINUATION

    @property
    def found(self) -> Passes:
        return passes(self.outcomes, self.canaries, ROUNDS)


def world(seed: int, planted: bool = False) -> World:
    """One draw of notes and models."""
    rng = np.random.default_rng(seed)
    copies = rng.permutation([level for level, notes in LEVELS.items() for _ in range(notes)])
    owners = [CLIENTS[n % 3] for n in rng.permutation(len(copies))]
    made = World(rng.uniform(0.02, 0.2), rng.uniform(0.5, 0.95), {}, {}, {})
    for n, (count, owner) in enumerate(zip(copies.tolist(), owners, strict=True)):
        name = f"n{n:02d}"
        made.canaries[name] = Owned(
            *(name, f"p-{name}", (owner,), count, count == 0, TOKENS + 1, 90, VALUES)
        )
        lift = {0: 0.0, 1: 0.3, 10: 1.0}[count] if planted else 0.0
        _note(made, rng, made.canaries[name], lift)
    return made


def _note(made: World, rng: np.random.Generator, canary: Owned, lift: float) -> None:
    hard = rng.normal(0, 0.4) + rng.normal(0, 1.0, TOKENS)
    size, easy = int(rng.integers(180, 260)), float(rng.beta(SHAPE, SHAPE / made.value - SHAPE))
    learned = 0.0
    base = rng.normal(size=(VALUES, LISTED + 1))
    for round_ in (0, *ROUNDS):
        if round_:
            hard = hard - 0.1 + rng.normal(0, 0.15) + rng.normal(0, 0.1, TOKENS)
            there = canary.owners[0] in ROUNDS[round_]
            learned += lift if there else 0.0
        logprob = -np.exp(hard - learned)
        unseen = float(-np.exp(hard).mean())  # behind a strange prefix, or of another wording
        made.tokens[round_, "global", canary.id] = _tokens(rng, logprob, size, unseen)
        _outcomes(made, rng, canary, round_, logprob, easy, learned)
        if round_ in (0, LAST):
            scores = base + (rng.normal(0, 0.7, base.shape) if round_ else 0.0)
            scores[:, 0] += 2.0 * learned
            for index in range(VALUES):
                place = (index, 2, 3, "NAME", "PATIENT", scores[index], None)
                made.secrets.append(Target(round_, "global", canary.id, "phi", *place))


def _tokens(rng: np.random.Generator, logprob: np.ndarray, size: int, unseen: float) -> Tokens:
    flat = logprob.astype(np.float32)
    rank = np.minimum(np.exp(-logprob), 1e6).astype(np.int32) - 1
    mu = rng.normal(-1.5, 0.2, TOKENS).astype(np.float32)
    sigma = rng.uniform(0.5, 1.5, TOKENS).astype(np.float32)
    before, near = (unseen + rng.normal(0, 0.2) for _ in range(2))
    return Tokens(flat > -0.6, flat, rank, mu, sigma, flat[None], size, before, near)


def _outcomes(
    made: World,
    rng: np.random.Generator,
    canary: Owned,
    round_: int,
    logprob: np.ndarray,
    easy: float,
    learned: float,
) -> None:
    runs, run = [0], 0
    for ok in logprob > -0.6:
        run = run + 1 if ok else 0
        runs.append(run)
    on = made.on + (1 - made.on) * min(0.9, learned)
    easy = min(1.0, easy + 0.3 * learned)
    matched = min(CONTINUATION, int(rng.geometric(1 - on)) - 1)
    one = Outcome(longest=max(runs), tokens=TOKENS, nll=-float(logprob.mean()), queries=1)
    one.exact[10] = one.approximate[10] = matched == CONTINUATION
    one.prefix[10], one.best = (10, 30), (matched, CONTINUATION, 10, 30, 0.0)
    one.phi = {index: bool(rng.random() < easy) for index in range(VALUES)}
    one.kinds = dict.fromkeys(one.phi, ("NAME", "PATIENT"))
    made.outcomes[Key(round_, "global", "*", "true_prefix", canary.id)] = one
    for client in CLIENTS:
        if client not in canary.owners:
            hits = {index: bool(rng.random() < easy) for index in range(VALUES)}
            own = Outcome(phi=hits, kinds=one.kinds, queries=10)
            made.outcomes[Key(round_, "global", client, "own_prefix", canary.id)] = own
