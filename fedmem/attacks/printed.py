"""The figures of a standalone attack as a small table for the screen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fedmem.metrics.headline import interval, percent, signed, times

COUNTED = {  # notes that were not used, or not in full
    "same_patient": "left out: another note of the same patient",
    "shared_value": "left out: shares a name, number or address with another note",
    "near_duplicate": "left out: over a fifth of its 8-word sequences stand in another note",
    "bad_rows": "left out: bad row",
    "duplicate_ids": "left out: an id seen before",
    "cut_to_a_window": "longer than training.max_length: the window with most PHI is used",
    "without_phi": "without tagged PHI: not counted for PHI",
    "too_short_for_extraction": "shorter than any prefix and the continuation: no extraction",
}


def lines(summary: dict[str, Any]) -> Iterator[str]:
    """How many notes, then for each number of copies a row a measure; of a run, the last round."""
    yield f"notes: {summary['notes']['used']} used"
    for key, text in COUNTED.items():
        if summary["notes"][key]:
            yield f"  {summary['notes'][key]} {text}"
    yield "granted: the true text before each target (an auditor's bound)"
    yield "intervals: 95 %; shares of notes Wilson's, NLL by an expanded bootstrap over notes"
    levels = [level["copies"] for level in summary["levels"]]
    shown = [copies for copies in levels if copies] or [0]
    last = max(summary["rounds"])
    for copies in shown:
        rows = _rows(summary, last, copies)
        if rows:
            yield ""
            yield from _block(summary, last, copies, rows)
    if len(summary["rounds"]) > 2:
        yield ""
        yield "Earlier rounds: summary.json, `leakage`."
    if 0 not in levels:
        yield ""
        yield (
            "No twins (copies 0) were given, so chance is unknown: these are rates, and no claim "
            "of a leak."
        )


def _rows(summary: dict[str, Any], round_: int, copies: int) -> list[dict[str, Any]]:
    return [
        row
        for row in summary["leakage"]
        if row["round"] == round_ and row["copies"] == copies
        if row["prefix"] is not None or row["attack"] in ("phi", "window")
    ]


def _block(
    summary: dict[str, Any], round_: int, copies: int, rows: list[dict[str, Any]]
) -> Iterator[str]:
    where = f"round {round_}: " if summary["kind"] == "run" else ""
    head = f"{where}{times(copies) if copies else 'notes never written (twins)'}"
    columns = ["gave back", *(["untouched base"] if rows[0]["base"] else [])]
    columns += ["twins"] if any(row["twins"] for row in rows) else []
    table = [[head, *columns, ""]]
    for row in rows:
        cells = [_measure(row, summary["continuation"]), _share(row)]
        cells += [_share(row["base"])] if "untouched base" in columns else []
        cells += [_share(row["twins"])] if "twins" in columns else []
        table.append([*cells, _clear(row)])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for cells in table:
        padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        yield "  ".join(padded).rstrip()
    nll = [_nll(summary, round_, copies)]
    if rows[0]["base"]:
        nll.append(f"base {_nll(summary, 0, copies)}")
    if copies and "twins" in columns:
        nll.append(f"twins {_nll(summary, round_, 0)}")
    yield f"NLL a token (nats): {'; '.join(nll)}"


def _measure(row: dict[str, Any], continuation: int) -> str:
    if row["attack"] == "phi":
        return "a PHI value"
    if row["attack"] == "window":
        return f"{continuation} tokens in a row"
    return f"next {continuation} tokens behind {row['prefix']}, {row['attack']}"


def _share(figure: dict[str, Any] | None) -> str:
    if figure is None:
        return "-"
    return f"{figure['k']} of {figure['n']} ({percent(figure['rate'])} %, {interval(figure)})"


def _clear(row: dict[str, Any]) -> str:
    """The difference to the twins (Newcombe), said only where it is clear."""
    if not row["clear"]:
        return ""
    point, low, high = (signed(100 * row["difference"][name]) for name in ("point", "low", "high"))
    return f"clear of the twins: {point} points ({low} to {high})"


def _nll(summary: dict[str, Any], round_: int, copies: int) -> str:
    for row in summary["loss"]:
        if row["round"] == round_ and row["copies"] == copies:
            return f"{row['nll']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
    return "-"
