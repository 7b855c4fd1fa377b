"""Constraints that are callables and get whole tensors."""

from __future__ import annotations

import numpy as np
import pytest

from ckptclamp.checkpoints.dtypes import DTYPES
from ckptclamp.constraints.custom import CallableConstraint
from ckptclamp.engine.measure.requests import Batch, Failed
from ckptclamp.engine.project.whole import measure_whole, project_whole
from ckptclamp.errors import UnreadableError
from tests.engine.raw import InMemory

MEMORY = 1 << 20


def halved_beyond_one(w):
    return np.where(np.abs(w) > 1, w / 2, w)


HALVED = CallableConstraint(halved_beyond_one, "tests:halved")


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn"])
def test_a_tensor_is_judged_by_how_far_it_would_move(dtype):
    """What the callable leaves alone conforms exactly, in every storage dtype."""
    reader = InMemory(
        a=np.array([0.3, -0.7]).astype(DTYPES[dtype].numpy),
        b=np.array([0.3, -3.0]).astype(DTYPES[dtype].numpy),
    )
    still, move = (measure_whole(reader, reader.tensors[n], HALVED, MEMORY) for n in "ab")
    assert isinstance(still, Batch)
    assert isinstance(move, Batch)
    assert not HALVED.judge(still.statistics).violates(0.0).any()
    judgement = HALVED.judge(move.statistics)
    assert judgement.violates(0.1).tolist() == [True]
    assert judgement.distance.tolist() == [1.5]
    assert judgement.scale.tolist() == [3.0]


def test_a_weight_that_is_not_finite_is_counted():
    """The callable may well make it finite; the tensor violates all the same."""
    reader = InMemory(w=np.array([np.nan, 1.0], np.float32))
    answer = measure_whole(reader, reader.tensors["w"], HALVED, MEMORY)
    assert isinstance(answer, Batch)
    assert answer.statistics.nonfinite.tolist() == [1]


@pytest.mark.parametrize(
    ("function", "memory", "words"),
    [
        (lambda w: w, 100, "over the budget"),
        (lambda w: w[:1], MEMORY, "shape"),
        (lambda w: w * np.nan, MEMORY, "not finite"),
        (lambda w: 1 / 0, MEMORY, "failed"),
    ],
)
def test_what_cannot_be_judged_is_answered_by_a_reason(function, memory, words):
    """A callable is a stranger: whatever it does, the audit goes on and says what happened."""
    reader = InMemory(w=np.ones(50, np.float32))
    constraint = CallableConstraint(function, "tests:function")
    answer = measure_whole(reader, reader.tensors["w"], constraint, memory)
    assert isinstance(answer, Failed)
    assert words in answer.reason
    with pytest.raises(UnreadableError, match=words):
        project_whole(reader, reader.tensors["w"], constraint, memory)


def test_projection_writes_what_the_callable_makes_and_only_that():
    """Weights that it does not move keep their bits, the sign of a zero too."""
    array = np.array([0.3, -0.0, -3.0]).astype(DTYPES["bfloat16"].numpy)
    copy = InMemory(w=array)
    done = project_whole(copy, copy.tensors["w"], HALVED, MEMORY)
    assert copy.arrays["w"].view(np.uint16)[:2].tolist() == array.view(np.uint16)[:2].tolist()
    assert float(copy.arrays["w"][2]) == -1.5
    assert (done.units, done.changed, done.left) == (1, 1, 0)
    assert done.largest_change == 0.5


def test_a_tensor_within_the_tolerance_or_not_finite_is_left():
    """Neither is written to."""
    copy = InMemory(near=np.array([1.0001, -3.0], np.float32), bad=np.array([np.inf], np.float32))
    done = project_whole(copy, copy.tensors["near"], HALVED, MEMORY, tolerance=1.0)
    assert (done.changed, done.left) == (0, 0)
    done = project_whole(copy, copy.tensors["bad"], HALVED, MEMORY)
    assert (done.changed, done.left) == (0, 1)
    assert not copy.written
