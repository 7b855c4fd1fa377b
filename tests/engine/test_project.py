"""Projecting: what violates ends inside as stored and near where it was; nothing else changes."""

from __future__ import annotations

from functools import partial

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptclamp.checkpoints.dtypes import DTYPES
from ckptclamp.constraints.sets.linear import CenterAround, Clip, NonNeg
from ckptclamp.constraints.sets.norms import MaxNorm, MinMaxNorm, UnitNorm
from ckptclamp.constraints.tolerance import trained_tolerance
from ckptclamp.engine.measure import measure
from ckptclamp.engine.measure.exact import settled, sums_of_stored
from ckptclamp.engine.measure.requests import Batch, Request
from ckptclamp.engine.project import project
from ckptclamp.spec.model import Projection
from tests.engine.raw import InMemory, units_of

FLOATS = ("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")
FNUZ = ("float8_e4m3fnuz", "float8_e5m2fnuz")


def numpy_dtype(name):
    return DTYPES[name].numpy


def outside(copy, axes, constraint, tolerance, block=1 << 17):
    """Judge as an audit does; which units violate, in C order."""
    tensor = copy.tensors["w"]
    asked = Request(tensor, axes, constraint.needs)
    kept = [tensor.shape[axis] for axis in asked.kept]
    found = np.ones(kept, np.bool_)
    for batch in measure(copy, [asked], block=block):
        assert isinstance(batch, Batch)
        place = tuple(slice(*span) for span in batch.units)
        broken = batch.statistics.nonfinite > 0
        sums = partial(sums_of_stored, copy, asked, batch.units)
        judged = constraint.judge(batch.statistics)
        judgement = settled(judged, constraint, tolerance, broken, sums)
        violates = judgement.violates(tolerance) | broken
        found[place] = violates.reshape(found[place].shape)
    return found.reshape(-1)


def bits(array):
    return array.view(f"u{array.dtype.itemsize}")


def tolerance_of(copy):
    return trained_tolerance(copy.tensors["w"].dtype)


@st.composite
def tensors(draw, dtypes=(*FLOATS, *FNUZ)):
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)))
    axes = tuple(sorted(draw(st.sets(st.sampled_from(range(len(shape)))))))
    dtype = draw(st.sampled_from(dtypes))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    spread = 10.0 ** draw(st.floats(-2, 1))
    array = rng.standard_normal(shape)
    if draw(st.booleans()):
        array = np.ones(shape) + 0.01 * array  # all weights round to the same side
    return (array * spread).astype(numpy_dtype(dtype)), axes


ONE_SIDED = st.sampled_from(
    [MaxNorm(0.0), MaxNorm(0.3), MaxNorm(1.0), MaxNorm(2.7), NonNeg(), Clip(-0.1, 0.3)]
)
BLOCKS = st.sampled_from([1, 3, 8, 30, 1 << 17])


@settings(max_examples=80, deadline=None)
@given(tensors(), ONE_SIDED, BLOCKS)
def test_one_sided_projection_conforms_exactly_as_stored(case, constraint, block):
    """Tolerance 0 holds after rounding, units that conformed keep their bytes, once is enough."""
    array, axes = case
    axes = () if constraint.elementwise else axes
    copy = InMemory(w=array)
    tensor = copy.tensors["w"]
    before = outside(copy, axes, constraint, tolerance_of(copy), block)
    done = project(copy, tensor, axes, constraint, tolerance_of(copy), block=block)
    after = copy.arrays["w"]
    assert not outside(copy, axes, constraint, 0.0, block)[before].any()
    kept = units_of(bits(after) == bits(array), axes)[~before]
    assert kept.all()
    assert (done.units, done.changed, done.left) == (len(before), before.sum(), 0)
    written = len(copy.written)
    again = project(copy, tensor, axes, constraint, tolerance_of(copy), block=block)
    assert (again.changed, again.left, len(copy.written)) == (0, 0, written)


@settings(max_examples=50, deadline=None)
@given(tensors(("float64", "float32", "float16", "bfloat16")), BLOCKS)
def test_projection_is_the_nearest_point_up_to_rounding(case, block):
    """Every weight lies within a unit or two in the last place of the exact projection."""
    array, axes = case
    copy = InMemory(w=array)
    project(copy, copy.tensors["w"], axes, MaxNorm(1.0), 0.0, block=block)
    rows = units_of(array.astype(np.longdouble), axes)
    norms = np.sqrt((rows * rows).sum(axis=1, keepdims=True))
    exact = rows * np.where(norms > 1, 1 / np.maximum(norms, 1), 1)
    stored = units_of(copy.arrays["w"].astype(np.longdouble), axes)
    dtype = copy.tensors["w"].dtype
    assert dtype is not None
    tiny = 2 * float(ml_dtypes.finfo(array.dtype).smallest_subnormal)
    allowed = 4 * dtype.unit_roundoff + 1e-14  # a float64 norm is itself good to so many places
    assert (np.abs(stored - exact) <= allowed * np.abs(exact) + tiny).all()


