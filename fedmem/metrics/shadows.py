"""What shadow runs tell of a run: LiRA, RMIA, counterfactual memorization, and what a client adds.

Pure functions of the saved files of a run and of those under its `shadows/` (`fedmem.shadows` makes
them): two kinds, random halves of the canaries and twins, and all but one client. Both are scored
after their last round, against the run's last round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray

from fedmem.attacks import lira, rmia
from fedmem.errors import DataError
from fedmem.manifest import read_manifest
from fedmem.metrics.intervals import paired_share, student_mean
from fedmem.metrics.outcomes import Owned
from fedmem.metrics.roc import told_apart
from fedmem.metrics.tokens import TOKENS
from fedmem.rundir import open_finished

Row = dict[str, Any]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
FOLDER = "shadows"
LEAST_HALVES = 4  # two shadows on each side of every note: the fewest with a variance


@dataclass(frozen=True)
class Measured:
    """A run after its last round; arrays over the same N notes.

    nats: mean log-probability of a note's tokens; accuracy: share of tokens that are the model's
    most likely; phi: whether a tagged value came back behind the true text (float: NaN where there
    is none). copies: how often the note was written, at clients that could take part.
    """

    nats: Floats
    accuracy: Floats
    phi: Floats
    copies: Ints
    left_out: tuple[str, ...]
    shadow: int | None


def rows(run_dir: Path, canaries: Mapping[str, Owned]) -> list[Row]:
    """All rows, by `figure`; none where the run has no finished shadows. Knowledge: true_prefix.

    DataError where a shadow does not fit the run: other notes, another tokenizer, another version.
    """
    found = finished(run_dir)
    if not found:
        return []
    names = sorted(canaries)
    target = measured(run_dir, names)
    made = [measured(path, names) for path in found]
    notes = [canaries[name] for name in names]
    halves = [one for one in made if one.shadow is not None]
    return [
        *(membership(target, halves) if halves else []),
        *(counterfactual(notes, halves) if halves else []),
        *without_client(notes, target, [one for one in made if one.left_out]),
    ]


# --- reading --------------------------------------------------------------------------------


def finished(run_dir: Path) -> list[Path]:
    """The run's finished shadows, in order of their names (the time and number begin them)."""
    found = sorted(file.parent for file in (run_dir / FOLDER).glob("*/manifest.json"))
    return [path for path in found if read_manifest(path)["status"] == "finished"]


def measured(run_dir: Path, names: Sequence[str]) -> Measured:
    """A finished run's last round, notes in the order of `names`. DataError if it lacks one."""
    path = open_finished(run_dir).path if run_dir.parent.name == FOLDER else run_dir
    try:
        config = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
        last = config["rounds"]["count"]
        left_out = tuple(config["rounds"].get("left_out", ()))
        shadow = config["data"]["canaries"].get("shadow")
        plan = {row["canary"]: row for row in _read(path / "canaries.parquet", PLAN).to_pylist()}
        scored = _read(path / TOKENS, ["model", "canary", "logprob", "ok"], last).to_pylist()
        told = _read(path / "scores.parquet", SCORES, last).to_pylist()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        why = " ".join(str(error).split())[:200]
        raise DataError(
            f"{path}: cannot be read ({why}); was it made by another version?"
        ) from None
    if set(plan) != set(names):
        raise DataError(f"{path}: has other notes than its run; make the shadows again")
    place = {name: index for index, name in enumerate(names)}
    nats, accuracy, phi = (np.full(len(names), np.nan) for _ in range(3))
    for row in scored:
        index = place.get(row["canary"])
        if index is None or not row["logprob"]:
            continue
        if row["model"] in ("global", plan[row["canary"]]["owners"][0]):
            nats[index] = np.mean(np.asarray(row["logprob"], dtype=np.float64))
            accuracy[index] = np.mean(row["ok"])
    if np.isnan(nats).all():
        raise DataError(f"{path / TOKENS}: no note is scored after round {last}")
    for row in told:
        kept = (row["attacker"], row["knowledge"], row["attack"]) == ("*", "true_prefix", "phi")
        if kept and row["canary"] in place:
            index = place[row["canary"]]
            phi[index] = np.fmax(phi[index], float(row["hit"]))
    copies = [
        sum(
            count
            for owner, count in zip(plan[n]["owners"], plan[n]["owner_copies"], strict=True)
            if owner not in left_out
        )
        for n in names
    ]
    return Measured(nats, accuracy, phi, np.array(copies, dtype=np.int64), left_out, shadow)


