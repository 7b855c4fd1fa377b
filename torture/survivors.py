"""Change the code that gives verdicts and exit codes, one place at a time: a test must notice.

    python -m torture.survivors [--module NAME] [--every N] [--offset N] [--jobs N]

Each mutant is a copy of the installed package with one edit: a comparison, a condition, a number, a
sign or a name taken for its opposite, a statement left out. The tests of the module are run against
it, in a fork of a process that has loaded what they need, until one fails. Prints a line of JSON for
each module, with the mutants that no test noticed; ends with 1 if those are over a tenth of all.
"""

from __future__ import annotations

import argparse
import ast
import copy
import gc
import importlib
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from torture.forking import forked, in_parallel

ROOT = Path(__file__).parents[1]
MOST = 0.1
"""The share of mutants that may survive."""

MODULES = {
    "auditing/results": ["auditing/test_results.py", "auditing/test_audit_report.py"],
    "auditing/verdicts/__init__": ["auditing/test_stacks.py", "auditing/test_auditing.py"],
    "auditing/verdicts/stacks": ["auditing/test_stacks.py"],
    "auditing/verdicts/tally": [
        "auditing/test_tally.py",
        "auditing/test_excuses.py",
        "auditing/test_auditing.py",
    ],
    "auditing/verdicts/excuses": ["auditing/test_excuses.py"],
    "auditing/audit": [
        "auditing/test_auditing.py",
        "auditing/test_audit_report.py",
        "torture/test_isolation.py",
    ],
    "auditing/suppression": ["auditing/test_ignoring.py", "gate/test_suppression.py"],
    "constraints/base": ["constraints", "auditing/test_tally.py"],
    "constraints/sets/norms": ["constraints"],
    "constraints/sets/linear": ["constraints"],
    "constraints/tolerance": ["constraints"],
    "cli/__init__": ["cli/test_main.py", "cli/test_bad_input.py"],
}
"""The code whose answer is a verdict or an exit code, and the tests that hold it."""

_SECONDS = 120.0
_SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.Break: ast.Continue,
    ast.Continue: ast.Break,
}
_NAMES = {
    "min": "max",
    "max": "min",
    "any": "all",
    "all": "any",
    "minimum": "maximum",
    "maximum": "minimum",
    "PASS": "VIOLATION",
    "VIOLATION": "PASS",
    "NOT_EVALUATED": "PASS",
    "ERROR": "WARNING",
    "OK": "VIOLATIONS",
    "VIOLATIONS": "OK",
    "INCOMPLETE": "OK",
    "NOTHING_EVALUATED": "OK",
    "NOT_WRITTEN": "OK",
}


def edits(tree: ast.Module) -> Iterator[tuple[ast.AST, ast.AST | None]]:
    """Every node that can be edited, and what it becomes; ``None`` where it is left out."""
    for node in _running(tree):
        if type(node) in _SWAPS:
            yield node, _SWAPS[type(node)]()
        elif isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float)):
            flipped = not node.value if isinstance(node.value, bool) else node.value + 1
            yield node, ast.Constant(flipped)
        elif isinstance(node, ast.Name) and node.id in _NAMES:
            yield node, ast.Name(_NAMES[node.id], ast.Load())
        elif isinstance(node, ast.Attribute) and node.attr in _NAMES:
            yield node, ast.Attribute(node.value, _NAMES[node.attr], ast.Load())
        elif isinstance(node, ast.UnaryOp):
            yield node, node.operand
        elif isinstance(node, (ast.If, ast.While, ast.IfExp)):
            yield node.test, ast.UnaryOp(ast.Not(), node.test)
        elif isinstance(node, ast.Return) and node.value is not None:
            yield node.value, ast.Constant(None)
        elif isinstance(node, (ast.AugAssign, ast.Raise)) or (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
        ):
            yield node, None


