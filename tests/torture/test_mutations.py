"""A thousand mutants of real files; `make torture` makes a hundred thousand."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.torture.programs import program
from torture import reference
from torture.forking import forked
from torture.mutating import mutant, seeds


@pytest.mark.skipif(sys.platform != "linux", reason="the harness forks, and its walls are of Linux")
def test_mutants_are_refused_or_judged_right(tmp_path: Path):
    """No traceback, crash, hang or swelling, and no pass that plain readers would not give."""
    told = program("mutations", "--count", 1000, "--keep", tmp_path)
    assert told["cases"] == 1000
    assert {f"{kind}: exit {code}" for kind in (".h5", ".safetensors") for code in (0, 1, 3)} <= (
        told["answers"].keys()
    )


def test_mutants_are_the_same_everywhere():
    """A number is enough to make a mutant again."""
    seed = seeds()[0]
    made = [mutant(seed, number) for number in range(20)]
    assert made == [mutant(seed, number) for number in range(20)]
    assert all(data != seed.data for data, _ in made)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda: os.kill(os.getpid(), 9), "SIGKILL"),
        (lambda: 1 / 0, "ZeroDivisionError"),
        (lambda: os.read(os.pipe()[0], 1), "still at work"),
    ],
)
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # nothing else runs in it
def test_the_harness_notices(function, said: str):
    """A harness that would miss a crash, a traceback or a hang would prove nothing."""
    assert said in forked(function, 1).failure


def test_the_second_opinion_notices():
    """Whatever is not finite, or beyond the bound, is outside."""
    for value in (np.nan, np.inf, -np.inf, 1.1, -1.1):
        assert reference.outside(np.array([0.5, value]), (), (-1.0, 1.0), 0.0)
    assert reference.outside(np.full((2, 2), 0.8), (0,), (None, 1.0), 0.0)
    assert not reference.outside(np.full((2, 2), 0.7), (0,), (None, 1.0), 0.0)
