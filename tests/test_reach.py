"""Every module of the package is reached from a verb or a public name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import floracle
from floracle import _HOMES
from floracle.cli import VERBS

SOURCE = Path(floracle.__file__).parent
ASIDE = {"floracle.oracle.reference"}
"""The formula as the paper has it, which tests measure everything else against."""


def modules() -> dict[str, Path]:
    """All modules by name; a package is its __init__."""
    found = {}
    for path in SOURCE.rglob("*.py"):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(name: str, path: Path) -> Iterator[str]:
    """The modules that a module imports, inside of functions too."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.rsplit(".", node.level - 1)[0] if node.level > 1 else package
                base = f"{above}.{base}".rstrip(".")
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def test_every_module_is_reached():
    known = modules()
    places = [verb.function.partition(":")[0] for verb in VERBS.values()]
    left = {"floracle.__main__", "floracle.cli", *places, *(f"floracle.{home}" for home in _HOMES)}
    reached: set[str] = set()
    while left:
        name = left.pop()
        if name in reached or name not in known:
            continue
        reached.add(name)
        if name != "floracle":  # whose names are those that are public
            left |= set(imported(name, known[name]))
        left.add(name.rpartition(".")[0])
    assert known.keys() - reached - ASIDE == set()
