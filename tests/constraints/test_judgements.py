"""Exact judgements, case by case: what is measured, against which bound, how far outside."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from ckptclamp.checkpoints.dtypes import DTYPES
from ckptclamp.constraints.base import Constraint, Judgement, Transform
from ckptclamp.constraints.sets.linear import Clip, NonNeg
from ckptclamp.constraints.sets.norms import MaxNorm, MinMaxNorm, UnitNorm
from ckptclamp.constraints.tolerance import KERAS_EPSILON
from ckptclamp.errors import UsageError

INF = math.inf


def given(constraint: Any, *arguments: object) -> Constraint:
    """The constraint with arguments that a type checker would not let pass."""
    made: Constraint = constraint(*arguments)
    return made


@pytest.mark.parametrize(
    ("constraint", "unit", "expected"),
    [
        (NonNeg(), [0.0], (0.0, 0.0, 0.0, 0.0)),
        (NonNeg(), [-0.5], (-0.5, 0.0, 0.5, 0.0)),
        (Clip(-2, 4), [-2.0], (-2.0, -2.0, 0.0, 2.0)),
        (Clip(-2, 4), [4.0], (4.0, 4.0, 0.0, 4.0)),
        (Clip(-2, 4), [-3.0], (-3.0, -2.0, 1.0, 2.0)),
        (Clip(-2, 4), [7.0], (7.0, 4.0, 3.0, 4.0)),
        (Clip(-2, 4), [1.0], (1.0, 4.0, 0.0, 4.0)),
        (Clip(-2, 4), [-5.0, 5.0], (-5.0, -2.0, 3.0, 2.0)),
        (Clip(-2, 4), [-5.0, 9.0], (9.0, 4.0, 5.0, 4.0)),
        (Clip(-INF, 4), [1.0], (1.0, 4.0, 0.0, 4.0)),
        (Clip(-2, INF), [1.0], (1.0, -2.0, 0.0, 2.0)),
        (Clip(-INF, INF), [1.0], (1.0, INF, 0.0, 0.0)),
        (MaxNorm(2), [0.6, 0.8], (1.0, 2.0, 0.0, 2.0)),
        (MaxNorm(2), [2.0], (2.0, 2.0, 0.0, 2.0)),
        (MaxNorm(2), [3.0, 4.0], (5.0, 2.0, 3.0, 2.0)),
        (MaxNorm(INF), [3.0], (3.0, INF, 0.0, 0.0)),
        (MinMaxNorm(1, 3), [0.5], (0.5, 1.0, 0.5, 1.0)),
        (MinMaxNorm(1, 3), [1.0], (1.0, 1.0, 0.0, 1.0)),
        (MinMaxNorm(1, 3), [2.0], (2.0, 3.0, 0.0, 3.0)),
        (MinMaxNorm(1, 3), [5.0], (5.0, 3.0, 2.0, 3.0)),
        (MinMaxNorm(0, 3), [0.1], (0.1, 3.0, 0.0, 3.0)),
        (UnitNorm(), [0.25], (0.25, 1.0, 0.75, 1.0)),
    ],
)
def test_one_unit(statistics, constraint, unit, expected):
    """Measured, bound, distance and scale: every number that a verdict and a report rest on."""
    judged = constraint.judge(statistics([unit]))
    found = (judged.measured, judged.bound, judged.distance, judged.scale)
    assert [array.tolist() for array in found] == [[number] for number in expected]


def test_the_tolerance_itself_still_conforms():
    """A unit conforms up to and including ``tolerance * scale``; NaN never does."""
    judged = Judgement(
        *(np.array(a) for a in ([1.0] * 3, [8.0] * 3, [1.0, 1.5, np.nan], [8.0] * 3))
    )
    assert judged.violates(0.125).tolist() == [False, True, True]
    assert judged.violates(0.0).tolist() == [True, True, True]


def test_excess_is_relative_and_nothing_is_relative_to_0():
    """Inside it is 0 whatever the scale; outside of a bound of 0 it is infinite."""
    judged = Judgement(
        *(np.array(a) for a in ([1.0] * 3, [0.0] * 3, [0.0, 1.0, 3.0], [0.0, 0.0, 2.0]))
    )
    assert judged.excess.tolist() == [0.0, INF, 1.5]


@pytest.mark.parametrize(
    ("constraint", "interval"),
    [
        (NonNeg(), (0.0, None)),
        (Clip(-1, 2), (-1.0, 2.0)),
        (Clip(-INF, 2), (None, 2.0)),
        (Clip(-1, INF), (-1.0, None)),
        (MaxNorm(2), (None, 2.0)),
        (MaxNorm(INF), (None, None)),
        (MinMaxNorm(0.5, 2), (0.5, 2.0)),
        (UnitNorm(), (1.0, 1.0)),
    ],
)
def test_intervals_for_reports(constraint, interval):
    """An open end is ``None``, never infinity, which JSON cannot hold."""
    assert constraint.interval() == interval


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: given(Clip, "1", 2), "low must be a number"),
        (lambda: given(Clip, 1, "2"), "high must be a number"),
        (lambda: Clip(2, 1), r"low \(2\) is greater than high \(1\)"),
        (lambda: Clip(INF, INF), "low and high are both inf: no weight"),
        (lambda: Clip(-INF, -INF), "low and high are both -inf: no weight"),
        (lambda: MaxNorm(-1), "max_value bounds a norm"),
        (lambda: given(MaxNorm, None), "max_value must be a number"),
        (lambda: MinMaxNorm(-1, 1), "min_value bounds a norm"),
        (lambda: MinMaxNorm(0, -1), "max_value bounds a norm"),
        (lambda: MinMaxNorm(2, 1), r"min_value \(2\) is greater than max_value \(1\)"),
        (lambda: MinMaxNorm(INF, INF), "min_value must be finite"),
        (lambda: given(MinMaxNorm, 0, 1, "x"), "rate must be a number"),
        (lambda: MinMaxNorm(0, 1, 1.5), r"rate must lie in \[0, 1\], but is 1.5"),
        (lambda: MinMaxNorm(0, 1, -0.5), r"rate must lie in \[0, 1\], but is -0.5"),
    ],
)
def test_refusals_name_the_argument(make, words):
    """Whoever reads the message knows what to mend."""
    with pytest.raises(UsageError, match=words):
        make()


@pytest.mark.parametrize("rate", [0, 1])
def test_a_rate_of_0_or_1_is_one(rate):
    """Both ends are allowed."""
    assert MinMaxNorm(0, 1, rate).get_config() == {"min_value": 0.0, "max_value": 1.0, "rate": rate}


def test_arguments_are_kept_as_floats():
    """A spec's ``2`` and a config's ``2.0`` are one constraint."""
    for constraint in (Clip(-1, 2), MaxNorm(2), MinMaxNorm(1, 2)):
        config = constraint.get_config()
        assert all(type(value) is float for value in config.values())
        assert type(constraint).from_config(config) == constraint
    assert (MaxNorm().max_value, MinMaxNorm().get_config()) == (
        2.0,
        {"min_value": 0.0, "max_value": 1.0, "rate": 1.0},
    )
    assert NonNeg().get_config() == UnitNorm().get_config() == {}


@pytest.mark.parametrize(
    ("constraint", "one_sided"),
    [
        (NonNeg(), True),
        (Clip(-1, 1), True),
        (MaxNorm(2), True),
        (MinMaxNorm(1, 2), True),
        (MinMaxNorm(1, 1), False),
        (UnitNorm(), False),
    ],
)
def test_what_rounding_can_always_reach(constraint, one_sided):
    """A set without an inside cannot be reached exactly in every dtype."""
    assert constraint.one_sided is one_sided


def test_keras_formulas(statistics):
    """The formulas of Keras with its epsilon, of units inside and outside."""
    units = statistics([[0.5], [4.0]])
    norm = np.array([0.5, 4.0])
    expected = {
        MaxNorm(2): np.array([0.5, 2.0]),
        MinMaxNorm(1, 2): np.array([1.0, 2.0]),
        MinMaxNorm(1, 2, 0.25): 0.25 * np.array([1.0, 2.0]) + 0.75 * norm,
        UnitNorm(): np.ones(2),
    }
    for constraint, desired in expected.items():
        transform = constraint.project_keras(units)
        assert isinstance(transform, Transform)
        np.testing.assert_array_equal(transform.scale, desired / (KERAS_EPSILON + norm))
        assert (transform.shift, transform.low, transform.high) == (0.0, -INF, INF)


@pytest.mark.parametrize("constraint", [NonNeg(), Clip(-1, 2)])
def test_clips_are_what_keras_does(statistics, constraint):
    """Where there is no formula of Keras' own, both projections are one."""
    expected = Transform(low=constraint.bounds()[0], high=constraint.bounds()[1])
    assert constraint.project_keras(statistics([[5.0]])) == expected
    assert constraint.project(statistics([[5.0]])) == expected


