"""What the page's parts are made of, and how figures are written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup

from fedmem.metrics.headline import interval, percent


@dataclass(frozen=True)
class Arm:
    """One run on the page: its short name, its look in plots, its figures and its own texts."""

    name: str
    look: int
    summary: dict[str, Any]
    config: dict[str, Any]
    texts: dict[str, tuple[str, list[str]]]  # canary -> text, PHI values; empty when redacted
    path: Path

    def rows(self, table: str, **same: Any) -> list[dict[str, Any]]:
        """The rows of one of the summary's tables in which all of `same` holds."""
        rows = self.summary.get(table, [])
        return [row for row in rows if all(row.get(key) == v for key, v in same.items())]

    def one(self, table: str, **same: Any) -> dict[str, Any] | None:
        """The first such row."""
        return next(iter(self.rows(table, **same)), None)

    @property
    def top(self) -> int:
        """The highest number of copies written."""
        return max((level["copies"] for level in self.summary["levels"]), default=0)


@dataclass(frozen=True)
class Table:
    """A table of texts; the first column heads its row."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Figure:
    """One plot and what is said below it."""

    heading: str
    caption: str
    plot: Markup


@dataclass(frozen=True)
class Heat:
    """Attacker (row) x victim (column): cells hold (text, interval, twins or "", shade 0 to 5).

    corner: what rows and columns are.
    """

    caption: str
    victims: Sequence[str]
    rows: Sequence[tuple[str, Sequence[tuple[str, str, str, int] | None]]]
    corner: str = "attacker ↓ victim →"


@dataclass(frozen=True)
class Panel:
    """A section's plots or heat tables, and their numbers as tables; `folded` heats open on demand.

    said: sentences before the plots.
    """

    figures: list[Figure] = field(default_factory=list)
    heats: list[Heat] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    folded: list[Heat] = field(default_factory=list)
    said: list[str] = field(default_factory=list)


KNOWLEDGE = {
    "true_prefix": "true text granted",
    "own_prefix": "own beginnings only",
    "template": "the notes' form only",
    "none": "nothing known",
    "names": "others' names, model tuned on own pairs",
    "names_untuned": "others' names, model as received",
}
ATTACKS = {
    "phi": "PHI value",
    "window": "long run",
    "exact": "exact continuation",
    "approximate": "near-exact continuation",
}


def level(copies: int) -> str:
    """As in "10x", or "twins"."""
    return f"{copies}×" if copies else "twins"


def known(knowledge: str) -> str:
    """A knowledge in words."""
    return KNOWLEDGE.get(knowledge, knowledge)


def share(row: dict[str, Any] | None) -> str:
    """As in "7 of 16"."""
    return f"{row['k']} of {row['n']}" if row else "–"


def rate(row: dict[str, Any] | None) -> str:
    """As in "44 % (23–67 %)"."""
    return f"{percent(row['rate'])} % ({interval(row)})" if row else "–"


def full(row: dict[str, Any] | None) -> str:
    """As in "7 of 16, 44 % (23–67 %)"."""
    return f"{share(row)}, {rate(row)}" if row else "–"


def number(value: float | None, digits: int = 3) -> str:
    """A number, or a dash."""
    return "–" if value is None else f"{value:.{digits}f}"


def size(count: float | None) -> str:
    """`1.2 MB`; a dash where it was not counted."""
    return "–" if count is None else f"{count / 1e6:,.2f} MB"


def seconds(value: float) -> str:
    """As in "4.2 s", "3 min 07 s"."""
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s"


def flat(tree: Any, prefix: str = "") -> Iterable[tuple[str, str]]:
    """Dotted keys and values of a nested structure; lists of plain values on one line."""
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from flat(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(tree, list) and any(isinstance(item, dict | list) for item in tree):
        for index, item in enumerate(tree):
            yield from flat(item, f"{prefix}.{index}")
    elif isinstance(tree, list):
        yield prefix, ", ".join(map(str, tree)) or "none"
    else:
        yield prefix, "none" if tree in (None, {}) else str(tree)


def round_name(round_: int) -> str:
    """The round's number; "base" before any training here."""
    return str(round_) if round_ else "base"


def who(row: dict[str, Any]) -> str:
    """The attacker of a row of the summary, in words."""
    return {"*": "any receiver", "any": "any other client"}.get(
        str(row["attacker"]), str(row["attacker"])
    )


def clear(row: dict[str, Any]) -> str:
    """Whether a figure is clear of the twins' level."""
    return "–" if row["clear"] is None else "yes" if row["clear"] else "no"
