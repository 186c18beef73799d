"""No module and no package of src takes part in an import circle.

All imports count, those inside functions and under TYPE_CHECKING too. For packages: what lies
directly in one folder, a module or a subpackage with all that is in it, never needs itself by way
of its neighbours.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter

from test_reach import imported, modules

Graph = Mapping[str, set[str]]


def imports() -> Graph:
    """The modules that each module imports; floracle/__init__.py names public names alone."""
    known = modules()
    graph: dict[str, set[str]] = {name: set() for name in known}
    for name, path in known.items():
        for target in imported(name, path) if name != "floracle" else ():
            if target in known and target not in (name, "floracle"):
                graph[name].add(target)
    return graph


def neighbours(graph: Graph) -> dict[str, Graph]:
    """By package, the imports between the modules and subpackages that lie directly in it."""
    packages: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for name, targets in graph.items():
        for target in targets:
            ours, theirs = name.split("."), target.split(".")
            pairs = list(zip(ours, theirs, strict=False))
            if ours[: len(pairs)] != theirs[: len(pairs)]:  # neither is a package of the other
                depth = next(i for i, (a, b) in enumerate(pairs) if a != b)
                packages[".".join(ours[:depth])][ours[depth]].add(theirs[depth])
    return packages


def circle(graph: Graph) -> list[str]:
    """One circle, if there is any."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_no_module_takes_part_in_a_circle():
    assert circle(imports()) == []


def test_no_package_takes_part_in_a_circle():
    circles = {package: circle(graph) for package, graph in neighbours(imports()).items()}
    assert not any(circles.values()), circles


def test_a_circle_is_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}})
    assert neighbours({"p.a.x": {"p.b.y"}, "p.b.z": {"p.a.w"}}) == {"p": {"a": {"b"}, "b": {"a"}}}
