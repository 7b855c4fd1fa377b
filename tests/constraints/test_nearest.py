"""What a projection onto a set must be: in the set, at rest there, and nearer than any other point."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ckptclamp.checkpoints.dtypes import DTYPES
from ckptclamp.constraints.base import Statistic
from ckptclamp.constraints.sets.l1 import MaxL1Norm, Simplex
from ckptclamp.constraints.sets.linear import Finite, MaxLInfNorm
from ckptclamp.constraints.sets.norms import MinNorm
from ckptclamp.constraints.sets.sparsity import MaxNonZero, Sparsity
from ckptclamp.errors import UsageError

NUMBERS = st.floats(-100, 100, width=32, allow_subnormal=False)
WEIGHTS = arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 8)), elements=NUMBERS)
BOUNDS = st.floats(0.01, 10)


@given(WEIGHTS, BOUNDS, st.data())
def test_no_point_of_the_box_is_nearer(projected, statistics, weights, bound, data):
    """The variational inequality of a convex set: ⟨x - p, y - p⟩ ≤ 0 for every y of it."""
    point = projected(MaxLInfNorm(bound), weights)
    assert not MaxLInfNorm(bound).judge(statistics(point)).violates(0.0).any()
    other = data.draw(arrays(np.float64, weights.shape, elements=st.floats(-bound, bound)))
    assert ((weights - point) * (other - point)).sum(axis=1).max() <= 1e-9
    np.testing.assert_array_equal(projected(MaxLInfNorm(bound), point), point)


@given(WEIGHTS, BOUNDS, st.data())
def test_no_longer_vector_is_nearer(projected, statistics, weights, bound, data):
    """Outside of a ball the nearest point lies along the ray; only zero has none."""
    constraint = MinNorm(bound)
    point = projected(constraint, weights)
    measured = statistics(point)
    lost = constraint.unmendable(statistics(weights))
    assert lost.tolist() == (~weights.any(axis=1)).tolist()
    assert not (constraint.judge(measured).violates(1e-12) & ~lost).any()
    other = data.draw(arrays(np.float64, weights.shape, elements=st.floats(-200, 200)))
    far = (np.linalg.norm(other, axis=1) >= bound) & ~lost
    near = np.linalg.norm(weights - point, axis=1)[far]
    assert (near <= np.linalg.norm(weights - other, axis=1)[far] + 1e-9).all()


def test_a_bound_that_the_dtype_lacks():
    """0.1 is float16's own 0.1, and no whole number but 0 lies within it."""
    held = MaxLInfNorm(0.1).as_stored(DTYPES["float16"])
    assert held.max_value == float(np.float16(0.1))
    assert MaxLInfNorm(2.5).as_stored(DTYPES["int8"]).max_value == 2


def test_finite_moves_nothing(projected, statistics):
    """All of space is the set; only what is no number lies outside, at any tolerance."""
    weights = [[-3.0, 2.0], [0.0, 1e308]]
    assert projected(Finite(), weights).tolist() == weights
    judged = Finite().judge(statistics([[-3.0, 2.0], [0.0, np.inf], [np.nan, 1.0]]))
    assert judged.violates(1e9).tolist() == [False, True, True]
    assert judged.measured[0] == -3


@pytest.mark.parametrize("bad", [0, -1, np.inf])
def test_a_minimum_that_says_nothing(bad):
    """Every norm is at least 0, and none is infinite."""
    with pytest.raises(UsageError, match="min_value"):
        MinNorm(bad)


def threshold_by_bisection(rows, total):
    """The θ for which max(row - θ, 0) sums to `total`: that sum falls as θ grows."""
    low = rows.min(axis=1, keepdims=True) - total
    high = rows.max(axis=1, keepdims=True)
    for _ in range(200):
        middle = (low + high) / 2
        is_high = np.maximum(rows - middle, 0).sum(axis=1, keepdims=True) > total
        low, high = np.where(is_high, middle, low), np.where(is_high, high, middle)
    return high


@given(WEIGHTS, BOUNDS, st.data())
def test_no_point_of_the_l1_ball_is_nearer(statistics, weights, bound, data):
    """The variational inequality, and the threshold that bisection finds."""
    constraint = MaxL1Norm(bound)
    point = constraint.nearest(weights)
    assert not constraint.judge(statistics(point)).violates(1e-15).any()
    inside = np.abs(weights).sum(axis=1) <= bound
    np.testing.assert_allclose(point[inside], weights[inside], rtol=1e-15)
    other = data.draw(arrays(np.float64, weights.shape, elements=st.floats(-1, 1)))
    other *= bound / np.maximum(np.abs(other).sum(axis=1, keepdims=True), 1)
    assert ((weights - point) * (other - point)).sum(axis=1).max() <= 1e-9
    theta = np.where(inside[:, None], 0, threshold_by_bisection(np.abs(weights), bound))
    expected = np.sign(weights) * np.maximum(np.abs(weights) - theta, 0)
    np.testing.assert_allclose(point, expected, atol=1e-11)