@settings(max_examples=50, deadline=None)
@given(tensors(), st.sampled_from([UnitNorm(), MinMaxNorm(0.5, 2.0), CenterAround(0.25)]), BLOCKS)
def test_two_sided_projection_meets_the_tolerance(case, constraint, block):
    """What an audit asks for after rounding is reached, or the unit is counted as left."""
    array, axes = case
    copy = InMemory(w=array)
    done = project(copy, copy.tensors["w"], axes, constraint, tolerance_of(copy), block=block)
    assert outside(copy, axes, constraint, tolerance_of(copy), block).sum() == done.left
    if array.size > 64 and array.dtype.itemsize > 1 and not isinstance(constraint, CenterAround):
        assert done.left == 0


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("constraint", [MaxNorm(1.0), MinMaxNorm(0.9, 1.0), UnitNorm()])
def test_large_tensors_conform(axes, dtype, constraint):
    """Units that span blocks and segments are mended as small ones are, with several threads."""
    rng = np.random.default_rng(1)
    array = rng.standard_normal((1500, 300)).astype(numpy_dtype(dtype))
    array[:, :5] = 0.03  # constant units round all to one side
    array[7] *= 1e-4
    copy = InMemory(w=array)
    done = project(copy, copy.tensors["w"], axes, constraint, tolerance_of(copy), jobs=2)
    assert done.left == 0
    assert done.changed > 0
    level = 0.0 if constraint.one_sided else tolerance_of(copy)
    assert not outside(copy, axes, constraint, level).any()


@pytest.mark.parametrize("block", [1, 1 << 17])
@pytest.mark.parametrize("projection", Projection)
@pytest.mark.parametrize(("constraint", "axes"), [(CenterAround(1.0), (0,)), (Clip(0.5, 4.0), ())])
def test_zero_units_are_left_where_they_are_to_be(constraint, axes, projection, block):
    """Alone or beside others, in whatever pieces: not a bit of them changes, and they are not left over."""
    array = np.zeros((6, 40), np.float32)
    array[:, ::3] = 9.0
    copy = InMemory(w=array)
    given = (copy, copy.tensors["w"], axes, constraint, 1e-6)
    done = project(*given, projection=projection, block=block, spare_zero=True)
    assert done.left == 0
    np.testing.assert_array_equal(copy.arrays["w"] == 0, array == 0)
    assert (copy.arrays["w"][:, ::3] < 5).all()
    assert project(*given, projection=projection, block=block).changed > 0


@pytest.mark.parametrize("block", [1, 1 << 17])
def test_units_that_cannot_be_mended_keep_their_bytes(block):
    """NaN, infinities and zero units are counted as left, and their neighbours are mended."""
    array = np.full((4, 5), 3.0, np.float32)
    array[1, 2], array[2, 0], array[3] = np.nan, -np.inf, 0.0
    copy = InMemory(w=array)
    done = project(copy, copy.tensors["w"], (1,), UnitNorm(), 1e-6, block=block)
    assert (done.units, done.changed, done.left) == (4, 1, 3)
    assert (bits(copy.arrays["w"])[1:] == bits(array)[1:]).all()
    assert np.linalg.norm(copy.arrays["w"][0]) == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("block", [2, 1 << 17])
@pytest.mark.parametrize("dtype", [">f4", ">f8", ">f2"])
def test_big_endian_stays_big_endian(dtype, block):
    """The stored byte order is kept, and the numbers are right in it."""
    array = np.array([[3.0, 4.0], [0.3, 0.4]], dtype)
    copy = InMemory(w=array)
    project(copy, copy.tensors["w"], (1,), MaxNorm(1.0), 0.0, block=block)
    np.testing.assert_allclose(copy.arrays["w"].astype(float), [[0.6, 0.8], [0.3, 0.4]], rtol=1e-3)
    assert copy.arrays["w"].dtype == np.dtype(dtype)


def test_integers_keep_within_a_norm():
    """A norm bound holds for integers too: of 1.15, -1.54 and 4.62 only the last is rounded down."""
    array = np.array([[3, -4, 12], [0, 1, 0]], np.int8)
    copy = InMemory(w=array)
    done = project(copy, copy.tensors["w"], (1,), MaxNorm(5.0), 0.0)
    assert copy.arrays["w"].tolist() == [[1, -2, 4], [0, 1, 0]]
    assert done.changed == 1


