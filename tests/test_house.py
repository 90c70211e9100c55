"""The house keeps its shape: who may know Flower, and what the shipped files promise."""

from __future__ import annotations

import ast
from pathlib import Path

HERE = Path(__file__).parents[1]


def imported(file: Path) -> set[str]:
    """Top-level packages that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_only_the_engine_knows_flower() -> None:
    inside = [f for f in (HERE / "fedmem").rglob("*.py") if "engine" not in f.parts]
    assert len(inside) > 40
    assert [f for f in inside if imported(f) & {"flwr", "clients", "server"}] == []


def test_the_bundled_base_is_small_and_holds_no_pickle() -> None:
    files = list((HERE / "fedmem" / "model" / "bundled").iterdir())
    assert {f.suffix for f in files} <= {".json", ".safetensors"}
    assert sum(f.stat().st_size for f in files) < 12e6
