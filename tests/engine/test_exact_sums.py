"""Bounded sums of magnitudes, and simplexes: verdicts and copies against rational arithmetic."""

from __future__ import annotations

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptclamp.constraints.sets.l1 import MaxL1Norm, Simplex
from ckptclamp.constraints.sets.sparsity import MaxNonZero, Sparsity
from ckptclamp.engine.project.fitting import fitted
from ckptclamp.engine.project.transform import Rounding, rounded
from ckptclamp.engine.project.whole_units import project_whole_units
from tests.auditing.test_exact_verdicts import judged
from tests.engine.raw import InMemory
from tests.engine.test_nearest import FLOATS, INTEGERS, matrices, numpy_dtype, rms, wide

MEMORY = 1 << 26
SIGNED = [name for name in FLOATS if name != "float8_e8m0fnu"]
TOLERANCES = st.sampled_from([0.0, 2e-6, 0.0039, 0.1])


def exactly(row):
    """The stored weights of a unit as rationals."""
    whole = row.dtype.kind in "iu"
    return [Fraction(int(x) if whole else float(x)) for x in row]


def projected(array, constraint, tolerance=0.0):
    """The weights after a projection, which a second one must not change; and what it did."""
    copy = InMemory(w=array)
    tensor = copy.tensors["w"]
    done = project_whole_units(copy, tensor, (1,), constraint, tolerance, memory=MEMORY)
    first = copy.arrays["w"].copy()
    again = project_whole_units(copy, tensor, (1,), constraint, tolerance, memory=MEMORY)
    if not done.left:
        assert again.changed == 0
        assert first.tobytes() == copy.arrays["w"].tobytes()
    return first, done


@settings(max_examples=300, deadline=None)
@given(matrices([*FLOATS, *INTEGERS[:-1]]), st.floats(0.01, 1.5), TOLERANCES)
def test_a_sum_of_magnitudes_is_kept_exactly(array, share, tolerance):
    """Whatever the dtype but int64, of which not all numbers are a float64; and bytes are kept."""
    bound = float(share * float(sum(map(abs, exactly(array[0])))))
    if array.dtype.name == "float8_e8m0fnu":
        bound = max(bound, 1e-30)  # it has no zero to go to
    limit = Fraction(bound) * (1 + Fraction(tolerance))
    after, done = projected(array, MaxL1Norm(bound), tolerance)
    assert done.left == 0
    for before, unit in zip(array, after, strict=True):
        if sum(map(abs, exactly(before))) <= limit:
            assert unit.tobytes() == before.tobytes()
        else:
            assert sum(map(abs, exactly(unit))) <= Fraction(bound)


@settings(max_examples=200, deadline=None)
@given(matrices(FLOATS), st.integers(-40, 40), TOLERANCES)
def test_a_verdict_on_a_sum_of_magnitudes_is_the_true_one(array, ulps, tolerance):
    """At bounds within some units in the last place of what float64 would measure."""
    measured = float(np.abs(array[0].astype(np.float64)).sum())
    bound = max(0.0, measured / (1 + tolerance) * (1 + ulps * 2.0**-53))
    sums = [sum(map(abs, exactly(row))) for row in array]
    outside = sum(s > Fraction(bound) * (1 + Fraction(tolerance)) for s in sums)
    within = sum(s > Fraction(bound) for s in sums) - outside
    assert judged(array, (1,), MaxL1Norm(bound), tolerance) == (outside, within)


@settings(max_examples=200, deadline=None)
@given(matrices(SIGNED), st.integers(-40, 40), TOLERANCES)
def test_a_verdict_on_a_simplex_is_the_true_one(array, ulps, tolerance):
    """Of sums above and below, and of negative weights."""
    array = np.where(
        np.arange(len(array))[:, None] % 4 < 3, np.abs(array.astype(float)), -1
    ).astype(array.dtype)
    total = float(array[0].astype(np.float64).sum()) * (1 + ulps * 2.0**-53)
    if not total > 0:
        return
    allowed, exact = Fraction(tolerance) * Fraction(total), [exactly(row) for row in array]
    outside = sum(min(r) < 0 or abs(sum(r) - Fraction(total)) > allowed for r in exact)
    assert judged(array, (1,), Simplex(total), tolerance)[0] == outside


