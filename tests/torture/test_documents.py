"""What the documents promise is held by tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def named_tests() -> list[tuple[str, str, str]]:
    """Every test that a document names: document, file, function."""
    documents = (ROOT / "SECURITY.md", ROOT / "docs" / "reliability.md")
    return [(path.name, *found) for path in documents for found in NAMED.findall(path.read_text())]


@pytest.mark.parametrize(("document", "file", "function"), named_tests())
def test_named_tests_exist(document: str, file: str, function: str):
    """A promise without its test is only a sentence."""
    module = ast.parse((ROOT / file).read_text())
    assert function in {node.name for node in module.body if isinstance(node, ast.FunctionDef)}


def test_every_promise_names_a_test():
    """Each row of the table of promises ends in a test."""
    text = (ROOT / "SECURITY.md").read_text().partition("| --- | --- |\n")[2].partition("\n\n")[0]
    rows = text.splitlines()
    assert len(rows) >= 15
    assert all(NAMED.search(row) for row in rows)


@pytest.mark.parametrize("program", sorted((ROOT / "torture").glob("*.py")), ids=lambda p: p.name)
def test_every_program_is_measured_and_told_of(program: Path):
    """A program of the collection that neither runs all nor is told of would be forgotten."""
    if 'if __name__ == "__main__"' in program.read_text():
        assert f"run {program.stem}" in (ROOT / "torture" / "all.sh").read_text()
        assert f"`torture.{program.stem}`" in (ROOT / "docs" / "reliability.md").read_text()
