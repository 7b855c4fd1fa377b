"""Files by real Keras 3, tf_keras and TensorFlow 2.12 to 2.15, in which the values tell the truth.

Each variable holds a number of its own and each constraint a bound of its own; what real Keras
attached to what was recorded when the file was made. `make zoo` makes and checks many more.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest

FIXTURES = Path(__file__).parents[3] / "fixtures" / "zoo"
ZOO = Path(os.environ.get("CKPTCLAMP_ZOO", FIXTURES / "files"))
RECORDS = json.loads((ZOO / "expected.json").read_text())


@pytest.fixture(scope="module")
def check_zoo():
    """The check that `make zoo` runs, so that there is one."""
    spec = importlib.util.spec_from_file_location("check_zoo", FIXTURES / "check_zoo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record["file"])
def test_declarations_name_the_tensors_that_keras_constrains(check_zoo, record):
    """A declared constraint must be judged on the tensor that training really constrained."""
    assert check_zoo.problems(ZOO, record) == []


def test_the_check_sees_a_wrong_mapping(check_zoo):
    """The check itself must fail when the truth is another."""
    record = next(record for record in RECORDS if len(record["governed"]) > 1)
    bounds = list(record["governed"])
    values = list(record["governed"].values())
    moved = {**record, "governed": dict(zip(bounds, values[1:] + values[:1], strict=True))}
    assert check_zoo.problems(ZOO, moved)
