"""`training.dp`: record-level differential privacy while training (DP-SGD)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from fedmem.config.section import Section

if TYPE_CHECKING:
    from fedmem.config import Config


class DPSGD(Section):
    """DP-SGD (Abadi et al. 2016) on Poisson samples, at every client by itself.

    Each step takes every unit by its own coin, so that `training.batch_size` are there on average,
    draws one example of each, clips its gradient to an L2 norm of `max_grad_norm` and adds noise of
    `noise_multiplier` times that norm to the sum. With `target_epsilon` a client finds its own
    multiplier, for all rounds of the run.

    unit: `record`, a record or note with all its copies at the client; `patient`, everything of a
    patient; `example`, each example by itself: then a note written ten times is ten units, and its
    epsilon is far above the one accounted. physical_batch_size: examples at once in memory.
    """

    max_grad_norm: float = Field(1.0, gt=0, le=1e6)
    noise_multiplier: float | None = Field(None, gt=0, le=1e4)
    target_epsilon: float | None = Field(None, gt=0, le=1000)
    delta: float = Field(1e-5, gt=0, lt=0.1)
    unit: Literal["record", "patient", "example"] = "record"
    physical_batch_size: int | None = Field(
        None, ge=1, description="null: training.batch_size; changes memory and rounding alone"
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> DPSGD:
        if (self.noise_multiplier is None) == (self.target_epsilon is None):
            raise ValueError("give noise_multiplier or target_epsilon, one of them")
        return self


def problem_with(config: Config) -> str | None:
    """What makes DP-SGD unfit for the rest of the config, or None."""
    t = config.training
    if t.dp is None:
        return None
    if t.packing:
        return "training.packing puts several records into one example; set it to false"
    if t.accumulation > 1:
        return (
            "training.accumulation: a step takes one Poisson sample of training.batch_size on "
            "average; set accumulation to 1, and training.dp.physical_batch_size for memory"
        )
    if t.max_grad_norm not in (None, type(t).model_fields["max_grad_norm"].default):
        return (
            f"training.max_grad_norm={t.max_grad_norm:g} clips a batch's gradient, which bounds no "
            "record; set it to null, and training.dp.max_grad_norm to the norm of a record"
        )
    if config.model.dtype == "float16":
        return (
            "model.dtype: float16 leaves out steps that overflow, which depends on the records; "
            "set it to bfloat16 or float32"
        )
    if config.model.gradient_checkpointing:
        return (
            "model.gradient_checkpointing computes activations twice, and Opacus would count a "
            "record's gradient twice; set it to false and lower training.dp.physical_batch_size"
        )
    if config.aggregation.secure.enabled and t.dp.target_epsilon is None:
        return (
            "aggregation.secure keeps the clients' sample rates from the server, so that nobody "
            "could tell the run's epsilon; give target_epsilon in place of noise_multiplier"
        )
    return None
