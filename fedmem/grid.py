"""The points of a sweep: every combination of the values in `sweep`, in every arm if there are any.

A sweep's keys are dotted, as an arm's are; where both set a key, the sweep's value counts.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

from fedmem.config import Config
from fedmem.errors import ConfigError
from fedmem.loading import arm_configs, vary

MOST = 10_000
NAME_LENGTH = 40  # of `fedmem.config.NAME`


@dataclass(frozen=True)
class Point:
    """One run of a sweep: what sets it apart, and its own config."""

    arm: str | None
    values: dict[str, Any]  # dotted key -> value, as the config's file has it
    config: Config


def points(config: Config, origin: str = "config") -> dict[str, Point]:
    """All points by name, the last key varying fastest. Names are unique and begin a directory's.

    Raises ConfigError naming the key and the value that cannot be.
    """
    _check(config, origin)
    grid = list(_combinations(config.sweep))
    found = []
    arms: dict[str | None, Config] = dict(arm_configs(config, origin).items()) or {None: config}
    for arm, base in arms.items():
        here = f"{origin}: sweep" + (f", arm {arm}" if arm else "")
        tree = base.model_dump(mode="json")
        for values in grid:
            name = _name(config, arm, values)
            found.append((name, arm, values, vary(tree, name, values, here)))
    often = Counter(name for name, *_ in found)
    result = {}
    for name, arm, values, made in found:
        if often[name] > 1:  # cut short, or two keys end alike
            unique = f"{name[: NAME_LENGTH - 9].rstrip('-_')}-{_hash8(arm, values)}"
            made = made.model_copy(update={"name": unique})
        result[made.name] = Point(arm, values, made)
    return result


def _check(config: Config, origin: str) -> None:
    """What is wrong with the grid itself."""
    for key, values in config.sweep.items():
        try:
            texts = Counter(json.dumps(value, sort_keys=True, default=str) for value in values)
        except TypeError:  # YAML reads a key such as `on` as true
            raise ConfigError(
                f"{origin}: sweep.{key}: keys must be text, put them in quotes"
            ) from None
        for text, count in texts.items():
            if count > 1:
                raise ConfigError(f"{origin}: sweep.{key}: {text} stands twice")
    count = prod(map(len, config.sweep.values())) * max(1, len(config.arms))
    if count > MOST:
        sizes = [f"{key}: {len(values)}" for key, values in config.sweep.items()]
        sizes += [f"arms: {len(config.arms)}"] if config.arms else []
        raise ConfigError(f"{origin}: sweep: {count} runs, at most {MOST} ({', '.join(sizes)})")


def _combinations(sweep: Mapping[str, list[Any]]) -> Iterator[dict[str, Any]]:
    for values in product(*sweep.values()):
        yield dict(zip(sweep, values, strict=True))


def _name(config: Config, arm: str | None, values: Mapping[str, Any]) -> str:
    """As in `quickstart-full-lr1e-3-seed0`: the keys that vary, and what each is set to."""
    varying = [key for key in values if len(config.sweep[key]) > 1] or list(values)
    labels = [_label(key, values[key], config.sweep[key].index(values[key])) for key in varying]
    name = "-".join([config.name, *([arm] if arm else []), *labels])
    return name[:NAME_LENGTH].rstrip("-_")


def _label(key: str, value: Any, index: int) -> str:
    if isinstance(value, dict | list):
        text = str(index + 1)
    elif isinstance(value, float):
        text = f"{value:g}"
    else:
        text = str(value).rstrip("/").rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9-]+", "_", key.rpartition(".")[2] + text)


def _hash8(arm: str | None, values: Mapping[str, Any]) -> str:
    text = json.dumps([arm, values], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
