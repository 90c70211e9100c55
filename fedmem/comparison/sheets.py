"""The rows of an arm's runs as arrays: a sheet a seed, over rates, rounds, questions, notes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fedmem.comparison.frontier import Floats
from fedmem.comparison.observations import ATTACKS
from fedmem.errors import DataError


@dataclass(frozen=True)
class Sheet:
    """One seed of an arm. Arrays [rates, rounds + 1, questions or notes]; NaN where untried."""

    questions: list[str]
    tasks: list[str]
    nll: Floats
    accuracy: Floats
    notes: list[str]
    copies: NDArray[np.int64]
    hits: dict[str, Floats] = field(repr=False)


@dataclass(frozen=True)
class Arm:
    """Runs that differ in rate and seed alone. `rates` rise; `rounds` begin with 0."""

    name: str
    rates: tuple[float, ...]
    rounds: tuple[int, ...]
    seeds: dict[int, Sheet]


def arm(name: str, table: pa.Table) -> Arm:
    """An arm from its rows (`observations.SCHEMA`), with the seeds that were run at every rate.

    Raises DataError where no seed was, or where the runs differ in rounds or notes.
    """
    columns = {key: np.asarray(table[key].to_pylist(), dtype=object) for key in table.column_names}
    rates = tuple(sorted({float(rate) for rate in columns["lr"]}))
    rounds = tuple(sorted({int(number) for number in columns["round"]}))
    sheets = {}
    for seed in sorted(set(columns["seed"])):
        mine = columns["seed"] == seed
        if len(set(columns["lr"][mine])) == len(rates):
            found = {key: column[mine] for key, column in columns.items()}
            sheets[int(seed)] = _sheet(name, found, rates, rounds)
    if not sheets:
        raise DataError(f"arm {name}: no seed was run at all of its rates {rates}")
    return Arm(name, rates, rounds, sheets)


def _sheet(
    name: str, columns: dict[str, Any], rates: Sequence[float], rounds: Sequence[int]
) -> Sheet:
    asked = columns["task"] != np.array(None)
    cells: list[tuple[list[str], dict[str, Any], dict[str, Floats]]] = []
    for these, keys in ((asked, ("nll", "right")), (~asked, ATTACKS)):
        part = {key: column[these] for key, column in columns.items()}
        units = sorted(set(part["unit"]))
        at = {unit: i for i, unit in enumerate(units)}
        shape = (len(rates), len(rounds), len(units))
        places = (
            np.array([rates.index(rate) for rate in part["lr"]], dtype=int),
            np.array([rounds.index(number) for number in part["round"]], dtype=int),
            np.array([at[unit] for unit in part["unit"]], dtype=int),
        )
        seen = np.zeros(shape, dtype=int)
        np.add.at(seen, places, 1)
        if not (seen == 1).all():
            raise DataError(f"arm {name}: its runs differ in rounds, questions or notes")
        arrays = {}
        for key in keys:
            arrays[key] = np.full(shape, np.nan)
            arrays[key][places] = part[key].astype(np.float64)  # None becomes NaN
        kind = "task" if these is asked else "copies"
        told = dict(zip(part["unit"], part[kind], strict=True))
        cells.append((units, told, arrays))
    (questions, task, answers), (notes, copies, hits) = cells
    return Sheet(
        *(questions, [task[q] for q in questions], answers["nll"], answers["right"], notes),
        np.array([copies[note] for note in notes], dtype=np.int64),
        hits,
    )


def only(arm: Arm, rate: float) -> Arm:
    """The arm at one of its rates alone. Raises DataError for a rate that it does not have."""
    if rate not in arm.rates:
        raise DataError(f"arm {arm.name}: has no rate {rate:g}, only {arm.rates}")
    at = [arm.rates.index(rate)]
    seeds = {
        seed: replace(
            sheet,
            nll=sheet.nll[at],
            accuracy=sheet.accuracy[at],
            hits={attack: hits[at] for attack, hits in sheet.hits.items()},
        )
        for seed, sheet in arm.seeds.items()
    }
    return Arm(arm.name, (rate,), arm.rounds, seeds)