@settings(max_examples=200, deadline=None)
@given(matrices(["float64", "float32", "float16", "bfloat16"]), st.floats(0.1, 10))
def test_a_simplex_is_met_exactly_by_units_of_many_weights(array, total):
    """The finest weights take what the others leave; where they are few, a unit may be left."""
    total = float(np.float64(total).astype(array.dtype))
    after, done = projected(array, Simplex(total))
    good = 0
    for unit in after:
        conforms = sum(exactly(unit)) == Fraction(total) and min(exactly(unit)) >= 0
        assert conforms or np.count_nonzero(unit > 0) < 20 or len(np.unique(unit)) < 20
        good += conforms
    assert done.left == len(array) - good


def test_the_finest_weight_may_give_all_that_it_has():
    """What is left of the sum may be as much as the weight that is to take it."""
    magnitudes = np.array([[4.03125, 0.0361328125, 2.0**-16]])
    row = magnitudes.astype(numpy_dtype("bfloat16"))
    total = float(magnitudes[0, :2].sum())
    assert fitted(magnitudes, row.dtype, (total, total)).tolist() == [[4.03125, 0.0361328125, 0.0]]


@pytest.mark.parametrize("name", ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn"])
@pytest.mark.parametrize("constraint", [MaxL1Norm(90.0), Simplex(50.0)], ids=str)
def test_sums_cost_little_distance(name, constraint):
    """Within 1.1 times of rounding the projection to the nearest, which does not conform.

    In float64 nothing tells which weights of a simplex were rounded up: 1.2.
    """
    array = np.random.default_rng(7).standard_normal((60, 200)).astype(numpy_dtype(name))
    after, _ = projected(array, constraint, 0.06)
    exact = true_projection(array, constraint)
    plain = rounded(exact.astype(np.float64), array.dtype, Rounding.NEAREST)
    distances = [np.sqrt(((wide(x) - exact) ** 2).sum(axis=1)) for x in (after, plain)]
    most = 1.2 if name == "float64" and not constraint.one_sided else 1.1
    assert rms(distances[0]) <= most * rms(distances[1])


def true_projection(array, constraint):
    """By thresholds that rationals tell, in more digits than float64 has."""
    rows = []
    for row in array:
        values = exactly(row)
        signed = isinstance(constraint, MaxL1Norm)
        sizes = [abs(v) for v in values] if signed else values
        total = Fraction(constraint.max_value if signed else constraint.total)
        falling, running, threshold = sorted(sizes, reverse=True), Fraction(0), Fraction(0)
        for count, value in enumerate(falling, 1):
            running += value
            if value * count > running - total:
                threshold = (running - total) / count
        if signed and sum(sizes) <= total:
            threshold = Fraction(0)
        near = [
            max(s - threshold, Fraction(0)) * (-1 if v < 0 else 1)
            for s, v in zip(sizes, values, strict=True)
        ]
        high = np.array([float(v) for v in near])
        low = np.array([float(v - Fraction(h)) for v, h in zip(near, high.tolist(), strict=True)])
        rows.append(wide(high) + wide(low))
    return np.array(rows)


@settings(max_examples=100, deadline=None)
@given(matrices(FLOATS + INTEGERS), st.integers(0, 6))
def test_counts_are_exact(array, most):
    """No rounding enters a count, and no tolerance forgives a weight too many."""
    if array.dtype.name == "float8_e8m0fnu":
        return  # it has no zero
    for constraint, width in ((MaxNonZero(most), array.shape[1]), (Sparsity(most % 4, 4), 4)):
        after, done = projected(array, constraint, 0.1)
        assert done.left == 0
        for row in after:
            groups = [row[i : i + width] for i in range(0, len(row), width)]
            assert all(np.count_nonzero(g) <= constraint.max_nonzero for g in groups)


def test_equal_steps_meet_a_sum_that_float64_adds_up_wrongly():
    """0.1 ten times is more than 1 in exact arithmetic, and 1 in float64."""
    array = np.full((1, 10), 0.1)
    assert float(array.sum()) == 1 < sum(exactly(array[0]))
    assert judged(array, (1,), MaxL1Norm(1.0), 0.0) == (1, 0)
    after, done = projected(array, MaxL1Norm(1.0))
    assert (done.changed, done.left) == (1, 0)
    assert sum(exactly(after[0])) == 1
    assert np.count_nonzero(after != array) == 4


def test_a_unit_of_narrow_weights_is_rounded_the_other_way_but_for_few():
    """As few weights step as it takes."""
    array = np.full((1, 100), 1.0).astype(ml_dtypes.float8_e4m3fn)
    after, _ = projected(array, MaxL1Norm(92.0))
    values, counts = np.unique(after.astype(float), return_counts=True)
    assert values.tolist() == [0.875, 0.9375]
    assert counts.tolist() == [28, 72]
