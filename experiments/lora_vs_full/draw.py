"""The study's figure: leakage over what was learned, a plot a part."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from fedmem.comparison.sheets import Arm
from fedmem.comparison.sides import Case
from fedmem.report import page, svg
from fedmem.report.matched import figure

ARMS = ("full", "r1", "r4", "r16", "r64")
PARTS = {
    "federated": "federated",
    "confirm": "federated, fresh seeds (confirmation)",
    "centralized": "centralized",
    "real": "real records",
}
WIDTH, HEIGHT, NAMES, HEAD = 360, 232, 24, 22  # of a plot; of the arms' names; of a plot's title


def drawing(parts: Mapping[str, Mapping[str, Arm]], case: Callable[..., Case]) -> str:
    """Leakage over gain on facts, a plot a part, two beside each other, as one SVG file."""
    shown = [part for part in PARTS if part in parts]
    names = [name for name in ARMS if any(name in parts[part] for part in shown)]
    columns = min(2, len(shown))
    body = []
    for place, part in enumerate(shown):
        looks = [look for look, name in enumerate(names) if name in parts[part]]
        arms = [parts[part][names[look]] for look in looks]
        plot = str(figure(arms, case(part=part), looks).plot)
        x = place % columns * WIDTH
        y = NAMES + place // columns * (HEIGHT + HEAD)
        at = f'x="{x}" y="{y + HEAD}" width="{WIDTH}" height="{HEIGHT}"'
        body.append(plot.replace("<svg", f"<svg {at}", 1))
        body.append(f'<text x="{x + 42}" y="{y + 15}" font-weight="bold">{PARTS[part]}</text>')
    for look, name in enumerate(names):
        sample, at = str(svg.swatch(look)), 42 + 62 * look
        size = f'x="{at}" y="6" width="26" height="12"'
        body.append(sample.replace("<svg", f"<svg {size}", 1))
        body.append(f'<text x="{at + 29}" y="16">{name}</text>')
    style = (Path(page.__file__).parent / "style.css").read_text(encoding="utf-8")
    rules = re.sub(r"@media \((?!prefers).*", "", style)
    height = NAMES + -(-len(shown) // columns) * (HEIGHT + HEAD)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH * columns} {height}" '
        f'font-family="sans-serif" font-size="12"><style>{rules}</style>'
        + "".join(body)
        + "</svg>\n"
    )
