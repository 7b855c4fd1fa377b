"""What is projected conforms in exact arithmetic, and is as near as stored weights can be."""

from __future__ import annotations

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptclamp.checkpoints.dtypes import DTYPES, Kind
from ckptclamp.constraints.sets.linear import CenterAround, Clip
from ckptclamp.constraints.sets.norms import MaxNorm, MinMaxNorm, UnitNorm
from ckptclamp.constraints.tolerance import trained_tolerance
from ckptclamp.engine.project import project
from tests.engine.raw import InMemory, units_of

FLOATS = [dtype.name for dtype in DTYPES.values() if dtype.kind is Kind.FLOAT]
INTEGERS = ["int8", "uint8", "int16", "int32", "int64"]
FINE = ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"]


def numpy_dtype(name):
    return DTYPES[name].numpy


def squares(unit):
    """The exact sum of squares of stored weights."""
    whole = unit.dtype.kind in "iu"
    return sum(Fraction(int(x) if whole else float(x)) ** 2 for x in unit)


def conforms(unit, low, high, tolerance=0.0):
    """Whether the norm lies in ``[low (1 - t), high (1 + t)]``, in exact arithmetic."""
    found, t = squares(unit), Fraction(tolerance)
    return (Fraction(low) * (1 - t)) ** 2 <= found <= (Fraction(high) * (1 + t)) ** 2


def projected(array, axes, constraint, tolerance=0.0, **options):
    """The stored weights after a projection, which a second one must not change."""
    copy = InMemory(w=array)
    done = project(copy, copy.tensors["w"], axes, constraint, tolerance, **options)
    first = copy.arrays["w"].copy()
    again = project(copy, copy.tensors["w"], axes, constraint, tolerance, **options)
    if done.left == 0:
        assert again.changed == 0
        assert first.tobytes() == copy.arrays["w"].tobytes()
    return first, done


@st.composite
def matrices(draw, names):
    dtype = numpy_dtype(draw(st.sampled_from(names)))
    shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 80)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["normal", "equal", "wide"]))
    array = rng.standard_normal(shape) if kind != "equal" else np.full(shape, rng.uniform(0.3, 9))
    if kind == "wide":
        array *= 10.0 ** rng.uniform(-6, 1, shape)
    if dtype.kind in "iu":
        top = 0.9 * np.iinfo(dtype).max
        array = np.clip(array * top / 8, -top, top)
    return (np.abs(array) if dtype.kind == "u" or "e8m0" in dtype.name else array).astype(dtype)


BLOCKS = st.sampled_from([3, 32, 1 << 17])


@settings(max_examples=200, deadline=None)
@given(matrices(FLOATS + INTEGERS), st.floats(0.05, 1.5), st.booleans(), BLOCKS)
def test_a_maximum_holds_exactly(array, share, transposed, block):
    """Whatever the dtype, and whether or not a unit lies in one block."""
    high = float(share * np.sqrt(float(squares(array[0]))))
    if array.dtype.name == "float8_e8m0fnu":
        high = max(high, 1e-30)  # it has no zero to go to
    axes = (0,) if transposed else (1,)
    given_ = np.ascontiguousarray(array.T) if transposed else array
    after, done = projected(given_, axes, MaxNorm(high), block=block)
    assert done.left == 0
    for before, unit in zip(array, units_of(after, axes), strict=True):
        assert conforms(unit, 0.0, high)
        if conforms(before, 0.0, high):
            assert unit.tobytes() == before.tobytes()


@settings(max_examples=200, deadline=None)
@given(matrices(FLOATS), st.floats(1.1, 20), st.booleans(), BLOCKS)
def test_a_minimum_holds_exactly(array, share, transposed, block):
    """Units grow as exactly as they shrink; those without a direction stay."""
    array = np.where(np.abs(array.astype(float)) > 20, 1, array.astype(float)).astype(array.dtype)
    low = float(share * np.sqrt(float(squares(array[0]))))
    axes = (0,) if transposed else (1,)
    given_ = np.ascontiguousarray(array.T) if transposed else array
    after, done = projected(given_, axes, MinMaxNorm(low, 1e30), block=block)
    zero = sum(squares(unit) == 0 for unit in array)
    assert done.left == (zero if low > 0 else 0)
    for before, unit in zip(array, units_of(after, axes), strict=True):
        assert squares(before) == 0 or conforms(unit, low, 1e30)


