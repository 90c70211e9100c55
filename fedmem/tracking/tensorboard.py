"""TensorBoard event files in the run's directory: `tensorboard --logdir runs`."""

from __future__ import annotations

from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"


class TensorBoard:
    """A scalar a figure. A run that is taken up goes on in the same folder: what stands there of
    `first` and later rounds is not shown any more."""

    def __init__(self, run: Path, first: int) -> None:
        self._writer = SummaryWriter(run / FOLDER, purge_step=first or None)

    def log(self, round_: int, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, round_)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
