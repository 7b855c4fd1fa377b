"""At a bound, a verdict is the one of exact arithmetic over the stored weights."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptclamp.auditing.options import Reporting, Running
from ckptclamp.auditing.verdicts import judge
from ckptclamp.checkpoints.dtypes import DTYPES, Kind
from ckptclamp.constraints.sets.linear import CenterAround, Clip, MaxLInfNorm
from ckptclamp.constraints.sets.norms import MaxNorm, MinMaxNorm, UnitNorm
from ckptclamp.plan import Assignment, Origin
from tests.engine.raw import InMemory

REAL = [dtype.name for dtype in DTYPES.values() if dtype.kind in {Kind.FLOAT, Kind.INTEGER}]
FLOATS = [name for name in REAL if DTYPES[name].kind is Kind.FLOAT]


def judged(array, axes, constraint, tolerance):
    """Judge `array` as an audit does; how many units violate, and how many only the tolerance saves."""
    copy = InMemory(w=array)
    rule = Assignment(copy.tensors["w"], constraint, axes, "rule", Origin.SPEC, "why", tolerance)
    (result,) = judge(copy, [rule], Running(), Reporting())
    assert result.reason is None
    return result.violating, result.within_tolerance


def rational(unit):
    """The weights of a unit as they are."""
    whole = unit.dtype.kind in "iu"
    return [Fraction(int(x)) if whole else Fraction(float(x)) for x in unit]


def norm_outside(unit, low, high, tolerance):
    """Whether a norm lies outside ``[low (1 - t), high (1 + t)]``, by the definition."""
    squares = sum(x * x for x in rational(unit))
    above = high < math.inf and squares > (Fraction(high) * (1 + Fraction(tolerance))) ** 2
    return above or squares < (Fraction(low) * (1 - Fraction(tolerance))) ** 2


def root(squares):
    """The float64 next to the square root of a rational, however large or small."""
    digits = 10**40
    return float(Fraction(math.isqrt(int(squares * digits * digits)), digits))


@st.composite
def matrices(draw, names=REAL):
    dtype = DTYPES[draw(st.sampled_from(names))].numpy
    shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 40)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["normal", "equal", "wide"]))
    array = rng.standard_normal(shape) if kind != "equal" else np.full(shape, rng.uniform(0.1, 9))
    if kind == "wide":
        array *= 10.0 ** rng.uniform(-9, 1, shape)
    if dtype.kind in "iu":
        top = np.iinfo(dtype).max
        array = np.clip(array * min(1e3 * top**0.5, top / 8), -0.9 * top, 0.9 * top)
    if dtype.kind == "u" or dtype.name.endswith("e8m0fnu"):
        array = np.abs(array)
    return array.astype(dtype)


TOLERANCES = st.sampled_from([0.0, 2e-6, 0.01, 0.1])
ULPS = st.integers(-3, 3)


@settings(max_examples=300, deadline=None)
@given(matrices(), TOLERANCES, ULPS, st.booleans())
def test_norms_next_to_a_bound_are_judged_exactly(array, tolerance, ulps, from_below):
    """The limit is put within a few ulps of the first unit's own norm, in every dtype."""
    squares = sum(x * x for x in rational(array[0]))
    factor = 1 - Fraction(tolerance) if from_below else 1 + Fraction(tolerance)
    bound = root(squares / factor**2)
    for _ in range(abs(ulps)):
        bound = float(np.nextafter(bound, math.copysign(math.inf, ulps)))
    bound = max(bound, 0.0)
    low, high = (bound, math.inf) if from_below else (0.0, bound)
    constraint = MinMaxNorm(low, high) if from_below else MaxNorm(high)
    outside = [norm_outside(unit, low, high, tolerance) for unit in array]
    beyond = [norm_outside(unit, low, high, 0.0) for unit in array]
    expected = sum(outside), sum(beyond) - sum(outside)
    assert judged(array, (1,), constraint, tolerance) == expected
    assert judged(np.ascontiguousarray(array.T), (0,), constraint, tolerance) == expected


@settings(max_examples=100, deadline=None)
@given(matrices(FLOATS), TOLERANCES, st.integers(0, 3))
def test_a_unit_norm_is_exactly_one(array, tolerance, changed):
    """One-hot units conform at tolerance 0, and do not with one weight more, however small."""
    smallest = np.abs(array.astype(np.float64))
    array = np.zeros_like(array) if array.dtype.name[-6:] != "e8m0fnu" else array
    array[:, 0] = 1
    if changed and array.shape[1] > 1:
        array[0, -1] = smallest[smallest > 0].min(initial=1.0)
    outside = sum(norm_outside(unit, 1.0, 1.0, tolerance) for unit in array)
    assert judged(array, (1,), UnitNorm(), tolerance)[0] == outside