PLAN = ["canary", "owners", "owner_copies"]
SCORES = ["attacker", "knowledge", "attack", "canary", "hit"]


def _read(path: Path, columns: list[str], round_: int | None = None) -> Any:
    filters = None if round_ is None else [("round", "==", round_)]
    return pq.read_table(path, columns=columns, filters=filters)


# --- random halves --------------------------------------------------------------------------


def membership(target: Measured, halves: Sequence[Measured]) -> list[Row]:
    """LiRA and RMIA of the run, offline and online, by copies: columns of `roc.told_apart`.

    Twins are compared with members of the copies that shadows wrote them with (`copies` None: all).
    """
    nats = np.stack([one.nats for one in halves])
    included = np.stack([one.copies > 0 for one in halves])
    would = np.max([one.copies for one in halves], axis=0)
    member = target.copies > 0
    level = np.where(member, target.copies, would)
    population = ~member & ~np.isnan(target.nats)
    attacks: dict[str, Callable[[Bools], Floats]] = {
        "lira_offline": lambda of: lira.offline(*_part(target, nats, included, of)),
        "lira_online": lambda of: lira.online(*_part(target, nats, included, of)),
        "rmia_offline": lambda of: rmia.offline(
            *_part(target, nats, included, of), population=population[of]
        ),
        "rmia_online": lambda of: rmia.online(
            *_part(target, nats, included, of), population=population[of]
        ),
    }
    levels = [int(copies) for copies in sorted(set(level[member].tolist()))]
    found = []
    for attack, score in attacks.items():
        for copies in [None, *levels] if len(levels) > 1 else levels:
            of = np.ones_like(member) if copies is None else level == copies
            scores = score(of)
            known = ~np.isnan(scores)
            row = {"figure": "membership", "attack": attack, "copies": copies}
            row |= {"knowledge": "true_prefix", "shadows": len(halves)}
            reason = None
            if not known.any():
                reason = f"{len(halves)} shadows; it takes {LEAST_HALVES} at the least"
            inside, outside = (scores[known & (member[of] == side)] for side in (True, False))
            told = told_apart(inside, outside, reason)
            found.append(row | {"left_out": int((~known).sum())} | told)
    return found


def _part(
    target: Measured, nats: Floats, included: Bools, of: Bools
) -> tuple[Floats, Floats, Bools]:
    return target.nats[of], nats[:, of], included[:, of]


def counterfactual(notes: Sequence[Owned], halves: Sequence[Measured]) -> list[Row]:
    """Counterfactual memorization (Feldman and Zhang 2020; of texts: Zhang et al. 2023).

    A note's mean over shadows with it less that over those without: `nats` a token, and `accuracy`,
    the papers' (share of tokens that are the most likely). Rows by copies written (all notes serve,
    the run's twins too) and client; client None: all. Interval over notes; null of one note.
    """
    included = np.stack([one.copies > 0 for one in halves])
    would = np.max([one.copies for one in halves], axis=0)
    owners = np.array([note.owners[0] if len(note.owners) == 1 else "" for note in notes])
    both = included.any(axis=0) & ~included.all(axis=0)
    found = []
    for name in ("nats", "accuracy"):
        values = np.stack([getattr(one, name) for one in halves])
        gap = _mean(values, included) - _mean(values, ~included)
        for copies in sorted(set(would[both].tolist())):
            for client in [None, *sorted(set(owners.tolist()) - {""})]:
                of = both & (would == copies) & ~np.isnan(gap)
                chosen = gap[of & (owners == client) if client else of]
                if len(chosen):
                    row = {"figure": "counterfactual", "measure": name, "copies": copies}
                    row |= {"client": client, "shadows": len(halves), "n": len(chosen)}
                    found.append(row | _mean_row(chosen) | {"most": float(chosen.max())})
    return found


