"""The house as `docs/architecture.md` draws it: which room may import which."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import ckptclamp

PACKAGE = Path(ckptclamp.__file__).parent
ARCHITECTURE = Path(__file__).parents[1] / "docs" / "architecture.md"

FLOORS = [
    {"__main__", "api", "cli", "pytest_plugin"},
    {"gate", "reports"},
    {"applying", "auditing"},
    {"engine", "plan"},
    {"checkpoints", "constraints", "models", "spec"},
    {"errors", "frozen", "system"},
]
"""From the top down. What stands on one floor may import from that floor and those below."""

MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.parent != PACKAGE or path.name != "__init__.py"
}


def imports(path: Path) -> Iterator[str]:
    """The modules of the package that one file imports when it runs, not only for its types."""
    for node in running(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            named = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in named)


def running(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those under ``if TYPE_CHECKING``."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield node
            yield from running(node)


def test_no_room_has_more_than_a_dozen_doors() -> None:
    """What a folder is about can be taken in at a glance."""
    doors: dict[str, set[str]] = {}
    for module in MODULES:
        folder, _, name = module.rpartition(".")
        doors.setdefault(folder, set()).add(name)
    del doors["ckptclamp"]
    assert {folder: names for folder, names in doors.items() if len(names) > 12} == {}


def room(module: str) -> str:
    """The first name below the package."""
    return module.split(".")[1]


def floor(module: str) -> int:
    """The number of a module's floor, counted from the top."""
    (number,) = (n for n, rooms in enumerate(FLOORS) if room(module) in rooms)
    return number


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_downwards(module: str) -> None:
    """A room knows nothing of those above it, so that each can be understood from below."""
    used = {name for name in imports(MODULES[module]) if name in MODULES}
    assert {name for name in used if floor(name) < floor(module)} == set()


def test_no_two_modules_import_each_other() -> None:
    """There is an order in which the modules can be read."""
    graph = {name: {m for m in imports(path) if m in MODULES} for name, path in MODULES.items()}
    assert len(list(TopologicalSorter(graph).static_order())) == len(MODULES)


def test_a_checkpoint_knows_no_constraint_or_model_and_a_constraint_no_file() -> None:
    """The two halves meet in the plan and nowhere below; storage dtypes are words of both."""
    used = {name: set(imports(path)) for name, path in MODULES.items()}
    of_checkpoints = [used[name] for name in MODULES if room(name) == "checkpoints"]
    of_constraints = [used[name] for name in MODULES if room(name) == "constraints"]
    assert not {m for m in set().union(*of_checkpoints) if ".constraints" in m}
    assert not {m for m in set().union(*of_checkpoints) if ".models" in m}
    files = {m for m in set().union(*of_constraints) if ".checkpoints" in m}
    assert files <= {"ckptclamp.checkpoints.dtypes"}


@pytest.mark.skipif(not ARCHITECTURE.exists(), reason="the documents are not beside the tests")
def test_every_room_is_named_in_the_plan_of_the_house() -> None:
    """A newcomer finds each room by its name, and the plan stays true to the code."""
    plan = ARCHITECTURE.read_text()
    rooms = {room(module) for module in MODULES} - {"__main__"}
    rooms = {
        name for name in rooms if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").exists()
    }
    named = {name for name in rooms if f"{name}/" in plan or f"{name}.py" in plan}
    assert rooms == named