def _running(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run: no annotations, no decorators, nothing for type checkers alone."""
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for node in value if isinstance(value, list) else [value]:
            if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
                continue
            if isinstance(node, ast.AST):
                yield node
                yield from _running(node)


class _Edit(ast.NodeTransformer):
    """Replace one node."""

    def __init__(self, node: ast.AST, by: ast.AST | None) -> None:
        self.node = node
        self.by = ast.Pass() if by is None else by

    def visit(self, node: ast.AST) -> Any:
        return self.by if node is self.node else super().generic_visit(node)


def mutants(source: str) -> list[tuple[str, str]]:
    """Every mutant of a module: where and what was edited, and the source that it makes."""
    count = len(list(edits(ast.parse(source))))
    made: list[tuple[str, str]] = []
    for number in range(count):
        tree = ast.parse(source)
        node, by = list(edits(tree))[number]
        line = getattr(node, "lineno", None) or _line_of(tree, node)
        before, after = (type(n).__name__ if n is None else _shown(n) for n in (node, by))
        what = f"line {line}: {before} → {'nothing' if by is None else after}"
        by = copy.deepcopy(by)
        made.append((what, ast.unparse(ast.fix_missing_locations(_Edit(node, by).visit(tree)))))
    return made


def _shown(node: ast.AST) -> str:
    known = isinstance(node, (ast.expr, ast.stmt))
    return ast.unparse(ast.fix_missing_locations(node))[:80] if known else type(node).__name__


def _line_of(tree: ast.AST, wanted: ast.AST) -> int:
    """The line of the expression that an operator stands in."""
    for parent in ast.walk(tree):
        if any(child is wanted for child in ast.iter_child_nodes(parent)):
            return int(getattr(parent, "lineno", 0))
    return 0


def survives(home: Path, tests: list[str]) -> bool:
    """Whether all of the tests pass with the package that lies in `home`."""

    def run() -> int:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for number in (1, 2):
            os.dup2(nowhere, number)
        sys.path.insert(0, str(home))
        os.environ["PYTHONPATH"] = str(home)  # for the programs that tests start
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        sys.dont_write_bytecode = True
        os.chdir(home)  # not where the source tree would be found first
        for name in [name for name in sys.modules if name.partition(".")[0] == "ckptclamp"]:
            del sys.modules[name]
        settings = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT)]
        quick = ["-x", "-q", "-p", "no:cacheprovider"]
        files = [str(ROOT / "tests" / test) for test in tests]
        return int(pytest.main([*settings, *quick, *files]))

    outcome = forked(run, _SECONDS)
    return not outcome.failure and outcome.value == pytest.ExitCode.OK


def meet(module: str, chosen: list[tuple[str, str]]) -> list[str]:
    """Run the tests against each of these mutants; return those that no test noticed."""
    found: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        home = _package(Path(folder))
        file = home / "ckptclamp" / f"{module}.py"
        for what, source in chosen:
            file.write_text(source, encoding="utf-8")
            if survives(home, MODULES[module]):
                found.append(what)
    return found


def _package(folder: Path) -> Path:
    """A copy of the installed package; nothing of it may have been loaded here."""
    spec = find_spec("ckptclamp")
    assert spec is not None
    assert spec.origin is not None
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(spec.origin).parent, folder / "ckptclamp", ignore=ignored)
    return folder


def run(module: str, every: int, offset: int, jobs: int) -> dict[str, Any]:
    """Meet the mutants of one module, or each one in `every`; return what is printed."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        home = _package(Path(folder))
        if not survives(home, MODULES[module]):
            raise SystemExit(f"the tests of {module} fail without a mutant")
        source = (home / "ckptclamp" / f"{module}.py").read_text(encoding="utf-8")
    made = mutants(source)
    random.Random(0).shuffle(made)
    chosen = made[offset::every]
    parts = in_parallel([partial(meet, module, chosen[job::jobs]) for job in range(jobs)])
    alive = sorted(what for part in parts for what in part)
    seconds = round(time.monotonic() - started)
    return {"module": module, "mutants": len(chosen), "survivors": alive, "seconds": seconds}


def main(arguments: list[str] | None = None) -> int:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--module", choices=MODULES, action="append")
    parser.add_argument("--every", type=int, default=1, help="meet one in N mutants")
    parser.add_argument("--offset", type=int, default=0, help="begin with this mutant")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    for name in ("numpy", "h5py", "ml_dtypes", "yaml", "rich.console"):
        importlib.import_module(name)
    gc.freeze()  # a collection in a fork would copy every page of what was loaded
    met = alive = 0
    for module in options.module or MODULES:
        told = run(module, options.every, options.offset, options.jobs)
        met, alive = met + told["mutants"], alive + len(told["survivors"])
        print(json.dumps(told, ensure_ascii=False), flush=True)
    print(json.dumps({"mutants": met, "survivors": alive}))
    return 1 if alive > MOST * met else 0


if __name__ == "__main__":
    sys.exit(main())
