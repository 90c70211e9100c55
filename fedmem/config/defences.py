"""Defences on updates: a list, applied in its order, at the clients and then at the server.

Objectives and DP-SGD change how a client trains and are keys of `training`; secure aggregation is
a key of `aggregation`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from fedmem.config.section import Section

if TYPE_CHECKING:
    from fedmem.config import Config

Norm = Annotated[float, Field(gt=0, le=1e6)]


class Clip(Section):
    """Scale an update down to an L2 norm of at most `norm`; `per: layer` gives every array it."""

    kind: Literal["clip"] = "clip"
    norm: Norm = 1.0
    per: Literal["model", "layer"] = "model"


class AdaptiveClip(Section):
    """A clip norm that follows a quantile of the updates' norms (Andrew et al. 2021, section 3).

    It begins with `norm`; each round the server learns the share of updates at or below it, with
    Gaussian noise of standard deviation `noise` (of a count of clients), and moves it by `rate`.
    """

    kind: Literal["adaptive_clip"] = "adaptive_clip"
    norm: Norm = 0.1
    quantile: float = Field(0.5, ge=0, le=1)
    rate: float = Field(0.2, gt=0, le=10)
    noise: float = Field(0.0, ge=0, le=1e6)


class GaussianNoise(Section):
    """Noise of standard deviation `sigma` on every number.

    at: `update`, each client's before it is sent; `aggregate`, the joined update; `weights`, each
    client's trained weights, as in the paper: the same sum as `update`, told against the weights.
    """

    kind: Literal["gaussian_noise"] = "gaussian_noise"
    sigma: float = Field(gt=0, le=1e6)
    at: Literal["update", "aggregate", "weights"] = "update"


class ClientDP(Section):
    """Differential privacy with a client as the unit: whether a hospital took part at all.

    `central`: clients clip to `norm`, the server adds the noise. `distributed`: each client adds
    its part, and secure aggregation lets the server see the sum alone; `honest` clients at least,
    beside those that may collude (one, or secure aggregation's `corrupted`), must survive a round.
    Give `noise_multiplier` or `target_epsilon`.
    """

    kind: Literal["client_dp"] = "client_dp"
    mode: Literal["central", "distributed"] = "central"
    norm: Norm = 0.1
    noise_multiplier: float | None = Field(None, gt=0, le=1e4)
    target_epsilon: float | None = Field(None, gt=0, le=1e4)
    delta: float = Field(1e-5, gt=0, lt=0.1)
    honest: int | None = Field(None, ge=2, description="distributed: honest survivors at least")

    @model_validator(mode="after")
    def _complete(self) -> ClientDP:
        if (self.noise_multiplier is None) == (self.target_epsilon is None):
            raise ValueError("give noise_multiplier or target_epsilon, one of them")
        if (self.mode == "distributed") != (self.honest is not None):
            raise ValueError(
                "mode=distributed and honest go together: honest is how many clients' noise counts"
            )
        return self


class Prune(Section):
    """Set the `share` smallest weights of the linear layers to zero, in the merged model.

    per: a share of every `layer`, or of all of the `model` together. when: after `every_round`, or
    after the `last`, which protects the model that is released and not the rounds.
    """

    kind: Literal["prune"] = "prune"
    share: float = Field(gt=0, lt=1)
    per: Literal["layer", "model"] = "layer"
    when: Literal["every_round", "last"] = "every_round"


Defence = Annotated[
    Clip | AdaptiveClip | GaussianNoise | ClientDP | Prune,
    Field(discriminator="kind"),
]


def problem_with(defences: list[Defence], config: Config) -> str | None:
    """What makes the list unfit for the rest of the config, or None."""
    if not defences:
        return None
    if config.rounds.topology == "local":
        return "topology local sends no update to anybody; take the list away"
    kinds = [d.kind for d in defences]
    if "prune" in kinds:
        if config.model.method == "lora" and config.aggregation.rule != "product":
            return "prune needs merged weights, not A and B: set aggregation.rule=product"
        after = defences[kinds.index("prune") + 1 :]
        if any(isinstance(d, GaussianNoise) and d.at == "aggregate" for d in after) or any(
            isinstance(d, ClientDP) and d.mode == "central" for d in after
        ):
            return "noise of the server after prune would fill its zeros; put prune last"
    dp = next((d for d in defences if isinstance(d, ClientDP)), None)
    if dp is None:
        return None
    clients, chosen = len(config.data.clients), config.rounds.clients_per_round
    if kinds.count("client_dp") > 1:
        return "client_dp stands in the list twice"
    if config.rounds.topology == "centralized":
        return "client_dp needs clients, and topology centralized has one"
    if config.aggregation.weights != "uniform":
        return (
            "client_dp needs aggregation.weights=uniform: under weights by size the largest client "
            "has more effect than the noise is made for"
        )
    if config.aggregation.rule == "product":
        return "client_dp bounds A and B, and aggregation.rule=product joins their products"
    if "adaptive_clip" in kinds:
        return "client_dp has a fixed norm; what adaptive_clip's counts give away is not accounted"
    if "clip" in kinds[kinds.index("client_dp") :]:
        return "a clip after client_dp would shrink its noise; put it before"
    sampled = isinstance(chosen, int) and chosen < clients
    if sampled and dp.mode == "central" and config.rounds.client_sampling == "fixed":
        return "client_dp with sampled clients needs rounds.client_sampling=poisson"
    if dp.honest is not None:
        if not config.aggregation.secure.enabled:
            return "client_dp distributed needs aggregation.secure.enabled=true, to hide each part"
        if config.aggregation.secure.metrics != "withheld":
            return (
                "client_dp distributed needs aggregation.secure.metrics=withheld: sums of losses "
                "and norms have no noise"
            )
        count = clients if chosen == "all" else chosen
        if dp.honest >= count:
            return (
                f"client_dp: honest is {dp.honest} of {count} clients a round; a curious one knows "
                f"its own noise, so take {count - 1} at most"
            )
    return None