@given(WEIGHTS, BOUNDS, st.data())
def test_no_point_of_the_simplex_is_nearer(statistics, weights, total, data):
    """The variational inequality, the threshold that bisection finds, and rest in the set."""
    constraint = Simplex(total)
    point = constraint.nearest(weights)
    assert not constraint.judge(statistics(point)).violates(1e-13).any()
    assert point.min() >= 0
    other = data.draw(arrays(np.float64, weights.shape, elements=st.floats(0.001, 1)))
    other *= total / other.sum(axis=1, keepdims=True)
    assert ((weights - point) * (other - point)).sum(axis=1).max() <= 1e-9
    expected = np.maximum(weights - threshold_by_bisection(weights, total), 0)
    np.testing.assert_allclose(point, expected, atol=1e-11)
    np.testing.assert_allclose(constraint.nearest(point), point, atol=1e-13)


def test_a_simplex_has_two_faces(statistics):
    """A negative weight is told before a sum that is off, and no tolerance forgives it."""
    judged = Simplex().judge(statistics([[0.5, 0.5], [1.5, -0.5], [0.5, 0.6], [1.0, -1e-30]]))
    assert judged.violates(0.0).tolist() == [False, True, True, True]
    assert judged.violates(0.2).tolist() == [False, True, False, True]
    assert judged.measured.tolist() == [1.0, -0.5, 1.1, -1e-30]
    assert judged.bound.tolist() == [1.0, 0.0, 1.0, 0.0]


@pytest.mark.parametrize("bad", [0, -1, np.inf])
def test_no_weights_sum_to_that(bad):
    """An empty set is refused where it is written."""
    with pytest.raises(UsageError, match="total"):
        Simplex(bad)


def test_sums_beyond_float64_are_left(statistics):
    """There is no threshold to find."""
    huge = statistics([[1.7e308, 1.7e308]])
    assert MaxL1Norm(1).unmendable(huge).all()
    assert Simplex().unmendable(huge).all()


def best_by_trying(row, count):
    """The least squared distance to any choice of `count` weights that may stay."""
    places = range(len(row))
    chosen = itertools.combinations(places, min(count, len(row)))
    return min(sum(row[i] ** 2 for i in places if i not in kept) for kept in chosen)


@given(WEIGHTS, st.integers(0, 5))
def test_no_choice_of_few_weights_is_nearer(statistics, weights, count):
    """Every choice is tried; what is kept keeps its bits."""
    constraint = MaxNonZero(count)
    point = constraint.nearest(weights)
    assert not constraint.judge(statistics(point)).violates(0.0).any()
    for row, near in zip(weights, point, strict=True):
        assert ((near == row) | (near == 0)).all()
        assert ((row - near) ** 2).sum() == pytest.approx(best_by_trying(row, count))


@given(WEIGHTS, st.integers(2, 4), st.data())
def test_groups_are_sets_of_their_own(weights, group, data):
    """n:m is "at most n" for each m in turn; what is left over at the end counts too."""
    count = data.draw(st.integers(0, group - 1))
    constraint = Sparsity(count, group)
    point = constraint.nearest(weights)
    assert constraint.measure(point)[Statistic.NONZERO].max() <= count
    for start in range(0, weights.shape[1], group):
        part = weights[:, start : start + group]
        expected = MaxNonZero(count).nearest(part)
        np.testing.assert_array_equal(point[:, start : start + group], expected)
        counted = np.count_nonzero(part, axis=1)
        assert (constraint.measure(weights)[Statistic.NONZERO] >= counted).all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MaxNonZero(-1), "max_nonzero must be a whole number from 0 up"),
        (lambda: Sparsity(1, 1), "group must be a whole number from 2 up"),
        (lambda: Sparsity(4, 4), "says nothing"),
        (lambda: Sparsity(1.5, 4), "max_nonzero must be a whole number"),  # type: ignore[arg-type]
        (lambda: Sparsity(True, 4), "max_nonzero must be a number"),
    ],
)
def test_counts_are_whole_and_say_something(make, words):
    """A gate that every model passes is a mistake in the spec."""
    with pytest.raises(UsageError, match=words):
        make()