@settings(max_examples=200, deadline=None)
@given(matrices(FLOATS), TOLERANCES, ULPS)
def test_means_next_to_a_bound_are_judged_exactly(array, tolerance, ulps):
    """Of the first unit's own mean, shifted by what the tolerance allows and a few ulps."""
    weights = rational(array[0])
    total, magnitudes = sum(weights), sum(map(abs, weights))
    centre = float((total + Fraction(tolerance) * magnitudes) / len(weights))
    for _ in range(abs(ulps)):
        centre = float(np.nextafter(centre, math.copysign(math.inf, ulps)))

    def outside(unit, tolerance):
        weights = rational(unit)
        apart = abs(sum(weights) - len(weights) * Fraction(centre))
        return apart > Fraction(tolerance) * sum(map(abs, weights))

    violating = sum(outside(unit, tolerance) for unit in array)
    beyond = sum(outside(unit, 0.0) for unit in array)
    found = judged(array, (1,), CenterAround(centre), tolerance)
    assert found == (violating, beyond - violating)


@settings(max_examples=300, deadline=None)
@given(matrices(FLOATS), TOLERANCES, ULPS, st.booleans())
def test_weights_next_to_a_bound_are_judged_exactly(array, tolerance, ulps, largest):
    """Of a clip, and of a largest magnitude: what the tolerance allows from the first weight on."""
    bound = float(abs(rational(array[0])[0]) / (1 + Fraction(tolerance)))
    for _ in range(abs(ulps)):
        bound = abs(float(np.nextafter(bound, math.copysign(math.inf, ulps))))
    constraint = MaxLInfNorm(bound) if largest else Clip(-bound, bound)

    def outside(unit, tolerance):
        return max(map(abs, rational(unit))) > Fraction(bound) * (1 + Fraction(tolerance))

    units = array if largest else array.reshape(-1, 1)
    violating = sum(outside(unit, tolerance) for unit in units)
    beyond = sum(outside(unit, 0.0) for unit in units)
    axes = (1,) if largest else ()
    assert judged(array, axes, constraint, tolerance) == (violating, beyond - violating)


@pytest.mark.parametrize("exponent", [-1070, -600, -300, 300, 500, 1015])
def test_float64_is_exact_over_its_whole_range(exponent):
    """Squares that float64 cannot hold are compared all the same."""
    unit = np.array([[3.0, 4.0, 0.0]]) * 2.0**exponent
    five = float(np.ldexp(5.0, exponent))
    assert judged(unit, (1,), MaxNorm(five), 0.0) == (0, 0)
    assert judged(unit, (1,), MaxNorm(float(np.nextafter(five, 0))), 0.0) == (1, 0)
    unit[0, 2] = 5e-324
    assert judged(unit, (1,), MaxNorm(five), 0.0) == (1, 0)


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
def test_units_of_many_boxes_are_summed_box_by_box(axes):
    """One weight too many in 2.6 million, by the last bit of a float64 norm and far less."""
    array = np.full((1300, 2000), 2.0**-6, np.float64)
    n = math.prod(array.shape[axis] for axis in axes)
    exact = MaxNorm(math.sqrt(n) * 2.0**-6)
    wanted = Fraction(exact.max_value) ** 2 < Fraction(n, 2**12)
    units = array.size // n
    assert judged(array, axes, exact, 0.0) == (units * wanted, 0)
    array[-1, -1] = larger = np.nextafter(2.0**-6, 1)
    squares = Fraction(n - 1, 2**12) + Fraction(larger) ** 2
    outside = squares > Fraction(exact.max_value) ** 2
    assert judged(array, axes, exact, 0.0)[0] == (units - 1) * wanted + outside


@pytest.mark.parametrize(("weight", "outside"), [(1e-20, True), (0.0, False)])
def test_a_report_shows_a_violation_that_float64_cannot_see(weight, outside):
    """The norm of (1, 1e-20) is 1 in float64; what is shown lies beyond the bound all the same."""
    copy = InMemory(w=np.array([[1.0, weight]]))
    tensor = copy.tensors["w"]
    rule = Assignment(tensor, MaxNorm(1.0), (1,), "rule", Origin.SPEC, "why", 0.0)
    (result,) = judge(copy, [rule], Running(), Reporting())
    assert (result.measured_max or 0) > 1.0 if outside else result.measured_max == 1.0
    assert [unit.distance > 0 for unit in result.worst] == [True] * outside
