"""index.csv of a sweep: a row a point, kept up to date; opens in a spreadsheet.

Columns: the point, its arm, a column a key of the grid, status, run directory, then figures of the
last round with 95 % intervals; empty where a run has none, or has not finished.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from typing import Any

from fedmem.grid import Point
from fedmem.group import Group
from fedmem.rundir import RunDir

INDEX = "index.csv"
UTILITY = {
    "nll": "nll",
    "nll_low": "nll_low",
    "nll_high": "nll_high",
    "accuracy": "accuracy",
    "accuracy_low": "low",
    "accuracy_high": "high",
    "accuracy_chance": "chance",
}
SHARE = ("k", "n", "rate", "low", "high")
KNOWLEDGE = {"phi": "true_prefix", "own_phi": "own_prefix"}  # column -> what the attacker knew
FIGURES = (
    "last_round",
    *UTILITY,
    "copies",
    *(
        f"{column}_{whose}{name}"
        for column in KNOWLEDGE
        for whose in ("", "twins_")
        for name in SHARE
    ),
)


class Index:
    """The file of one sweep."""

    def __init__(self, parent: RunDir, grid: Mapping[str, Point], group: Group) -> None:
        self.path = parent.path / INDEX
        self._parent, self._grid, self._group = parent, grid, group
        self._rows = {name: self._row(name) for name in grid}

    def update(self, name: str) -> None:
        """A point has ended."""
        self._rows[name] = self._row(name)
        self.write()

    def write(self) -> None:
        """The file as of now; never half."""
        text = io.StringIO()
        lines = csv.DictWriter(text, next(iter(self._rows.values())))
        lines.writeheader()
        lines.writerows(self._rows.values())
        self._parent.write_text(INDEX, text.getvalue())

    def _row(self, name: str) -> dict[str, Any]:
        point, run = self._grid[name], self._group.runs.get(name)
        worker = self._group.workers.get(name)
        ended = worker is not None and worker.code is not None
        status = "finished" if run else "failed" if ended else "open"
        row: dict[str, Any] = {"point": name, "arm": point.arm}
        row |= {key: _cell(value) for key, value in point.values.items()}
        row |= {"status": status, "run": run.name if run else None, **dict.fromkeys(FIGURES)}
        if run:
            row |= figures(json.loads((run / "summary.json").read_bytes()))
        row["error"] = worker.error() if worker and status == "failed" else None
        return row


def figures(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The key figures of a summary.json, by the names in `FIGURES`; only those that it has.

    Utility is that of the model which all share, over all tasks. `phi`: of the notes written most
    often, the share that gave back a PHI value, the true text before it granted; `own_phi`: to some
    client with its own notes' beginnings alone.
    """
    found: dict[str, Any] = {"last_round": summary["last_round"]}
    rows = [row for row in summary["utility"] if row["model"] == "global"]
    end = max((row["round"] for row in rows), default=0)
    last = {row["task"]: row for row in rows if row["round"] == end}
    whole = last.get("all") or next(iter(last.values()), None)
    if whole:
        found |= {column: whole[name] for column, name in UTILITY.items()}
    copies = max((level["copies"] for level in summary["levels"]), default=0)
    found["copies"] = copies or None
    for column, knowledge in KNOWLEDGE.items():
        wanted = {"round": summary["last_round"], "copies": copies, "knowledge": knowledge}
        wanted |= {"attack": "phi", "prefix": None}
        for row in summary["leakage"]:
            joined = row["attacker"] in ("*", "any")
            if joined and all(row[key] == value for key, value in wanted.items()):
                found |= {f"{column}_{name}": row[name] for name in SHARE}
                twins = row["twins"] or {}
                found |= {f"{column}_twins_{name}": twins.get(name) for name in SHARE}
    return found


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict | list) else value
