"""Sets of other packages: signs by row, orders on grids and between rows, bounded sums."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ckptclamp.constraints.sets.orders import BoundedSums, Monotonic, PartialOrder, RowSigns
from ckptclamp.errors import UsageError

SIZES = (2, 3, 2)
PAIRS = ((0, 1), (1, 3), (2, 3), (4, 0))
NUMBERS = st.floats(-100, 100, width=32)


def kernels(rows):
    return arrays.arrays(np.float32, (rows, 2), elements=NUMBERS)


def below(directions):
    """Every pair of vertices of which the first must not be greater, by their definition."""
    vertices = list(itertools.product(*map(range, SIZES)))
    for one, other in itertools.product(vertices, vertices):
        steps = [b - a for a, b in zip(one, other, strict=True)]
        if any(steps) and all(
            step * direction > 0 if direction else step == 0
            for step, direction in zip(steps, directions, strict=True)
            if step
        ):
            yield vertices.index(one), vertices.index(other)


def worst_inversion(kernel, pairs):
    wide = kernel.astype(np.float64)
    return max((float((wide[one] - wide[other]).max()) for one, other in pairs), default=0.0)


@given(kernels(math.prod(SIZES)), st.tuples(*[st.sampled_from([-1, 0, 1])] * 3))
def test_a_monotone_kernel_is_the_nearest_one(kernel, directions):
    """No monotone kernel could be nearer than half the worst inversion, and this one is that near."""
    pairs = list(below(directions))
    nearest = Monotonic(SIZES, directions).apply(kernel)
    assert worst_inversion(nearest, pairs) <= 0
    moved = float(np.abs(nearest - kernel).max())
    assert moved == pytest.approx(max(worst_inversion(kernel, pairs), 0.0) / 2, rel=1e-12, abs=0)
    np.testing.assert_array_equal(Monotonic(SIZES, directions).apply(nearest), nearest)


@given(kernels(5))
def test_rows_in_a_partial_order(kernel):
    """As a grid's vertices, and rows that no pair names stay as they are."""
    pairs = [(0, 1), (1, 3), (2, 3), (4, 0), (0, 3), (4, 1), (4, 3)]
    nearest = PartialOrder(PAIRS).apply(kernel)
    assert worst_inversion(nearest, pairs) <= 0
    moved = float(np.abs(nearest - kernel).max())
    assert moved == pytest.approx(max(worst_inversion(kernel, pairs), 0.0) / 2, rel=1e-12, abs=0)
    np.testing.assert_array_equal(PartialOrder(((0, 1),)).apply(kernel)[2:], kernel[2:])


@given(kernels(3))
def test_signs_by_row(kernel):
    """Only what has the wrong sign moves, to 0."""
    nearest = RowSigns((1, 0, -1)).apply(kernel)
    np.testing.assert_array_equal(nearest[0], np.maximum(kernel[0], 0))
    np.testing.assert_array_equal(nearest[1], kernel[1])
    np.testing.assert_array_equal(nearest[2], np.minimum(kernel[2], 0))


@given(kernels(4), NUMBERS, st.floats(0, 10))
def test_sums_within_bounds(kernel, low, width):
    """A kernel moves if and only if a value lies outside, and then every value is allowed."""
    bounded = BoundedSums(low, low + width)
    values = np.cumsum(kernel.astype(np.float64), axis=0)
    inside = bool(((values >= low) & (values <= low + width)).all())
    moved = bounded.apply(kernel)
    assert np.array_equal(moved, kernel) == inside
    allowed = np.cumsum(moved, axis=0)
    assert allowed.min() >= low - 1e-9
    assert allowed.max() <= low + width + 1e-9


def test_ends_that_are_given():
    """The first value and the last may be clamped."""
    kernel = np.array([[0.25], [0.5], [0.125]], np.float32)
    assert BoundedSums(0, 1, first=0.25, last=0.875).apply(kernel).tolist() == kernel.tolist()
    moved = BoundedSums(0, 1, first=0.0, last=1.0).apply(kernel)
    assert np.cumsum(moved).tolist() == [0, 0.75, 1]
    assert str(BoundedSums(0, 1)) == "BoundedSums(low=0, high=1)"


@pytest.mark.parametrize(
    ("constraint", "shape"),
    [
        (RowSigns((1, 0)), (3, 1)),
        (Monotonic((2, 2), (1, 0)), (5, 1)),
        (Monotonic((2, 2), (1, 0)), (4,)),
        (PartialOrder(((0, 4),)), (4, 1)),
        (PartialOrder(((-1, 0),)), (4, 1)),
        (BoundedSums(0, 1), (2, 2, 2)),
    ],
)
def test_shapes_that_cannot_be_meant(constraint, shape):
    """A kernel of other rows is no kernel of this layer."""
    with pytest.raises(UsageError):
        constraint.check_shape(shape)


def test_orders_that_make_no_sense():
    """A row before itself, no value between the bounds, a bound that is none."""
    with pytest.raises(UsageError, match="before itself"):
        PartialOrder(((0, 1), (1, 0)))
    with pytest.raises(UsageError, match="greater"):
        BoundedSums(1, 0)
    with pytest.raises(UsageError, match="number"):
        BoundedSums(math.nan, 0)
