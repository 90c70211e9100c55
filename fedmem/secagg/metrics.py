"""Clients' figures of training as sums over all of them: what the server gets in place of each."""

from __future__ import annotations

from collections.abc import Mapping

EXAMPLES = "num-examples"
COUNTS = (EXAMPLES, "tokens", "steps", "skipped")  # added up; others are means over examples


def weighted(metrics: Mapping[str, float]) -> dict[str, float]:
    """One client's figures as summands."""
    examples = metrics[EXAMPLES]
    return {n: v if n in COUNTS else v * examples for n, v in sorted(metrics.items())}


def totals(sums: Mapping[str, float]) -> dict[str, float]:
    """All clients' figures from the sums: counts, and means weighted by examples."""
    if not sums:
        return {}
    examples = sums[EXAMPLES]
    return {n: v if n in COUNTS else v / examples for n, v in sums.items()}
