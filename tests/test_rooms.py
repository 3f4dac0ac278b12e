"""Imports go down the rooms, in the order that CONTRIBUTING.md states, and in no circle."""

import ast
import graphlib
import pathlib
import re
from collections.abc import Iterator

import pytest

import jax_rnnt

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = pathlib.Path(jax_rnnt.__file__).parent
BENCHMARKS = ROOT / "benchmarks"


def _orders() -> list[dict[str, int]]:
    """The levels of each list, by room: the package's first."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    blocks = re.findall(r"^```text\n(__.*?)^```", text, re.M | re.S)
    return [
        {room: level for level, line in enumerate(block.splitlines()) for room in line.split(", ")}
        for block in blocks
    ]


PACKAGE_ORDER, BENCHMARKS_ORDER = _orders()


def _modules(package: pathlib.Path) -> dict[str, pathlib.Path]:
    """Every module by its name behind the package's, "" being the package itself."""
    found = {}
    for path in package.rglob("*.py"):
        parts = path.relative_to(package).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _imports(package: pathlib.Path, modules: dict[str, pathlib.Path], name: str) -> Iterator[str]:
    """The package's modules that one of them imports, wherever in its source."""
    for node in ast.walk(ast.parse(modules[name].read_text())):
        if isinstance(node, ast.Import):
            full = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{modules[name]} has a relative import"
            # `from a import b` is of a module a.b if there is one, else of a name in a.
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            inside = [x for x in full if x.removeprefix(f"{package.name}.") in modules]
            full = inside if len(inside) == len(full) else [*inside, node.module or ""]
        else:
            continue
        for imported in full:
            if imported == package.name or imported.startswith(f"{package.name}."):
                yield imported.removeprefix(package.name).removeprefix(".")


def _room(name: str, order: dict[str, int]) -> str:
    """A command of benchmarks counts as `__init__`, above all rooms."""
    first = name.split(".")[0]
    if order is BENCHMARKS_ORDER and first not in order:
        return "__init__"
    return first or "__init__"


@pytest.mark.parametrize(
    ("package", "order"), [(PACKAGE, PACKAGE_ORDER), (BENCHMARKS, BENCHMARKS_ORDER)]
)
def test_no_import_runs_upwards(package, order):
    modules = _modules(package)
    assert len(modules) > 20
    for name in modules:
        for imported in _imports(package, modules, name):
            room, other = _room(name, order), _room(imported, order)
            below = order[other] > order[room]
            assert room == other or below, f"{modules[name]} imports {package.name}.{imported}"


@pytest.mark.parametrize("package", [PACKAGE, BENCHMARKS])
def test_no_circle(package):
    modules = _modules(package)
    graph = {
        name: {x for x in _imports(package, modules, name) if x in modules and x != name}
        for name in modules
    }
    graphlib.TopologicalSorter(graph).prepare()
