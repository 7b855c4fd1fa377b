"""Norm constraints: what they accept, where they send a unit, and what they refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ckptclamp.constraints.base import Statistic, UnitStatistics
from ckptclamp.constraints.sets.norms import MaxNorm, MinMaxNorm, UnitNorm
from ckptclamp.errors import UsageError

WEIGHTS = st.floats(-1e3, 1e3, allow_subnormal=False)
UNITS = arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 5)), elements=WEIGHTS)
# Far from subnormal numbers, which have no relative precision to be exact in.
BOUNDS = st.just(0.0) | st.floats(1e-100, 1e3)
CONSTRAINTS = st.one_of(
    BOUNDS.map(MaxNorm),
    st.tuples(BOUNDS, BOUNDS).map(lambda b: MinMaxNorm(min(b), max(b))),
    st.just(UnitNorm()),
)


def norms(units):
    return np.asarray([math.hypot(*row) for row in units])


@given(CONSTRAINTS, UNITS)
def test_projection_is_in_the_set(statistics, projected, constraint, units):
    """What `project` makes conforms up to rounding, unless it was named as unmendable."""
    lost = constraint.unmendable(statistics(units))
    after = constraint.judge(statistics(projected(constraint, units)))
    assert np.all(~after.violates(1e-14) | lost)


@given(CONSTRAINTS, UNITS)
def test_identity_inside(statistics, projected, constraint, units):
    """A unit that conforms keeps every bit; there is no epsilon in the projection."""
    inside = ~constraint.judge(statistics(units)).violates(0.0)
    assert np.array_equal(projected(constraint, units)[inside], units[inside])


@given(CONSTRAINTS, UNITS)
def test_projecting_twice_changes_nothing_more(projected, constraint, units):
    """The projection is idempotent up to one rounding."""
    once = projected(constraint, units)
    np.testing.assert_allclose(projected(constraint, once), once, rtol=1e-14, atol=0)


@given(CONSTRAINTS, UNITS, st.integers(0, 2**32 - 1))
def test_no_point_of_the_set_is_nearer(statistics, projected, constraint, units, seed):
    """Optimality: no other point of the set lies nearer to the unit than its projection."""
    lost = constraint.unmendable(statistics(units))
    rivals = projected(constraint, np.random.default_rng(seed).normal(0, 10, units.shape))
    before, after = norms(units - projected(constraint, units)), norms(units - rivals)
    assert np.all((before <= after * (1 + 1e-12) + 1e-12) | lost)


@given(CONSTRAINTS, UNITS)
def test_change_is_normal_to_the_set(projected, constraint, units):
    """Karush-Kuhn-Tucker: the step is a non-negative multiple of the unit, or of its opposite."""
    moved = projected(constraint, units)
    along = np.einsum("ij,ij->i", units, moved)
    np.testing.assert_allclose(along, norms(units) * norms(moved), rtol=1e-9, atol=1e-12)


@given(CONSTRAINTS, UNITS)
def test_distance_is_how_far_the_projection_moves(statistics, projected, constraint, units):
    """The reported distance is the Euclidean distance to the set."""
    judged = constraint.judge(statistics(units))
    fixable = ~constraint.unmendable(statistics(units))
    moved = norms(units - projected(constraint, units))
    np.testing.assert_allclose(moved[fixable], judged.distance[fixable], rtol=1e-9, atol=1e-9)


@given(CONSTRAINTS, UNITS)
def test_judgement_agrees_with_the_interval(statistics, constraint, units):
    """At tolerance 0 a unit violates exactly when its norm is outside `interval`."""
    low, high = constraint.interval()
    judged = constraint.judge(statistics(units))
    outside = (judged.measured < (low or 0)) | (
        judged.measured > (math.inf if high is None else high)
    )
    assert np.array_equal(judged.violates(0.0), outside)


@pytest.mark.parametrize(
    "constraint", [MaxNorm(2), MinMaxNorm(0, 1), UnitNorm(), MaxNorm(math.inf)]
)
def test_nan_norm_violates(constraint):
    """A norm that is not a number compares false, so it must never look like a pass."""
    stats = UnitStatistics(2, {Statistic.NORM: np.array([math.nan])}, np.array([1]))
    assert constraint.judge(stats).violates(1e9).all()


@pytest.mark.parametrize("constraint", [UnitNorm(), MinMaxNorm(0.5, 1)])
def test_zero_unit_is_unmendable_and_stays(statistics, projected, constraint):
    """A zero vector has no direction to go; it is named, and not turned into NaN."""
    zero = np.zeros((1, 3))
    assert constraint.unmendable(statistics(zero)).all()
    assert constraint.judge(statistics(zero)).violates(0.0).all()
    assert np.array_equal(projected(constraint, zero), zero)


def test_zero_unit_conforms_to_a_maximum(statistics):
    """Zero lies in every ball, also in the one of radius 0."""
    stats = statistics(np.zeros((1, 3)))
    assert not MaxNorm(0).judge(stats).violates(0.0).any()
    assert not MaxNorm(0).unmendable(stats).any()


def test_maximum_of_zero_empties_a_unit(projected):
    """The ball of radius 0 holds only 0."""
    assert np.array_equal(projected(MaxNorm(0), [[3.0, 4.0]]), [[0.0, 0.0]])


def test_infinite_maximum_accepts_every_finite_unit(statistics, projected):
    """No bound is no bound, at any tolerance, and changes nothing."""
    units = np.array([[1e300, -1e300], [0.0, 1.0]])
    assert not MaxNorm(math.inf).judge(statistics(units)).violates(0.0).any()
    assert np.array_equal(projected(MaxNorm(math.inf), units), units)


@pytest.mark.parametrize("magnitude", [1e-300, 1e-30, 1e19, 1e154, 1e300])
def test_no_overflow_or_underflow(projected, magnitude):
    """A squared weight may leave the range of float64; the projection does not square."""
    (unit,) = projected(UnitNorm(), [[magnitude, -magnitude]])
    assert unit == pytest.approx([math.sqrt(0.5), -math.sqrt(0.5)], rel=1e-15)


def test_norm_beyond_float64_is_unmendable(projected, statistics):
    """Where the norm itself overflows the unit is left alone and named, not set to zero."""
    huge = np.array([[1.7e308, 1.7e308]])
    assert MaxNorm(2).unmendable(statistics(huge)).all()
    assert MaxNorm(2).judge(statistics(huge)).violates(1.0).all()
    assert np.array_equal(projected(MaxNorm(2), huge), huge)


def test_tolerance_is_relative_to_the_bound(statistics):
    """2.002 is one part in a thousand over a maximum of 2."""
    judged = MaxNorm(2).judge(statistics([[2.002]]))
    assert judged.violates(0.9e-3).all()
    assert not judged.violates(1.1e-3).any()
    assert judged.excess == pytest.approx([1e-3])


def test_annulus_reports_the_bound_that_is_nearer(statistics):
    """A unit that is too short is compared with the minimum, one too long with the maximum."""
    judged = MinMaxNorm(0.5, 1.0).judge(statistics([[0.1], [3.0]]))
    assert judged.bound.tolist() == [0.5, 1.0]
    assert judged.distance == pytest.approx([0.4, 2.0])


def test_rate_is_no_part_of_the_set(statistics, projected):
    """A rate below 1 is a training schedule: judged against the interval, projected all the way."""
    soft, hard = MinMaxNorm(0.5, 1.0, rate=0.25), MinMaxNorm(0.5, 1.0)
    units = [[3.0, 4.0], [0.1, 0.0]]
    assert soft.judge(statistics(units)).violates(0.0).all()
    assert np.array_equal(projected(soft, units), projected(hard, units))


@pytest.mark.parametrize(
    ("constraint", "expected"),
    [
        (MaxNorm(2), lambda n: np.clip(n, 0, 2) / (1e-7 + n)),
        (UnitNorm(), lambda n: 1 / (1e-7 + n)),
        (
            MinMaxNorm(0.5, 1, rate=0.25),
            lambda n: (0.25 * np.clip(n, 0.5, 1) + 0.75 * n) / (1e-7 + n),
        ),
    ],
)
def test_keras_formula_rewrites_every_unit(projected, constraint, expected):
    """Keras' own formula, with its epsilon, of conforming units too, and finite for a zero unit."""
    units = np.array([[3.0, 4.0], [0.6, 0.0], [0.0, 0.0]])
    wanted = units * expected(norms(units))[:, None]
    np.testing.assert_allclose(projected(constraint, units, "project_keras"), wanted, rtol=1e-15)


