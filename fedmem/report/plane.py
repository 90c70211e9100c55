"""One measure plotted against another: an arm's rates as thin lines, its frontier as a bold one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from markupsafe import Markup, escape

from fedmem.report import svg

BELOW = 38  # room for the axis and its name


@dataclass(frozen=True)
class Spot:
    """A figure at (x, y), with an interval of y or none."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    text: str = ""


@dataclass(frozen=True)
class Path:
    """Joined spots of one arm; `thin` for the course of one rate, which has no markers."""

    name: str
    look: int
    spots: Sequence[Spot]
    thin: bool = False


def plane(title: str, paths: Sequence[Path], axis: str, zero: bool = True) -> Markup:
    """Shares (y, from 0 up; twins may push them below) over numbers (x, named by `axis`).

    The bold paths set the span of x; a thin one ends where it leaves it.
    """
    spots = [spot for path in paths for spot in path.spots]
    bold = [spot.x for path in paths if not path.thin for spot in path.spots]
    left, right = svg.span((bold or [spot.x for spot in spots]) + ([0.0] if zero else []))
    highs = [spot.high if spot.high is not None else spot.y for spot in spots]
    top = svg.rate_top(highs)
    floor = svg.HEIGHT - BELOW

    def x(value: float) -> float:
        width = svg.WIDTH - svg.RIGHT - svg.LEFT
        return svg.LEFT + (min(max(value, left), right) - left) / (right - left) * width

    def y(value: float) -> float:
        return floor - min(max(value, 0.0), top) / top * (floor - svg.TOP)

    body = []
    for i, value in enumerate(svg.ticks(0.0, top)):
        css = "grid zero" if i == 0 else "grid"
        body.append(
            f'<line class="{css}" x1="{svg.LEFT}" x2="{svg.WIDTH - svg.RIGHT}" '
            f'y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
            f'<text class="end" x="{svg.LEFT - 6}" y="{y(value) + 3.5:.1f}">'
            f"{escape(svg.percent(value))}</text>"
        )
    for value in svg.ticks(left, right):
        body.append(svg.text(x(value), floor + 15, svg.plain(value)))
    body.append(svg.text((svg.LEFT + svg.WIDTH - svg.RIGHT) / 2, svg.HEIGHT - 6, axis, "soft"))
    for path in sorted(paths, key=lambda path: not path.thin):
        inside = takewhile(lambda spot: left <= spot.x <= right, path.spots)
        corners = " ".join(f"{x(spot.x):.1f},{y(spot.y):.1f}" for spot in inside)
        css = f"line c{path.look % svg.MARKERS}" + (" thin" if path.thin else "")
        body.append(f'<polyline class="{css}" points="{corners}"/>')
        if not path.thin:
            body += [_spot(path, spot, x(spot.x), y) for spot in path.spots]
    return svg.frame(title, svg.HEIGHT, body)


def _spot(path: Path, spot: Spot, at: float, y: svg.Scale) -> str:
    bar = ""
    if spot.low is not None and spot.high is not None:
        top, end = y(spot.high), y(spot.low)
        line = f"M{at - 3:.1f} {top:.1f}h6M{at:.1f} {top:.1f}V{end:.1f}M{at - 3:.1f} {end:.1f}h6"
        bar = f'<path class="error c{path.look % svg.MARKERS}" d="{line}"/>'
    said = escape(f"{path.name}, {spot.text}")
    return f"<g><title>{said}</title>{bar}{svg.marker(path.look, at, y(spot.y))}</g>"
