"""Mutation testing of a few places; `make torture` meets all."""

from __future__ import annotations

import sys

import pytest

from tests.torture.programs import program
from torture.survivors import mutants

SOURCE = '''
"""Docstrings and annotations do not run."""
def judge(value: list[int], limit: int = 3) -> bool:
    if value[0] < limit and not value[1]:
        raise ValueError("too small")
    return any(value)
'''


@pytest.mark.skipif(sys.platform != "linux", reason="the harness forks")
def test_a_mutant_is_noticed():
    """The tests run against a mutant, not against what is installed."""
    told = program("survivors", "--module", "constraints/tolerance", "--every", 64, "--jobs", 1)
    assert told[0] | {"seconds": 0} == {
        "module": "constraints/tolerance",
        "mutants": 1,
        "survivors": [],
        "seconds": 0,
    }


def test_what_is_edited():
    """Each mutant differs from the others in one place, and runs."""
    made = dict(mutants(SOURCE))
    assert sorted(what.partition(": ")[2] for what in made) == [
        "0 → 1",
        "1 → 2",
        "3 → 4",
        "And → Or",
        "Lt → LtE",
        "any → all",
        "any(value) → None",
        "not value[1] → value[1]",
        "raise ValueError('too small') → nothing",
        "value[0] < limit and (not value[1]) → not (value[0] < limit and (not value[1]))",
    ]
    assert len(set(made.values())) == len(made)
    for source in made.values():
        compile(source, "mutant", "exec")
