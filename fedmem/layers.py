"""Config files as plain mappings: read, laid over those that they extend, changed key by key."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from fedmem.errors import ConfigError
from fedmem.explain import Location, did_you_mean, dotted

Tree = dict[str, Any]


class _Loader(yaml.SafeLoader):
    """Safe loader that refuses a key given twice; YAML's own rule, which PyYAML does not keep."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"key `{key.value}` stands twice", problem_mark=key.start_mark
                    )
                seen.add((key.tag, key.value))
        return node


def parse_yaml(text: str, origin: str) -> Any:
    """YAML to plain values. Raises ConfigError naming `origin` and, in files, the line."""
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader: plain values only
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f":{mark.line + 1}" if mark and "\n" in text else ""
        raise ConfigError(f"{origin}{line}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        why = " ".join(str(error).split())
        raise ConfigError(f"{origin}: not valid YAML: {why}") from None


def read_yaml(file: Path) -> dict[str, Any]:
    """The mapping in a config file. Raises ConfigError naming the file and line."""
    try:
        data = file.read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(f"{file}:{line}: not UTF-8 text; save the file as UTF-8") from None
    tree = parse_yaml(text, str(file))
    if tree is None:
        raise ConfigError(f"{file}: is empty; it needs at least `data.clients`")
    if not isinstance(tree, dict):
        raise ConfigError(f"{file}: must be a mapping (key: value), not a {_kind(tree)}")
    return tree


def lineage(file: Path, named: Callable[[str], Path]) -> list[tuple[Path, Tree]]:
    """The file, the one that it `extends`, and so on: each with its own mapping.

    `extends` names a file beside the one that it stands in, or what `named` finds. Raises
    ConfigError naming the file and the key.
    """
    found: list[tuple[Path, Tree]] = []
    while True:
        tree = read_yaml(file)
        name = tree.pop("extends", None)
        found.append((file, tree))
        if name is None:
            return found
        if not isinstance(name, str) or not name.strip():
            raise ConfigError(f"{file}: extends: must name a config file, such as base.yaml")
        parent = file.parent / name
        try:
            parent = parent if parent.is_file() else named(name)
        except ConfigError as error:
            raise ConfigError(f"{file}: extends: {error}") from None
        files = [one for one, _ in found]
        if any(parent.samefile(one) for one in files):
            circle = " extends ".join(one.name for one in [*files, parent])
            raise ConfigError(f"{file}: extends: goes round in a circle: {circle}")
        file = parent


def laid(layers: Sequence[tuple[Path, Tree]]) -> Tree:
    """One mapping: each of `lineage` over the next."""
    *over, (_, tree) = layers
    for file, above in reversed(over):
        tree = merge(tree, above, str(file))
    return tree


def setter(layers: Sequence[tuple[Path, Tree]], where: Location) -> Path:
    """The file that a key is from: the first that has most of the way to it."""

    def depth(tree: Any) -> int:
        for known, part in enumerate(where):
            inside = isinstance(tree, dict) and part in tree
            if not inside and not (isinstance(tree, list) and part in range(len(tree))):
                return known
            tree = tree[part]
        return len(where)

    return max(layers, key=lambda layer: depth(layer[1]))[0]


# --- keys ----------------------------------------------------------------------------------


def set_path(tree: dict[str, Any], parts: Sequence[str], value: Any, origin: str) -> list[str]:
    """Set a nested key in place; missing mappings on the way are made, lists are not.

    Returns the path with entries of lists by number, where the caller gave a name.
    """
    here: Any = tree
    path: list[str] = []
    for depth, part in enumerate(parts):
        done = dotted(parts[:depth])
        last = depth == len(parts) - 1
        if isinstance(here, list):
            key: Any = _index(here, part, done, origin)
        elif isinstance(here, dict):
            key = part
        else:
            raise ConfigError(f"{origin}: `{done}` is a {_kind(here)} and has no key `{part}`")
        path.append(str(key))
        if last:
            here[key] = value
        else:
            if isinstance(here, dict) and here.get(key) is None:
                if parts[depth + 1].isdigit():
                    whole = dotted(parts[: depth + 1])
                    raise ConfigError(
                        f"{origin}: the config has no list `{whole}` to change; "
                        f"give it whole: {whole}='[...]'"
                    )
                here[key] = {}
            # A copy, so that what YAML anchors share is not changed in two places.
            here[key] = here[key].copy() if isinstance(here[key], dict | list) else here[key]
            here = here[key]
    return path


def _index(entries: list[Any], part: str, done: str, origin: str) -> int:
    """An entry of a list by its position, or by its `name`."""
    names = [entry.get("name") if isinstance(entry, dict) else None for entry in entries]
    if part in names:
        return names.index(part)
    if part.isdigit() and int(part) < len(entries):
        return int(part)
    named = [name for name in names if isinstance(name, str)]
    hint = did_you_mean(part, named)
    raise ConfigError(
        f"{origin}: `{done}` has {len(entries)} entries, counted from 0; none is `{part}`{hint}"
    )


def merge(base: Any, over: Any, origin: str, done: str = "") -> Any:
    """`base` with the keys of the mapping `over` laid over it; anything else replaces.

    A mapping with another `kind` replaces whole: its keys belong to another section.
    """
    if isinstance(base, dict) and isinstance(over, dict):
        if "kind" in over and over["kind"] != base.get("kind"):
            return over
        laid = {k: merge(base.get(k), v, origin, f"{done}.{k}") for k, v in over.items()}
        return {**base, **laid}
    if isinstance(base, list) and isinstance(over, dict):
        entries = list(base)
        for key, value in over.items():
            i = _index(entries, str(key), done.removeprefix("."), origin)
            entries[i] = merge(entries[i], value, origin, f"{done}.{key}")
        return entries
    return over


def _kind(value: object) -> str:
    names = {str: "text", int: "number", float: "number", bool: "true/false", list: "list"}
    return names.get(type(value), type(value).__name__)