@settings(max_examples=150, deadline=None)
@given(matrices(FLOATS), st.booleans(), BLOCKS)
def test_a_norm_of_one_holds_to_the_tolerance(array, transposed, block):
    """Or the unit is counted as left; next to nothing is for dtypes with zero."""
    dtype = DTYPES[array.dtype.name]
    tolerance = trained_tolerance(dtype)
    axes = (0,) if transposed else (1,)
    given_ = np.ascontiguousarray(array.T) if transposed else array
    after, done = projected(given_, axes, UnitNorm(), tolerance, block=block)
    good = [conforms(unit, 1.0, 1.0, tolerance) for unit in units_of(after, axes)]
    assert good.count(False) == done.left
    if dtype.itemsize > 1:
        assert done.left == sum(squares(unit) == 0 for unit in array)


def wide(values):
    return values.astype(np.float64).astype(np.longdouble)


def stored_near(values, dtype):
    """The nearest stored numbers."""
    return wide((values if dtype == np.float64 else values.astype(np.float64)).astype(dtype))


def norm(values):
    return np.sqrt((values * values).sum(axis=-1))


def best(exact, target, dtype, *, grow):
    """How near stored units can come, at least: by plain rounding, or the Lagrangian dual bound."""
    low, high = np.zeros(len(exact), np.longdouble), np.full(len(exact), 4, np.longdouble)
    for _ in range(70):
        middle = (low + high) / 2
        fits = norm(stored_near(exact * middle[:, None], dtype)) <= target
        low, high = np.where(fits, middle, low), np.where(fits, high, middle)
    factor = np.maximum(high, 1) if grow else np.minimum(low, 1)
    x = stored_near(exact * factor[:, None], dtype)
    dual = norm(x - exact) ** 2 - (1 / factor - 1) * (target**2 - norm(x) ** 2)
    plain = norm(stored_near(exact, dtype) - exact)
    return plain, np.sqrt(np.maximum(dual, plain**2))


def rms(values):
    return np.sqrt((values**2).mean())


@pytest.mark.parametrize("size", [64, 300, 1500])
@pytest.mark.parametrize("name", FINE)
@pytest.mark.parametrize("distribution", ["normal", "laplace"])
@pytest.mark.parametrize("grow", [False, True], ids=["shrink", "grow"])
def test_units_come_as_near_as_stored_units_can(name, size, distribution, grow):
    """Within 3 % of the best over 100 units, and each but for half a step of a weight.

    That is also within 1.1 times of plain rounding, which does not conform, but where nothing is.
    """
    rng = np.random.default_rng(size)
    dtype = numpy_dtype(name)
    array = getattr(rng, distribution)(size=(100, size)).astype(dtype)
    norms = norm(wide(array))
    bound = float(norms.max() * 1.3 if grow else norms.min() / 1.3)
    constraint = MinMaxNorm(bound, 1e9) if grow else MaxNorm(bound)
    after, done = projected(array, (1,), constraint)
    assert done.left == 0
    exact = wide(array) * (np.longdouble(bound) / norms)[:, None]
    plain, nearest = best(exact, np.longdouble(bound), dtype, grow=grow)
    mine = norm(wide(after) - exact)
    step = 2 * DTYPES[name].unit_roundoff * np.abs(exact).max(axis=1)
    assert rms(mine) <= 1.03 * rms(nearest)
    assert (mine <= 1.1 * nearest + step / 2).all()
    if dtype.itemsize > 1:
        assert rms(mine) <= 1.1 * rms(plain)


