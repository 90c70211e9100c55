"""Small inline SVG plots: no script, no network, colours by CSS class so that they follow the page.

Series differ by dash and marker as well as by colour. Every plot carries a <title> that says in
words what it shows; every point one that gives its figure. All text goes through `escape`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

from markupsafe import Markup, escape

WIDTH, HEIGHT = 360, 232
LEFT, RIGHT, TOP = 42, 12, 12
MARKERS = 6  # distinct looks; style.css has as many colours and dashes


Role = Literal["main", "twins", "chance", "base"]
Scale = Callable[[float], float]  # from a figure to its place


@dataclass(frozen=True)
class Point:
    """One figure: `at` is the index of its place on the x axis."""

    at: int
    value: float
    low: float | None = None
    high: float | None = None
    text: str = ""


@dataclass(frozen=True)
class Series:
    """Points of one arm. `look` picks colour, dash and marker.

    role: "main" has markers and error bars; "twins" is a thin dotted line with a band; "chance"
    a thin dotted line alone.
    """

    name: str
    look: int
    points: Sequence[Point]
    role: Role = "main"


@dataclass(frozen=True)
class Bar:
    """One bar of a group. role as in Series; "base" draws a marker in place of the bar.

    low, high: None where there is no interval.
    """

    name: str
    look: int
    value: float
    low: float | None
    high: float | None
    text: str
    role: Role = "main"


def percent(value: float) -> str:
    """Tick label of a share."""
    return f"{100 * value:g} %"


def plain(value: float) -> str:
    """Tick label of any other number."""
    return f"{value:.3g}"


def rate_top(values: Sequence[float]) -> float:
    """Top of an axis of shares: the next of 10, 25, 50, 100 %."""
    most = max(values, default=0.0)
    return next(top for top in (0.1, 0.25, 0.5, 1.0) if most <= top or top == 1.0)


def ticks(low: float, high: float) -> list[float]:
    """Evenly spaced, at numbers that are short to write: shares up to 50 % go by fifths."""
    steps = 5 if low == 0 and high < 1 else 4
    return [low + (high - low) * i / steps for i in range(steps + 1)]


def span(values: Sequence[float]) -> tuple[float, float]:
    """Bounds around numbers that need not start at 0, four even steps of 1, 2, 2.5 or 5 apart."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    unit = 10.0 ** math.floor(math.log10(max(high - low, 1e-3) / 4))
    for step in (unit * size for size in (1, 2, 2.5, 5, 10, 20)):
        start = math.floor(low / step + 1e-9) * step
        if start + 4 * step >= high - 1e-9:
            return start, start + 4 * step
    return low, high


def frame(title: str, height: float, body: list[str]) -> Markup:
    """The whole drawing, with its title in words."""
    # An id from the content: the same run gives the same page, byte for byte.
    name = "plot-" + sha256((title + "".join(body)).encode()).hexdigest()[:10]
    return Markup(
        f'<svg class="plot" viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
        f'aria-labelledby="{name}"><title id="{name}">{escape(title)}</title>'
        + "".join(body)
        + "</svg>"
    )


def marker(look: int, x: float, y: float) -> str:
    """Circle, square, triangle, diamond, hollow circle, hollow square."""
    shape, css = look % MARKERS, f"mark c{look % MARKERS}"
    if shape in (0, 4):
        return f'<circle class="{css}" cx="{x:.1f}" cy="{y:.1f}" r="3.6"/>'
    if shape in (1, 5):
        return f'<rect class="{css}" x="{x - 3.4:.1f}" y="{y - 3.4:.1f}" width="6.8" height="6.8"/>'
    offsets = [(0, -4.6), (4.3, 3.2), (-4.3, 3.2)] if shape == 2 else _DIAMOND
    corners = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in offsets)
    return f'<polygon class="{css}" points="{corners}"/>'


_DIAMOND = [(0.0, -4.8), (4.8, 0.0), (0.0, 4.8), (-4.8, 0.0)]


