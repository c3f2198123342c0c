"""No large circle of modules that name each other, counting imports for types only.

Such a circle can only be read, tested and changed as a whole. import-linter checks the layers, but
not within a folder.
"""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

Graph = dict[str, set[str]]

#: Modules in a circle.
MOST = 6


def modules(root: Path, package: str) -> dict[str, Path]:
    found = {}
    for path in (root / package).rglob("*.py"):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(root: Path, package: str) -> Graph:
    """Module -> the modules of the package that it imports, also for types or within functions."""
    paths = modules(root, package)
    graph: Graph = {name: set() for name in paths}
    for name, path in paths.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                graph[name].update(alias.name for alias in node.names if alias.name in paths)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: a relative import"
                base = node.module or ""
                wanted = {f"{base}.{alias.name}" for alias in node.names}
                graph[name] |= wanted & paths.keys()
                if base in paths and wanted - paths.keys():
                    graph[name].add(base)
        graph[name].discard(name)
    return graph


def circles(graph: Graph) -> list[set[str]]:
    """The sets of modules each of which leads to all others of its set, largest first."""
    reached = {name: _reached(graph, name) for name in graph}
    found: list[set[str]] = []
    for name in graph:
        circle = {other for other in reached[name] if name in reached[other]}
        if circle and circle not in found:
            found.append(circle)
    return sorted(found, key=len, reverse=True)


def _reached(graph: Graph, start: str) -> set[str]:
    seen: set[str] = set()
    ahead = list(graph[start])
    while ahead:
        name = ahead.pop()
        if name not in seen:
            seen.add(name)
            ahead.extend(graph[name])
    return seen


@pytest.mark.parametrize("package", ["hermes_lb", "agent_worker"])
def test_no_circle_is_large(package: str) -> None:
    found = circles(imports(ROOT, package))
    assert [sorted(circle) for circle in found if len(circle) > MOST] == []


def test_the_data_path_has_no_circle() -> None:
    graph = imports(ROOT, "hermes_lb")
    core = {name for name in graph if name.startswith("hermes_lb.proxy.") and "http1" not in name}
    assert len(core) > 20
    try:
        TopologicalSorter({name: graph[name] & core for name in core}).prepare()
    except CycleError as error:
        pytest.fail(f"{error.args[1]}")


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ({"a": "from p import b", "b": "import p.a"}, [{"p.a", "p.b"}]),
        ({"a": "from p.b import x", "b": "def f():\n    from p.a import y"}, [{"p.a", "p.b"}]),
        (
            {"a": "if TYPE_CHECKING:\n    from p.b import x", "b": "import p.c", "c": "import p.a"},
            [{"p.a", "p.b", "p.c"}],
        ),
        ({"a": "from p.b import x", "b": "import os", "c": "from p import a, b"}, []),
        ({"__init__": "from p.a import x", "a": "from p import y"}, [{"p", "p.a"}]),
    ],
)
def test_a_circle_is_found(
    sources: dict[str, str], expected: list[set[str]], tmp_path: Path
) -> None:
    (tmp_path / "p").mkdir()
    for name, source in sources.items():
        (tmp_path / "p" / f"{name}.py").write_text(source)
    assert circles(imports(tmp_path, "p")) == expected