def _mean(values: Floats, mask: Bools) -> Floats:
    """Mean of each column over the rows in `mask`; NaN without any."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(mask, values, 0.0).sum(axis=0) / mask.sum(axis=0))


def _mean_row(values: Floats) -> Row:
    if len(set(values.tolist())) < 2:  # no spread is no certainty
        reason = "a single note" if len(values) == 1 else "all notes alike"
        return {"mean": float(values[0]), "low": None, "high": None, "reason": reason}
    interval = student_mean(values.tolist())
    return {"mean": interval.point, "low": interval.low, "high": interval.high, "reason": None}


# --- all but one client ---------------------------------------------------------------------


def without_client(notes: Sequence[Owned], target: Measured, runs: Sequence[Measured]) -> list[Row]:
    """What came because a client took part: the run against the same run without it.

    nats: by how much its notes are likelier with it, with an interval over notes. auc: that of its
    notes against its twins. phi, phi_without: shares of its notes of which a value came back; gain:
    their difference, over the same notes. copies None: all levels; 0: its twins. With client None,
    user inference: the clients' mean gains against those of their twins, clients being the unit.
    """
    found: list[Row] = []
    means: tuple[list[float], list[float]] = ([], [])
    for run in sorted(runs, key=lambda one: one.left_out):
        if len(run.left_out) != 1:
            continue
        client = run.left_out[0]
        own = np.array([note.owners == (client,) for note in notes])
        gap = target.nats - run.nats
        own &= ~np.isnan(gap)
        twin = target.copies == 0
        for mean, side in zip(means, (own & ~twin, own & twin), strict=True):
            mean += [float(gap[side].mean())] if side.any() else []
        levels: list[int | None] = sorted(set(target.copies[own].tolist()))
        for copies in [None, *levels]:
            of = own & (~twin if copies is None else target.copies == copies)
            if not of.any():
                continue
            row: Row = {"figure": "without_client", "client": client, "copies": copies}
            row |= {"knowledge": "true_prefix", "n": int(of.sum())}
            row |= {"nats": (told := _mean_row(gap[of]))["mean"]}
            row |= {"nats_low": told["low"], "nats_high": told["high"]}
            reason = "twins: the control" if copies == 0 else None
            against = told_apart(gap[of & ~twin], gap[own & twin], reason)
            row |= {name: against[name] for name in ("auc", "low", "high", "clear", "reason")}
            found.append(row | _changed(target.phi[of], run.phi[of]))
    if len(means[0]) > 1:
        row = {"figure": "without_client", "client": None, "copies": None, "n": len(means[0])}
        told = told_apart(np.array(means[0]), np.array(means[1]))
        row |= {name: told[name] for name in ("auc", "low", "high", "clear", "reason")}
        found.append(row | {"knowledge": "true_prefix", "nats": float(np.mean(means[0]))})
    return found


def _changed(with_: Floats, without: Floats) -> Row:
    tried = ~np.isnan(with_) & ~np.isnan(without)
    n = int(tried.sum())
    if not n:
        return dict.fromkeys(("phi_n", "phi", "phi_without", "gain", "gain_low", "gain_high"))
    a, b = with_[tried] > 0, without[tried] > 0
    change = paired_share(int((a & ~b).sum()), int((b & ~a).sum()), n)
    row = {"phi_n": n, "phi": float(a.mean()), "phi_without": float(b.mean())}
    return row | {"gain": change.point, "gain_low": change.low, "gain_high": change.high}
