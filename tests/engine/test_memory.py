"""Peak memory is bounded by the budget, not by the tensor: measured in processes of their own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
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


PROGRAM_AND_LIBRARIES = 100 << 20
SHAPE = (2048, 8192)
SHARDS = 3
RULE = ["--tensors", "**", "--max-norm", "1", "--axis", "1", "--memory", "32MiB", "--quiet"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A set of six times the budget: zeros that take no room, and in the first shard a row that is too large."""
    folder = tmp_path_factory.mktemp("model")
    weight_map = {}
    for number in range(SHARDS):
        nbytes = 4 * SHAPE[0] * SHAPE[1]
        entry = {"dtype": "F32", "shape": SHAPE, "data_offsets": [0, nbytes]}
        header = json.dumps({f"w{number}": entry}).encode()
        weight_map[f"w{number}"] = name = f"model-{number}.safetensors"
        with (folder / name).open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            file.write(np.full(SHAPE[1], number == 0, np.float32).tobytes())
            file.truncate(8 + len(header) + nbytes)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def peaks(folder, *arguments):
    """Run the program in `folder`; its exit code, and the most that each of its processes ever held."""
    found: dict[int, int] = {}
    command = [sys.executable, "-m", "ckptclamp", *map(str, arguments)]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            for pid in descendants(process.pid):
                found[pid] = max(found.get(pid, 0), peak(pid))
            time.sleep(0.005)
    return process.returncode, list(found.values())


def descendants(pid):
    """`pid`, the processes that it started, those that they did."""
    yield pid
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(c) for task in tasks for c in (task / "children").read_text().split()]
    except OSError:
        return
    for child in children:
        yield from descendants(child)


def peak(pid):
    """The most memory that `pid` held so far; 0 if it is gone."""
    try:
        told = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return int(told[1]) * 1024 if told else 0


@pytest.mark.parametrize(
    ("command", "code", "processes"),
    [
        pytest.param(["audit", "{model}", "--jobs", 4], 1, 1, id="threads"),
        pytest.param(
            ["audit", "{model}", "--jobs", 2, "--executor", "processes"], 1, 3, id="processes"
        ),
        pytest.param(
            ["audit", "{model}", "--part", "1/2", "-o", "partial=p.json"], 1, 1, id="a part"
        ),
        pytest.param(["apply", "{model}", "-o", "copy"], 0, 1, id="apply"),
    ],
)
def test_every_process_of_a_run_keeps_to_the_budget(tmp_path, model, command, code, processes):
    """Whatever is in the set: 100 MB come on top, for the program and its libraries."""
    named = [str(word).format(model=model) for word in command]
    returned, found = peaks(tmp_path, *named, *RULE)
    assert returned == code
    assert len(found) >= processes
    assert max(found) <= BUDGET + PROGRAM_AND_LIBRARIES, found


@pytest.mark.parametrize("jobs", [1, 4])
def test_single_weights_that_all_violate_are_judged_within_the_budget(tmp_path, model, jobs):
    """Each of them is a unit with numbers of its own, in float64."""
    rule = ["--tensors", "**", "--clip", "2", "3", "--memory", "32MiB", "--quiet", "--jobs", jobs]
    returned, found = peaks(tmp_path, "audit", model, *rule)
    assert returned == 1
    assert max(found) <= BUDGET + PROGRAM_AND_LIBRARIES, found