def swatch(look: int, role: str = "main") -> Markup:
    """A legend's sample of a series."""
    line = f'<line class="line c{look % MARKERS} {role}" x1="1" y1="7" x2="33" y2="7"/>'
    if role == "twins":
        line = f'<rect class="band c{look % MARKERS}" x="1" y="2" width="32" height="10"/>{line}'
    mark = marker(look, 17, 7) if role == "main" else ""
    return Markup(f'<svg class="swatch" viewBox="0 0 34 14" aria-hidden="true">{line}{mark}</svg>')


def line_chart(
    title: str,
    places: Sequence[str],
    series: Sequence[Series],
    bounds: tuple[float, float] = (0.0, 1.0),
    tick: Callable[[float], str] = percent,
    below: Sequence[str] = (),
    axis: str = "",
) -> Markup:
    """Lines over the labelled `places`; `below` is a second row of labels, `axis` names them."""
    bottom = 23 + (13 if below else 0) + (15 if axis else 0)
    right, floor = WIDTH - RIGHT, HEIGHT - bottom
    low, high = bounds
    step = (right - LEFT) / max(len(places), 1)

    def x(at: float) -> float:
        return LEFT + step * (at + 0.5)

    def y(value: float) -> float:
        return floor - (min(max(value, low), high) - low) / (high - low) * (floor - TOP)

    body = []
    for i, value in enumerate(ticks(low, high)):
        css = "grid zero" if i == 0 else "grid"
        body.append(f'<line class="{css}" x1="{LEFT}" x2="{right}" {_level(y(value))}/>')
        said = escape(tick(value))
        body.append(f'<text class="end" x="{LEFT - 6}" y="{y(value) + 3.5:.1f}">{said}</text>')
    for i, label in enumerate(places):
        body.append(text(x(i), floor + 16, label))
    for i, label in enumerate(below):
        body.append(text(x(i), floor + 29, label, "soft"))
    if axis:
        body.append(text((LEFT + right) / 2, HEIGHT - 4, axis, "soft"))
    mains = [line for line in series if line.role == "main"]
    for line in sorted(series, key=lambda s: s.role == "main"):
        nudge = 7.0 * (mains.index(line) - (len(mains) - 1) / 2) if line.role == "main" else 0.0
        body.append(_line(line, lambda at, n=nudge: x(at) + n, y, step))  # type: ignore[misc]
    return frame(title, HEIGHT, body)


def _level(y: float) -> str:
    return f'y1="{y:.1f}" y2="{y:.1f}"'


def text(x: float, y: float, said: str, css: str = "") -> str:
    """A label, centred on x."""
    return f'<text class="middle {css}" x="{x:.1f}" y="{y:.1f}">{escape(said)}</text>'


def _line(
    line: Series, x: Callable[[float], float], y: Callable[[float], float], step: float
) -> str:
    """One series. A lone point's level line or band spans its whole place."""
    points = line.points
    css = f"c{line.look % MARKERS}"
    spread = [
        (p, dx) for p in points for dx in ((-step / 3, step / 3) if len(points) < 2 else (0,))
    ]
    parts = []
    if line.role == "twins":
        upper = [f"{x(p.at) + dx:.1f},{y(p.high):.1f}" for p, dx in spread if p.high is not None]
        lower = [f"{x(p.at) + dx:.1f},{y(p.low):.1f}" for p, dx in spread if p.low is not None]
        corners = " ".join(upper + lower[::-1])
        parts.append(f'<polygon class="band {css}" points="{corners}"/>')
    if line.role != "main" or len(points) > 1:
        path = " ".join(f"{x(p.at) + dx:.1f},{y(p.value):.1f}" for p, dx in spread)
        parts.append(f'<polyline class="line {css} {line.role}" points="{path}"/>')
    for p in points if line.role == "main" else ():
        at, bar = x(p.at), ""
        if p.low is not None and p.high is not None:
            top, end = y(p.high), y(p.low)
            path = (
                f"M{at - 3:.1f} {top:.1f}h6M{at:.1f} {top:.1f}V{end:.1f}M{at - 3:.1f} {end:.1f}h6"
            )
            bar = f'<path class="error {css}" d="{path}"/>'
        said = escape(f"{line.name}, {p.text}")
        parts.append(f"<g><title>{said}</title>{bar}{marker(line.look, at, y(p.value))}</g>")
    return "".join(parts)


