"""Differential privacy with a client as the unit, by the server's noise or by everybody's."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fedmem.accounting import Epsilon, Step, epsilon, noise_multiplier
from fedmem.claims import NO_DP, Claim, History
from fedmem.config import Config
from fedmem.config import defences as cfg
from fedmem.defences.turn import Turn, l2, numbers, within

if TYPE_CHECKING:
    from fedmem.model.state import Arrays


def plan(settings: cfg.ClientDP, config: Config) -> tuple[Step, float]:
    """(one round as a step of the accountant, n_bar): n_bar = q N is the fixed denominator.

    Central and Poisson-sampled, a round's sampling amplifies; distributed it does not, for the
    server sees who takes part.
    """
    clients = len(config.data.clients)
    chosen = config.rounds.clients_per_round
    n_bar = clients if chosen == "all" else chosen
    sampled = settings.mode == "central" and config.rounds.client_sampling == "poisson"
    rate = n_bar / clients if sampled else 1.0
    z = settings.noise_multiplier
    if z is None:
        assert settings.target_epsilon is not None
        z = noise_multiplier(settings.target_epsilon, settings.delta, rate, config.rounds.count)
    return Step(z, rate, 1), float(n_bar)


class ClientDP:
    """DP-FedAvg (McMahan et al. 2018), with a fixed denominator.

    Releases sum clip(update_i, C) / n_bar + N(0, (z C / n_bar)^2). Distributed: every client
    adds N(0, (z C)^2 / honest), and a round needs `honest` survivors beside those that may
    collude: a curious client takes its own part of the noise off, and what is left has at least
    the noise of z.
    """

    side: tuple[str, ...] = ()

    def __init__(self, settings: cfg.ClientDP, config: Config) -> None:
        self.settings = settings
        self.step, self.n_bar = plan(settings, config)
        self.z = self.step.noise_multiplier

    def on_client_update(self, update: Arrays, turn: Turn) -> Arrays:
        """Clip; distributed: add this client's part of the noise."""
        turn.figures["norm"] = l2(update)
        turn.figures["clipped"] = float(turn.figures["norm"] > self.settings.norm)
        update = within(update, self.settings.norm)
        if self.settings.honest is None:
            return update
        return turn.noise(update, self.z * self.settings.norm / math.sqrt(self.settings.honest))

    def on_aggregate(self, mean: Arrays, turn: Turn) -> Arrays:
        """Central: add the noise. Figures: sigma on a number of the joined update, the ratio."""
        honest = self.settings.honest
        sigma = self.z * self.settings.norm / self.n_bar
        turn.figures |= {"noise_multiplier": self.z, "sigma": sigma}
        if honest is not None:
            return mean
        # of the bound, not of this round's update: that would give its norm away without noise
        turn.figures["snr_at_most"] = self.settings.norm / (sigma * math.sqrt(numbers(mean)))
        return turn.noise(mean, sigma)

    def spent(self, rounds: int) -> Epsilon:
        """Epsilon of so many rounds."""
        return epsilon([self.step] * rounds, self.settings.delta)

    def claim(self, history: History) -> Claim:
        """An epsilon for a client, of the rounds that were released."""
        s = self.settings
        rounds = len(history.server)
        spent = self.spent(rounds)
        central = s.mode == "central"
        notes = ["composed over the rounds; learning rates picked on private data are not covered"]
        notes.append("noise from floating-point numbers; in a simulation the seed gives it away")
        notes.append("covers the models; figures that clients report beside them are not covered")
        if central:
            trust = "the server, to add the noise and keep the clients' updates to itself; "
            trust += "every client, to clip"
            if self.step.sample_rate < 1:
                trust += "; nobody tells who took part in a round (this run's files do)"
            protects = "each client from the other clients and from whoever gets the models"
        else:
            trust = f"{s.honest} clients a round at least beside the curious one, to add their "
            trust += "noise and not to collude; "
            trust += "secure aggregation"
            protects = "each client from server, other clients and whoever gets the models"
            notes.append("accounted as a continuous Gaussian, over a sum that is quantised")
            notes.append("no amplification by sampling: the server sees who takes part")
        good = s.delta < 1 / len(history.clients)
        if not good:
            notes.append(
                f"nothing: delta {s.delta:g} is not below 1 / {len(history.clients)} clients"
            )
        rate = self.step.sample_rate
        return Claim(
            what=f"client-level DP, {s.mode}",
            where=f"clients clip to {s.norm:g}; noise multiplier {self.z:.4g}, "
            + ("added by the server" if central else f"a part from each of {s.honest} or more"),
            protects=protects,
            trust=trust,
            guarantee="differential privacy of a client" if good else NO_DP,
            epsilon=spent.pld if good else None,
            epsilon_rdp=spent.rdp if good else None,
            delta=s.delta,
            unit="client",
            adjacency="a client's update, or none in its place",
            sampling=f"Poisson, rate {rate:g}" if rate < 1 else "none",
            figures={"noise_multiplier": self.z, "rounds": float(rounds)},
            notes=tuple(notes),
        )
