"""The structure of the package is the one that ARCHITECTURE.md and the import contracts describe."""

from __future__ import annotations

import ast
import re
import tomllib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "genmeter"
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
    "importlinter"
]["contracts"]
Graph = dict[str, set[str]]


def name_of(path: Path) -> str:
    """Return the dotted name of a module within the package; empty for the package itself."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


@cache
def modules() -> dict[str, Path]:
    """Return every module by its dotted name within the package."""
    return {name_of(path): path for path in sorted(SOURCE.rglob("*.py"))}


@cache
def imports() -> frozenset[tuple[str, str]]:
    """Return who imports whom, as pairs of modules, imports for types included."""
    found = set()
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or node.module is None:
                continue
            package, _, rest = node.module.partition(".")
            if package != "genmeter":
                continue
            for alias in node.names:
                inner = f"{rest}.{alias.name}".lstrip(".")
                found.add((name, inner if inner in modules() else rest))
    return frozenset(found)


def packages() -> Graph:
    """Return which packages and root modules each of them imports."""
    graph: Graph = {name.partition(".")[0]: set() for name in modules() if name}
    for importer, imported in imports():
        first, second = importer.partition(".")[0], imported.partition(".")[0]
        if first and second and first != second:
            graph[first].add(second)
    return graph


def reachable(graph: Graph, start: str) -> set[str]:
    """Return all that a node imports, directly or not."""
    found: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += graph[node]
    return found


def reduced(graph: Graph) -> set[tuple[str, str]]:
    """Return the edges that no longer path implies."""
    return {
        (node, target)
        for node, targets in graph.items()
        for target in targets
        if not any(target in reachable(graph, other) for other in targets - {target})
    }


def layers() -> list[set[str]]:
    """Return the layers of the root contract, the highest first."""
    (contract,) = [each for each in CONTRACTS if each.get("containers") == ["genmeter"]]
    return [set(re.findall(r"\w+", line)) for line in contract["layers"]]


def test_the_diagram_shows_the_imports_between_packages() -> None:
    """The arrows in ARCHITECTURE.md are the imports, without those that a longer path implies."""
    (diagram,) = re.findall(r"```mermaid\n(.*?)```", ARCHITECTURE, re.DOTALL)
    arrows = set()
    for line in diagram.splitlines():
        source, arrow, targets = line.partition(" --> ")
        if arrow:
            arrows |= {(source.strip(), target) for target in targets.split(" & ")}
    assert arrows == reduced(packages())


def test_every_import_goes_down_the_layers_of_the_contract() -> None:
    """The contract names every package and root module, and no import goes up or sideways."""
    level = {name: number for number, names in enumerate(layers()) for name in names}
    assert set(level) == set(packages())
    wrong = [
        (importer, imported)
        for importer, targets in packages().items()
        for imported in targets
        if level[importer] >= level[imported]
    ]
    assert wrong == []


def test_every_package_has_an_exhaustive_contract_of_its_own() -> None:
    """A package of several modules has layers inside too, which name each of its modules."""
    exhaustive = {
        container
        for each in CONTRACTS
        if each.get("exhaustive")
        for container in each["containers"]
    }
    folders = {path.parent for path in modules().values()}
    several = {
        "genmeter." + name_of(folder / "__init__.py")
        for folder in folders - {SOURCE}
        if len([path for path in folder.glob("*.py") if path.name != "__init__.py"]) > 1
    }
    assert several - exhaustive == set()


def test_the_root_has_few_modules() -> None:
    """A reader finds the room for a concept by the names of at most 17 modules and the packages."""
    assert len(list(SOURCE.glob("*.py"))) <= 17


def test_private_modules_are_imported_within_their_package_only() -> None:
    """A module with a leading underscore belongs to its package."""
    trespassing = [
        (importer, imported)
        for importer, imported in imports()
        if (parent := imported.rpartition("."))[2].startswith("_")
        and parent[0]
        and not (importer + ".").startswith(parent[0] + ".")
    ]
    assert trespassing == []


def test_every_package_has_a_row_in_the_architecture() -> None:
    """The table of ARCHITECTURE.md has each package and root module once."""
    (table,) = re.findall(r"\| package \| purpose \|\n(.*?)\n\n", ARCHITECTURE, re.DOTALL)
    names = [
        name
        for line in table.splitlines()[1:]
        for name in re.findall(r"`(\w+)`", line.split("|")[1])
    ]
    assert sorted(names) == sorted(name for name in packages() if name != "_version")