def bar_chart(
    title: str,
    groups: Sequence[tuple[str, Sequence[Bar]]],
    top: float = 1.0,
    tick: Callable[[float], str] = percent,
    label: int = 84,
) -> Markup:
    """Horizontal bars with intervals, grouped under labels; each bar's text stands at its right.

    `label`: room for the labels.
    """
    return _rows(title, groups, (0.0, top), tick, label, dots=False)


def dot_chart(
    title: str,
    groups: Sequence[tuple[str, Sequence[Bar]]],
    bounds: tuple[float, float],
    tick: Callable[[float], str] = plain,
    label: int = 96,
    chance: float | None = None,
) -> Markup:
    """As `bar_chart`, with a marker for each figure, for scales on which 0 means nothing.

    `chance`: where a dashed line stands.
    """
    return _rows(title, groups, bounds, tick, label, dots=True, chance=chance)


def _rows(
    title: str,
    groups: Sequence[tuple[str, Sequence[Bar]]],
    bounds: tuple[float, float],
    tick: Callable[[float], str],
    label: int,
    dots: bool,
    chance: float | None = None,
) -> Markup:
    right, row, gap = 58, 12, 10
    width = WIDTH - label - right
    height = 22 + sum(row * len(bars) + gap for _, bars in groups) + 4
    low, high = bounds

    def x(value: float) -> float:
        return label + (min(max(value, low), high) - low) / (high - low) * width

    body = []
    for i, value in enumerate(ticks(low, high)):
        at, css = x(value), "grid zero" if i == 0 else "grid"
        body.append(
            f'<line class="{css}" x1="{at:.1f}" x2="{at:.1f}" y1="18" y2="{height - 4:.0f}"/>'
        )
        body.append(text(at, 12, tick(value), "soft"))
    if chance is not None:
        ends = f'x1="{x(chance):.1f}" x2="{x(chance):.1f}" y1="18" y2="{height - 4:.0f}"'
        body.append(f'<line class="line chance" {ends}/>')
    y = 22.0 + gap / 2
    for name, bars in groups:
        middle = y + row * len(bars) / 2 + 3.5
        body.append(f'<text class="end" x="{label - 8}" y="{middle:.1f}">{escape(name)}</text>')
        for bar in bars:
            said = f"{name}, {bar.name}"
            body.append(_bar(bar, x, y + row / 2, WIDTH - right + 8, said, low, dots))
            y += row
        y += gap
    return frame(title, height, body)


def _bar(
    bar: Bar,
    x: Callable[[float], float],
    y: float,
    text_at: float,
    said: str,
    start: float,
    dots: bool,
) -> str:
    css = f"c{bar.look % MARKERS}"
    zero, end = x(start), x(bar.value)
    shape = (
        f'<rect class="bar {css} {bar.role}" x="{zero:.1f}" y="{y - 4:.1f}" '
        f'width="{max(end - zero, 0.6):.1f}" height="8"/>'
    )
    if bar.role == "base":
        shape = marker(3, end, y).replace("c3", "base")
    elif dots:
        shape = marker(bar.look, end, y)
    kind, whisker = "base" if bar.role == "base" else css, ""
    if bar.low is not None and bar.high is not None:
        low, high = x(bar.low), x(bar.high)
        path = f"M{low:.1f} {y - 2:.1f}v4M{low:.1f} {y:.1f}H{high:.1f}M{high:.1f} {y - 2:.1f}v4"
        whisker = f'<path class="error {kind}" d="{path}"/>'
    note = f'<text class="soft small" x="{text_at:.1f}" y="{y + 3:.1f}">{escape(bar.text)}</text>'
    return f"<g><title>{escape(said)}: {escape(bar.text)}</title>{shape}{whisker}{note}</g>"