def test_where_scaling_cannot_help_weights_become_zero():
    """Below the smallest subnormal there is only zero; the norm must not stay outside."""
    array = np.full((1, 3), 6e-8, np.float16)
    copy = InMemory(w=array)
    done = project(copy, copy.tensors["w"], (1,), MaxNorm(1e-8), 0.0)
    assert not copy.arrays["w"].any()
    assert done.left == 0


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn"])
def test_extremes_of_the_dtype_are_projected(dtype):
    """No overflow on the way: the largest numbers end at the bound, not at zero, inf or NaN."""
    top = float(ml_dtypes.finfo(numpy_dtype(dtype)).max)
    array = np.array([[top, 0.0], [0.0, -top]]).astype(numpy_dtype(dtype))
    copy = InMemory(w=array)
    done = project(copy, copy.tensors["w"], (1,), MaxNorm(2.0), 0.0)
    stored = copy.arrays["w"].astype(float)
    assert (np.abs(stored) <= 2).all()
    np.testing.assert_allclose(stored, [[2.0, 0.0], [0.0, -2.0]], rtol=1e-15)
    assert done.largest_change == pytest.approx(1 - 2 / top, rel=0.1)


def test_a_clip_beyond_the_range_saturates():
    """A bound that the dtype cannot hold becomes its largest number, never NaN."""
    array = np.array([-448.0, 1.0], numpy_dtype("float8_e4m3fn"))
    copy = InMemory(w=array)
    project(copy, copy.tensors["w"], (), Clip(0.0, 1e6), 0.0)
    assert copy.arrays["w"].astype(float).tolist() == [0.0, 1.0]


def test_a_bound_between_two_numbers_is_met_from_inside():
    """0.1 is no float32: a clipped weight must be the neighbour below, not the nearer one above."""
    array = np.array([0.5, -0.5], np.float32)
    copy = InMemory(w=array)
    project(copy, copy.tensors["w"], (), Clip(-0.1, 0.1), 0.0)
    assert (np.abs(copy.arrays["w"].astype(float)) <= 0.1).all()
    assert np.abs(copy.arrays["w"]).min() >= np.float32(0.1) - np.spacing(np.float32(0.1))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("axes", [(0,), (1,)])
@pytest.mark.parametrize("block", [16, 1 << 17])
def test_keras_formula_is_followed_in_the_weights_own_dtype(dtype, axes, block):
    """Factor and product are rounded to the weights' dtype, for conforming units too."""
    rng = np.random.default_rng(3)
    array = rng.standard_normal((40, 30)).astype(numpy_dtype(dtype))
    array[0] = 0
    copy = InMemory(w=array)
    done = project(
        copy, copy.tensors["w"], axes, MaxNorm(2.0), 1e-6, projection=Projection.KERAS, block=block
    )
    wide = array.astype(np.float64)
    norm = np.sqrt((wide * wide).sum(axis=axes, keepdims=True))
    factor = (np.clip(norm, 0, 2.0) / (1e-7 + norm)).astype(array.dtype)
    assert (bits(copy.arrays["w"]) == bits(array * factor)).all()
    assert done.left == outside(copy, axes, MaxNorm(2.0), 1e-6, block).sum()


def test_keras_leaves_units_that_are_not_finite():
    """One infinity would turn its whole unit into NaN and zeros."""
    array = np.array([[np.inf, 1.0], [3.0, 4.0]], np.float32)
    copy = InMemory(w=array)
    done = project(copy, copy.tensors["w"], (1,), MaxNorm(1.0), 1e-6, projection=Projection.KERAS)
    assert (bits(copy.arrays["w"][0]) == bits(array[0])).all()
    assert (done.changed, done.left) == (1, 1)


@pytest.mark.parametrize("axes", [(0,), (1,)])
@pytest.mark.parametrize("block", [16, 1 << 17])
def test_keras_formula_never_makes_a_finite_unit_non_finite(axes, block):
    """Keras in float16 divides 0.5 by an epsilon of 1e-7: infinite, and NaN times a zero unit."""
    array = np.ones((30, 30), np.float16)
    array[:, 7] = array[7, :] = 0
    zero = (slice(None), 7) if axes == (0,) else (7, slice(None))
    copy = InMemory(w=array)
    done = project(
        copy,
        copy.tensors["w"],
        axes,
        MinMaxNorm(0.5, 1.0),
        1e-2,
        projection=Projection.KERAS,
        block=block,
    )
    assert np.isfinite(copy.arrays["w"]).all()
    assert (copy.arrays["w"][zero] == 0).all()
    assert (done.changed, done.left) == (29, 1)


@pytest.mark.parametrize("axes", [(0,), (1,)])
def test_the_number_of_threads_does_not_change_a_bit(axes):
    """The copy is the same whatever machine made it."""
    rng = np.random.default_rng(5)
    array = rng.standard_normal((2000, 1500)).astype(np.float32)
    copies = [InMemory(w=array) for _ in range(2)]
    one, many = (
        project(copy, copy.tensors["w"], axes, MaxNorm(30.0), 0.0, jobs=jobs)
        for copy, jobs in zip(copies, (1, 3), strict=True)
    )
    assert one == many
    assert (copies[0].arrays["w"] == copies[1].arrays["w"]).all()


def test_a_tensor_without_weights_needs_nothing():
    """Nothing to read, nothing to write, no division by zero."""
    copy = InMemory(w=np.zeros((0, 3), np.float32))
    assert project(copy, copy.tensors["w"], (0,), MaxNorm(1.0), 0.0).changed == 0
    assert not copy.written