@pytest.mark.parametrize("name", FINE)
def test_single_weights_become_the_next_number_inside(name):
    """A unit of one weight has one nearest number that conforms."""
    dtype = numpy_dtype(name)
    bound = 0.7123
    array = np.linspace(0.8, 2.0, 13).astype(dtype)
    for shape, axes in (((13,), ()), ((13, 1), (1,))):
        after, _ = projected((array * -1).reshape(shape), axes, MaxNorm(bound))
        near = np.float64(bound).astype(dtype)
        bits = near.view(f"u{dtype.itemsize}")
        if float(near) > bound:
            near = np.asarray(bits - 1, bits.dtype).view(dtype)
        assert (after.astype(float) == -float(near)).all()


@pytest.mark.parametrize("name", ["float64", "bfloat16"])
@pytest.mark.parametrize("shape", [(3000, 400), (2, 1_100_000)])
@pytest.mark.parametrize("axes", [(0,), (0, 1), (1,)])
def test_threads_and_memory_change_no_bit(name, shape, axes):
    """Units over several boxes; equal weights, where only the place of a weight breaks the tie."""
    array = np.random.default_rng(2).standard_normal(shape)
    array[:, ::7] = 0.1234
    array = array.astype(numpy_dtype(name))
    copies = [InMemory(w=array) for _ in range(3)]
    limits = [(1, 1 << 28), (3, 1 << 28), (2, 16 << 20)]
    done = [
        project(copy, copy.tensors["w"], axes, MaxNorm(3.3), 0.0, jobs=jobs, memory=memory)
        for copy, (jobs, memory) in zip(copies, limits, strict=True)
    ]
    assert done[0] == done[1] == done[2]
    assert done[0].left == 0
    first = copies[0].arrays["w"]
    assert all(copy.arrays["w"].tobytes() == first.tobytes() for copy in copies)
    units = units_of(first, axes).astype(np.float64)
    assert (np.linalg.norm(units, axis=1) <= 3.3 * (1 + 1e-12)).all()


def test_equal_weights_are_told_apart_by_their_place():
    """No factor moves one of them without the others; the first ones move."""
    array = np.full((1, 100), 3.0).astype(ml_dtypes.float8_e4m3fn)
    after, _ = projected(array, (1,), MaxNorm(10.8))
    values = after[0].astype(float)
    assert sorted(set(values)) == [1.0, 1.125]
    assert (np.diff(values) >= 0).all()
    assert squares(after[0]) + Fraction(1.125) ** 2 - 1 > Fraction(10.8) ** 2


@pytest.mark.parametrize("constraint", [MaxNorm(3.0), Clip(0.5, 4), UnitNorm(), MinMaxNorm(1, 2)])
def test_powers_of_two_are_projected(constraint):
    """float8_e8m0fnu has no sign and no zero, and steps of a factor of two."""
    codes = np.arange(100, 140, dtype=np.uint8)
    array = codes.view(ml_dtypes.float8_e8m0fnu).reshape(4, 10)
    axes = () if constraint.elementwise else (1,)
    after, _ = projected(array, axes, constraint, 0.5 if not constraint.one_sided else 0.0)
    wide_ = after.astype(float)
    if isinstance(constraint, Clip):
        np.testing.assert_array_equal(wide_, np.clip(array.astype(float), 0.5, 4))
    else:
        low, high = constraint.interval()
        norms = np.sqrt((wide_**2).sum(axis=1))
        slack = 0.5 if not constraint.one_sided else 0.0
        assert (norms <= high * (1 + slack)).all()
        assert (norms >= (low or 0) * (1 - slack)).all()


@settings(max_examples=100, deadline=None)
@given(matrices(["float64", "float32", "float16", "bfloat16"]), st.floats(-1, 1), BLOCKS)
def test_a_mean_is_met_to_the_tolerance(array, centre, block):
    """In exact arithmetic, for units that have more than one weight or can hold the mean."""
    tolerance = trained_tolerance(DTYPES[array.dtype.name])
    after, done = projected(array, (1,), CenterAround(centre), tolerance, block=block)
    good = 0
    for unit in after:
        weights = [Fraction(float(x)) for x in unit]
        apart = abs(sum(weights) - len(weights) * Fraction(centre))
        good += apart <= Fraction(tolerance) * sum(map(abs, weights))
    assert len(array) - good == done.left
