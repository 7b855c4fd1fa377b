"""Measurements kept for the next pass: all of a tensor or nothing, and never more than allowed."""

from __future__ import annotations

import numpy as np
import pytest

from ckptclamp.constraints.sets.norms import MaxNorm
from ckptclamp.engine.measure import measure
from ckptclamp.engine.measure.cache import MeasurementCache
from ckptclamp.engine.measure.requests import Batch, Failed, Request
from ckptclamp.engine.project import project
from ckptclamp.errors import Reason
from ckptclamp.spec.model import Projection
from tests.engine.raw import InMemory


class Counting(InMemory):
    """Counts the bytes that are read."""

    read_bytes = 0

    def read(self, tensor, box, buffer=None):
        values = super().read(tensor, box, buffer)
        self.read_bytes += values.nbytes
        return values


def measured(copy, axes):
    tensor = copy.tensors["w"]
    return list(measure(copy, [Request(tensor, axes, MaxNorm(1.0).needs)]))


def batches(copy, block, axis=1):
    tensor = copy.tensors["w"]
    answers = measure(copy, [Request(tensor, (axis,), MaxNorm(1.0).needs)], block=block)
    return [answer for answer in answers if isinstance(answer, Batch)]


def columns():
    return np.random.default_rng(3).standard_normal((3000, 500)).astype(np.float32)


@pytest.mark.parametrize("bound", [30.0, 56.0], ids=["every column", "few columns"])
def test_what_is_known_saves_a_pass_and_changes_no_bit(bound):
    """The copy is that of a projection which measured for itself, with one reading less."""
    fresh, told = Counting(w=columns()), Counting(w=columns())
    answers = measured(told, (0,))
    told.read_bytes = 0
    one = project(fresh, fresh.tensors["w"], (0,), MaxNorm(bound), 0.0)
    other = project(told, told.tensors["w"], (0,), MaxNorm(bound), 0.0, known=answers)
    assert one == other
    assert one.changed > 0
    assert (fresh.arrays["w"] == told.arrays["w"]).all()
    assert told.read_bytes == fresh.read_bytes - columns().nbytes


@pytest.mark.parametrize("projection", Projection)
@pytest.mark.parametrize("bound", [10.0, 24.0], ids=["every row", "few rows"])
def test_rows_that_are_known_to_conform_are_not_read(bound, projection):
    """Boxes with nothing to mend cost nothing, and the others come out the same."""
    fresh, told = Counting(w=columns()), Counting(w=columns())
    arguments = {"projection": projection, "block": 5000}
    answers = batches(told, 5000)
    told.read_bytes = 0
    one = project(fresh, fresh.tensors["w"], (1,), MaxNorm(bound), 0.0, **arguments)
    other = project(told, told.tensors["w"], (1,), MaxNorm(bound), 0.0, known=answers, **arguments)
    assert one == other
    assert one.changed > 0
    assert (fresh.arrays["w"] == told.arrays["w"]).all()
    less = bound > 20 and projection is Projection.EXACT
    assert (told.read_bytes < fresh.read_bytes) == less


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8])
@pytest.mark.parametrize("shape", [(600, 9000), (600, 30, 300)])
def test_of_few_rows_that_may_move_no_other_is_read(shape, dtype):
    """Single rows, rows beside each other, the first and the last, and one with a weight that is no number."""
    weights = np.random.default_rng(5).integers(-9, 9, shape).astype(dtype)
    for row in (0, 7, 8, 599):
        weights[row] *= 2
    if dtype is not np.int8:
        weights[300].flat[3] = np.nan
    fresh, told = Counting(w=weights.copy()), Counting(w=weights.copy())
    axes, constraint = tuple(range(1, len(shape))), MaxNorm(600.0)
    answers = measured(told, axes)
    told.read_bytes = 0
    one = project(fresh, fresh.tensors["w"], axes, constraint, 0.0)
    other = project(told, told.tensors["w"], axes, constraint, 0.0, known=answers)
    assert one == other
    assert (one.changed, one.left) == (4, int(dtype is not np.int8))
    assert fresh.arrays["w"].tobytes() == told.arrays["w"].tobytes()
    assert 4 * weights[0].nbytes <= told.read_bytes < 20 * weights[0].nbytes


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(
    "told",
    [lambda a: a[::-1], lambda a: a[:-1], lambda a: [*a, *a]],
    ids=["turned", "less", "twice"],
)
def test_answers_that_are_not_each_unit_once_are_not_believed(axis, told):
    """Units of which something is not certain are measured again."""
    fresh, copy = (InMemory(w=columns()) for _ in range(2))
    tensor = copy.tensors["w"]
    answers = told(batches(copy, 5000, axis))
    one = project(fresh, fresh.tensors["w"], (axis,), MaxNorm(10.0), 0.0, block=5000)
    other = project(copy, tensor, (axis,), MaxNorm(10.0), 0.0, block=5000, known=answers)
    assert one == other
    assert (fresh.arrays["w"] == copy.arrays["w"]).all()


def test_what_is_kept_is_given_once():
    """Afterwards the weights may have moved."""
    copy, kept = InMemory(w=columns()), MeasurementCache(1 << 20)
    tensor = copy.tensors["w"]
    for axes in ((0,), (1,)):
        for answer in measured(copy, axes):
            kept.add(tensor, f"rule {axes}", answer)
    assert [len(batch.statistics) for batch in kept.take(tensor, "rule (0,)")] == [500]
    assert not kept.take(tensor, "rule (0,)")
    assert sum(len(batch.statistics) for batch in kept.take(tensor, "rule (1,)")) == 3000


@pytest.mark.parametrize("room", [0, 7999])
def test_what_does_not_fit_is_forgotten_whole(room):
    """A part of a tensor's units would be taken for all of them."""
    copy, kept = InMemory(w=columns()), MeasurementCache(room)
    tensor = copy.tensors["w"]
    (batch,) = measured(copy, (0,))
    for _ in range(2):
        kept.add(tensor, "rule", batch)
    assert not kept.take(tensor, "rule")


def test_a_tensor_that_failed_is_forgotten():
    """Nothing is known of it, whatever was measured before."""
    copy, kept = InMemory(w=columns()), MeasurementCache(1 << 20)
    tensor = copy.tensors["w"]
    (batch,) = measured(copy, (0,))
    kept.add(tensor, "rule", batch)
    kept.add(tensor, "rule", Failed(0, Reason("read-failed", "is damaged")))
    kept.add(tensor, "rule", batch)
    assert not kept.take(tensor, "rule")
