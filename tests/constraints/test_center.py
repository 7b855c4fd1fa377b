"""CenterAround: the mean of each unit."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ckptclamp.constraints.sets.linear import CenterAround
from ckptclamp.errors import UsageError

WEIGHTS = st.floats(-1e3, 1e3, allow_subnormal=False)
UNITS = arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 5)), elements=WEIGHTS)
CONSTRAINTS = WEIGHTS.map(CenterAround)


@given(CONSTRAINTS, UNITS)
def test_projection_has_the_mean(projected, constraint, units):
    """The mean of each unit becomes the reference, up to rounding."""
    means = projected(constraint, units).mean(axis=1)
    np.testing.assert_allclose(means, constraint.ref_value, rtol=1e-12, atol=1e-12)


@given(CONSTRAINTS, UNITS)
def test_change_is_normal_to_the_hyperplane(projected, constraint, units):
    """Optimality: the step is the same for every weight of a unit, which is the normal's direction."""
    step = projected(constraint, units) - units
    np.testing.assert_allclose(step, step[:, :1] * np.ones_like(step), rtol=1e-9, atol=1e-9)


@given(CONSTRAINTS, UNITS)
def test_projection_conforms_to_the_judge(statistics, projected, constraint, units):
    """What the projection makes passes at a tolerance of a few roundings."""
    after = statistics(projected(constraint, units))
    assert not np.any(constraint.judge(after).distance > 1e-12 * (1 + np.abs(units).max()))


def test_tolerance_is_relative_to_the_magnitude(statistics):
    """A mean of 0 is judged against the size of the weights, or no rounded unit would pass."""
    judged = CenterAround().judge(statistics([[1.001, -1.0]]))
    assert judged.measured == pytest.approx([0.0005])
    assert judged.violates(4e-4).all()
    assert not judged.violates(6e-4).any()


def test_nan_mean_violates(statistics):
    """A mean that is not a number is outside, and its unit is left alone."""
    assert CenterAround().judge(statistics([[math.nan, 1.0]])).violates(1e9).all()


def test_sum_beyond_float64_is_unmendable(statistics, projected):
    """Where the sum overflows the unit is named and left alone."""
    huge = np.array([[1.7e308, 1.7e308]])
    assert CenterAround().unmendable(statistics(huge)).all()
    assert np.array_equal(projected(CenterAround(), huge), huge)


@pytest.mark.parametrize("bad", [None, True, "0", math.nan, math.inf])
def test_bad_reference_is_refused(bad):
    """A reference that no mean can have is an error and not a constraint."""
    with pytest.raises(UsageError, match="ref_value"):
        CenterAround(bad)


@given(CONSTRAINTS)
def test_config_round_trips(constraint):
    """`from_config` makes what `get_config` described, as in Keras."""
    assert CenterAround.from_config(constraint.get_config()) == constraint
