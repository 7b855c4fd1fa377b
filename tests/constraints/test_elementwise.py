"""Constraints on single weights: intervals, and the bounds that a dtype can hold."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ckptclamp.checkpoints.dtypes import DTYPES, Kind
from ckptclamp.constraints.sets.linear import Clip, NonNeg
from ckptclamp.errors import UsageError

NUMBERS = st.floats(-1e6, 1e6)
WEIGHTS = arrays(np.float64, st.tuples(st.integers(1, 8), st.just(1)), elements=NUMBERS)
CONSTRAINTS = st.one_of(
    st.just(NonNeg()),
    st.tuples(NUMBERS, NUMBERS).map(lambda b: Clip(min(b), max(b))),
    NUMBERS.map(lambda b: Clip(b, math.inf)),
)


@given(CONSTRAINTS, WEIGHTS)
def test_projection_is_the_nearest_number_of_the_interval(projected, constraint, weights):
    """In one dimension: inside nothing moves, outside the nearer end is reached exactly."""
    low, high = constraint.bounds()
    expected = [[low if w < low else high if w > high else w] for (w,) in weights]
    assert projected(constraint, weights).tolist() == expected


@given(CONSTRAINTS, WEIGHTS)
def test_judgement_agrees_with_the_bounds(statistics, constraint, weights):
    """At tolerance 0 a weight violates exactly when it lies outside the closed interval."""
    low, high = constraint.bounds()
    judged = constraint.judge(statistics(weights))
    assert judged.violates(0.0).tolist() == [not low <= w <= high for (w,) in weights]
    assert judged.measured.tolist() == weights[:, 0].tolist()


@given(CONSTRAINTS, WEIGHTS)
def test_distance_is_how_far_the_projection_moves(statistics, projected, constraint, weights):
    """The reported distance is the distance to the interval."""
    moved = np.abs(weights - projected(constraint, weights))[:, 0]
    np.testing.assert_allclose(constraint.judge(statistics(weights)).distance, moved, rtol=1e-15)


@pytest.mark.parametrize("constraint", [NonNeg(), Clip(-1, 1), Clip(-math.inf, 1)])
def test_nan_weight_violates(statistics, constraint):
    """NaN lies in no interval, at any tolerance."""
    assert constraint.judge(statistics([[math.nan]])).violates(1e9).all()


def test_nothing_is_near_zero(statistics):
    """A bound of 0 gives a tolerance nothing to be relative to: -1e-30 is negative."""
    assert NonNeg().judge(statistics([[-1e-30]])).violates(0.5).all()
    assert Clip(-1, 0).judge(statistics([[1e-30]])).violates(0.5).all()
    assert not NonNeg().judge(statistics([[-0.0]])).violates(0.0).any()


def test_tolerance_is_relative_to_the_bound(statistics):
    """1.001 is one part in a thousand over a bound of 1."""
    judged = Clip(-1, 1).judge(statistics([[1.001]]))
    assert judged.violates(0.9e-3).all()
    assert not judged.violates(1.1e-3).any()


@pytest.mark.parametrize("name", [n for n, d in DTYPES.items() if d.kind is Kind.FLOAT])
def test_bounds_are_compared_as_the_dtype_holds_them(name):
    """A weight that was clipped to 0.1 in its own dtype conforms, though it is not 0.1."""
    dtype = DTYPES[name]
    stored = float(np.asarray(0.1).astype(dtype.numpy))
    low, high = Clip(0.1, 1e3).as_stored(dtype).bounds()
    assert low == stored
    assert math.isfinite(high)


def test_bound_that_a_dtype_cannot_hold_stays():
    """1e6 is beyond float16: rounding it to infinity would lose the bound."""
    assert Clip(1e6, math.inf).as_stored(DTYPES["float16"]) == Clip(1e6, math.inf)
    assert NonNeg().as_stored(DTYPES["float16"]) == NonNeg()


def test_integers_keep_the_whole_numbers_inside():
    """No int8 lies between 1.2 and 1.8, so that interval stays and all weights violate."""
    assert Clip(-1.5, 2.5).as_stored(DTYPES["int8"]) == Clip(-1, 2)
    assert Clip(1.2, 1.8).as_stored(DTYPES["int8"]) == Clip(1.2, 1.8)
    assert Clip(-math.inf, 2.5).as_stored(DTYPES["int8"]).bounds() == (-math.inf, 2)


@pytest.mark.parametrize(
    "bounds",
    [(1, 0), (math.nan, 1), (0, None), (True, 1), ("0", 1), (math.inf, math.inf)],
)
def test_bad_bounds_are_refused(bounds):
    """An interval without a number in it is an error and not a constraint."""
    with pytest.raises(UsageError):
        Clip(*bounds)


@given(CONSTRAINTS)
def test_config_round_trips(constraint):
    """`from_config` makes what `get_config` described, as in Keras."""
    assert type(constraint).from_config(constraint.get_config()) == constraint


@given(CONSTRAINTS)
def test_interval_is_the_bounds_without_infinities(constraint):
    """Reports show an open end as none at all."""
    assert constraint.interval() == tuple(
        b if math.isfinite(b) else None for b in constraint.bounds()
    )