@given(BOUNDS, UNITS)
def test_sphere_and_thin_annulus_agree(statistics, projected, radius, units):
    """``min = max`` is a sphere: only there can rounding inward not be relied on."""
    assume(radius > 0)
    sphere = MinMaxNorm(radius, radius)
    assert not sphere.one_sided
    assert MinMaxNorm(radius / 2, radius).one_sided
    lost = sphere.unmendable(statistics(units))
    after = norms(projected(sphere, units))
    np.testing.assert_allclose(after[~lost], radius, rtol=1e-14)


@pytest.mark.parametrize("bad", [None, True, "2", math.nan, -1, -math.inf, 1j, [2], 10**400])
def test_bad_bounds_are_refused(bad):
    """What cannot bound a norm is refused with the argument's name, and never guessed at."""
    for make in (MaxNorm, lambda value: MinMaxNorm(0, value), lambda value: MinMaxNorm(value, 1)):
        with pytest.raises(UsageError, match="_value"):
            make(bad)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"min_value": 2, "max_value": 1}, "greater than"),
        ({"rate": 1.5}, "rate"),
        ({"rate": math.nan}, "rate"),
        ({"min_value": math.inf, "max_value": math.inf}, "finite"),
    ],
)
def test_empty_annulus_is_refused(arguments, message):
    """An interval that holds no norm, or a rate that is none, is an error and not a constraint."""
    with pytest.raises(UsageError, match=message):
        MinMaxNorm(**arguments)


@given(CONSTRAINTS)
def test_config_round_trips(constraint):
    """`from_config` makes what `get_config` described, as in Keras."""
    assert type(constraint).from_config(constraint.get_config()) == constraint


def test_numpy_scalars_are_numbers():
    """Bounds that come out of NumPy are plain floats afterwards, ready for JSON."""
    assert type(MaxNorm.from_config({"max_value": np.float32(2)}).max_value) is float


def test_str_is_what_a_person_would_write():
    """Reports show the constraint as it would be written, with every digit that counts."""
    assert str(MaxNorm(2)) == "MaxNorm(max_value=2)"
    assert str(MaxNorm(2.00000025)) == "MaxNorm(max_value=2.00000025)"
    assert str(UnitNorm()) == "UnitNorm()"
