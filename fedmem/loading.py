"""From a YAML file and `key=value` overrides to a checked `Config`, and back to YAML.

Relative `data.root` and `output` are relative to the current directory, not to the config file.
`extends: FILE`, beside the config or one that comes along, lays a config over another one, as an
arm lies over its config.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from fedmem.config import Config
from fedmem.errors import ConfigError
from fedmem.explain import Location, did_you_mean, dotted, explain
from fedmem.layers import laid, lineage, merge, parse_yaml, set_path, setter

# Set by fedmem itself for each arm and each point of a sweep.
NOT_VARIED = ("name", "output", "arms", "sweep")


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read, override, check. `path` may be the name of a config that comes with fedmem.

    Raises ConfigError with one line that names the file or the override, and the key.
    """
    file = find_config(path)
    layers = lineage(file, find_config)
    tree = {**laid(layers)}
    fault = _fault(tree)
    changed = [(_override(tree, text), text) for text in overrides]
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        where, line = explain(error, tree)
        origin = str(setter(layers, where))
        for parts, text in changed:
            n = min(len(parts), len(where))
            # The override is named if it touches the faulty key, and the file alone was no worse.
            if n and parts[:n] == [str(part) for part in where[:n]] and (where, line) != fault:
                origin = text
        raise ConfigError(f"{origin}: {line}") from None
    if config.sweep:
        from fedmem.grid import points  # which builds on this module

        points(config, str(file))
    else:
        arm_configs(config, str(file))
    return config


def _fault(tree: dict[str, Any]) -> tuple[Location, str] | None:
    """What is wrong with the file before any override."""
    try:
        Config.model_validate(tree)
    except ValidationError as error:
        return explain(error, tree)
    return None


def find_config(path: str | Path) -> Path:
    """The file itself, or the config of that name which comes with fedmem (`quickstart`)."""
    file = Path(path)
    if file.is_file():
        return file
    if file.is_dir():
        raise ConfigError(f"{file}: is a folder, not a config file")
    shipped = packaged_configs()
    name = file.as_posix().removesuffix(".yaml")
    if name in shipped:
        return shipped[name]
    names = ", ".join(shipped) or "none"
    close = did_you_mean(name, shipped)
    raise ConfigError(f"{file}: no such config file{close} (configs that come along: {names})")


def packaged_configs() -> dict[str, Path]:
    """Configs inside the installed package, or beside it in a checkout: name -> file."""
    package = Path(__file__).parent
    folder = package / "configs"
    if not folder.is_dir():
        folder = package.parent / "configs"
    files = sorted(f for f in folder.rglob("*.yaml") if "cluster" not in f.parts)
    return {f.relative_to(folder).with_suffix("").as_posix(): f for f in files}


# --- overrides -----------------------------------------------------------------------------


def _override(tree: dict[str, Any], text: str) -> list[str]:
    """Apply one `a.b.0.c=value` in place; returns the path that it set."""
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"{text}: an override is written key=value, such as training.lr=1e-3")
    parsed = parse_yaml(value, text)
    if parts[0] == "arms" and len(parts) > 2:
        _override_arm(tree, parts, parsed, text)
        return parts
    if parts[0] == "sweep" and len(parts) > 1:
        swept = tree["sweep"] = dict(tree.get("sweep") or {})
        swept[dotted(parts[1:])] = parsed
        return ["sweep", dotted(parts[1:])]
    return set_path(tree, parts, parsed, text)


def _override_arm(tree: dict[str, Any], parts: list[str], value: Any, text: str) -> None:
    """Arms hold overrides themselves: keep the rest of the path dotted, and last, so it wins."""
    arms = tree.get("arms")
    if not isinstance(arms, dict) or parts[1] not in arms:
        known = list(arms) if isinstance(arms, dict) else []
        hint = did_you_mean(parts[1], known) or f"; arms: {', '.join(known) or 'none'}"
        raise ConfigError(f"{text}: there is no arm `{parts[1]}`{hint}")
    arm = arms[parts[1]] = dict(arms[parts[1]] or {})
    arm.pop(rest := dotted(parts[2:]), None)
    arm[rest] = value


# --- arms, and back to YAML ----------------------------------------------------------------


def arm_configs(config: Config, origin: str = "config") -> dict[str, Config]:
    """Each arm's own config, in the file's order; raises ConfigError naming the arm and key.

    An arm's dotted keys set a value as on the command line, its nested mappings are merged.
    """
    configs = {}
    tree = config.model_dump(mode="json")
    for arm, overrides in config.arms.items():
        configs[arm] = vary(tree, f"{config.name}-{arm}", overrides, f"{origin}: arms.{arm}")
    return configs


def vary(tree: Mapping[str, Any], name: str, overrides: Mapping[str, Any], here: str) -> Config:
    """The config in `tree` under another name, with overrides laid over it.

    Raises ConfigError beginning with `here`, and naming the key.
    """
    varied = {**tree, "name": name, "arms": {}, "sweep": {}}
    for key, value in overrides.items():
        parts = key.split(".")
        if parts[0] in NOT_VARIED:
            raise ConfigError(f"{here}: `{parts[0]}` cannot differ between runs; remove it")
        if not all(parts):
            raise ConfigError(f"{here}: `{key}` is not a key")
        if len(parts) > 1:
            set_path(varied, parts, value, f"{here}.{key}")
        else:
            varied[key] = merge(varied.get(key), value, here, key)
    try:
        return Config.model_validate(varied)
    except ValidationError as error:
        raise ConfigError(f"{here}: {explain(error, varied)[1]}") from None


def dump_config(config: Config) -> str:
    """The resolved config as YAML, all defaults written out; loads back to an equal config."""
    tree = config.model_dump(mode="json")
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=100)


def config_hash8(config: Config) -> str:
    """Eight hex digits that name a config; what cannot change a result does not count.

    So a stopped run can be taken up on another cluster, or with its output moved.
    """
    places = {"address", "actors", "retries", "timeout", "reply_timeout"}
    tree = config.model_dump(
        mode="json",
        exclude={"output": True, "tracking": True, "data": {"cache"}, "engine": places},
    )
    text = json.dumps(tree, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
