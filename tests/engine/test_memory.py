"""Peak memory is bounded by the budget, not by the tensor: measured in processes of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="peak memory is read from Linux' /proc"
)

BUDGET = 32 << 20
INTERPRETER = 60 << 20

PROGRAM = """
import re, sys
from pathlib import Path
import numpy as np
from ckptclamp.checkpoints.tensor import Contiguous, Tensor
from ckptclamp.checkpoints.dtypes import DTYPES
from ckptclamp.checkpoints.reading import read_box
from ckptclamp.checkpoints.source import Source
from ckptclamp.constraints.base import Statistic
from ckptclamp.constraints.sets.norms import MinMaxNorm
from ckptclamp.engine.measure import measure
from ckptclamp.engine.project import project
from ckptclamp.engine.measure.requests import Request

path, shape, axes, jobs, budget = sys.argv[1], *(eval(a) for a in sys.argv[2:])
source = Source.open(Path(path))
tensor = Tensor("w", shape, DTYPES["float32"], Contiguous(0, 0))

class Discarding:
    def read(self, tensor, box, buffer=None):
        values = read_box([source], tensor, box, buffer)
        values += 1
        return values
    def write(self, tensor, box, values):
        pass

copy = Discarding()
needs = frozenset({Statistic.NORM, Statistic.MIN, Statistic.MAX})
units = sum(len(b.statistics) for b in measure(
    copy, [Request(tensor, axes, needs)], memory=budget, jobs=jobs))
done = project(copy, tensor, axes, MinMaxNorm(1e-3, 2e-3), 0.0, memory=budget, jobs=jobs)
assert done.changed == done.units == units, done
# Not ru_maxrss: it begins with the peak of the process that started this one.
print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024)
"""


@pytest.mark.parametrize(
    ("shape", "axes", "jobs"),
    [
        ((1 << 12, 1 << 13), (1,), 8),
        ((1 << 12, 1 << 13), (1,), 1),
        ((1 << 12, 1 << 13), (0,), 8),
        ((64, 1 << 19), (0,), 8),
        ((1 << 25,), (0,), 8),
        ((1 << 21, 16), (1,), 8),
        ((1 << 21, 16), (1,), 1),
    ],
    ids=str,
)
def test_a_tensor_four_times_the_budget_is_measured_and_mended_within_it(
    tmp_path, shape, axes, jobs
):
    """Rows, columns, wide stripes, one unit, many tiny units: none may hold the tensor or its units."""
    path = tmp_path / "zeros"
    with path.open("wb") as file:
        file.truncate(4 * BUDGET)
    arguments = [str(path), *(repr(a) for a in (shape, axes, jobs, BUDGET))]
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) <= BUDGET + INTERPRETER