def test_units_that_nothing_can_mend(statistics):
    """A zero unit has no direction; one whose norm passes float64 has no factor."""
    units = statistics([[0.0], [1e308], [0.5]])
    assert MinMaxNorm(1, 2).unmendable(units).tolist() == [True, False, False]
    assert MaxNorm(2).unmendable(units).tolist() == [False, False, False]
    assert Clip(-1, 1).unmendable(units).tolist() == [False, False, False]
    assert np.asarray(MinMaxNorm(1, 2).project(units).scale)[0] == 1.0


def test_bounds_as_an_integer_dtype_holds_them():
    """Whole numbers inside; where none is, the bounds stay, and every weight violates."""
    integers = DTYPES["int8"]
    assert Clip(-1.5, 2.5).as_stored(integers) == Clip(-1, 2)
    assert Clip(1.0, 1.5).as_stored(integers) == Clip(1, 1)
    assert Clip(0.2, 0.8).as_stored(integers) == Clip(0.2, 0.8)
    assert Clip(-INF, INF).as_stored(integers) == Clip(-INF, INF)


def test_bounds_as_a_float_dtype_holds_them():
    """Each bound by itself; what would overflow, and what is no bound, stays."""
    half = DTYPES["float16"]
    assert Clip(0.1, 0.3).as_stored(half) == Clip(float(np.float16(0.1)), float(np.float16(0.3)))
    assert Clip(-1e6, 1e6).as_stored(half) == Clip(-1e6, 1e6)
    assert Clip(-INF, 0.3).as_stored(half) == Clip(-INF, float(np.float16(0.3)))
    with np.errstate(all="raise"):
        assert Clip(1e-30, 1e30).as_stored(half) == Clip(0, 1e30)


def test_defaults_of_a_constraint_of_ones_own(statistics):
    """What a subclass need not say."""

    class Own(Constraint):
        """Allows everything."""

        def judge(self, statistics):
            """Nothing is outside."""
            zero = np.zeros(len(statistics))
            return Judgement(zero, zero, zero, zero)

        def project(self, statistics):
            """Half of everything."""
            return Transform(scale=np.full(len(statistics), 0.5))

        def get_config(self):
            """No arguments."""
            return {}

    units = statistics([[1.0], [2.0]])
    own = Own.from_config({})
    transform = own.project_keras(units)
    assert isinstance(transform, Transform)
    assert np.asarray(transform.scale).tolist() == [0.5, 0.5]
    assert own.unmendable(units).tolist() == [False, False]
    assert own.interval() == (None, None)
    assert own.as_stored(DTYPES["int8"]) is own
    with pytest.raises(NotImplementedError):
        own.bounds()
