"""Zero units and short units: counted apart, told by name, and explained where that can be done."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ckptclamp.auditing.results import Verdict
from ckptclamp.auditing.verdicts import MOST_ZEROS
from ckptclamp.checkpoints.dtypes import DTYPES
from ckptclamp.constraints.base import Statistic, UnitStatistics
from ckptclamp.constraints.sets.linear import CenterAround, Clip, NonNeg
from ckptclamp.constraints.sets.norms import MaxNorm, MinMaxNorm, UnitNorm
from ckptclamp.constraints.tolerance import History
from ckptclamp.engine.measure.requests import Batch
from tests.auditing.test_tally import assignment, batch, tallied


def result_of(constraint, norms, **changes):
    """Judge these norms, of units along one axis."""
    of = assignment(constraint, shape=(3, len(norms)), **changes)
    return tallied(batch(norms, ((0, len(norms)),)), of=of)


def test_zero_vectors_are_told_by_name():
    """They violate, none of them can be mended, and the report says which they are."""
    result = result_of(UnitNorm(), [0.0, 1.0, 0.0, 0.0, 3.0])
    assert (result.verdict, result.violating, result.unmendable) == (Verdict.VIOLATION, 4, 3)
    assert (result.zero, result.zero_allowed) == (3, 0)
    assert result.zero_first == ((0,), (2,), (3,))
    assert [unit.zero for unit in result.worst] == [False, True, True, True]
    assert "zero_units: allow" in (result.hint or "")


def test_zero_vectors_that_are_allowed_are_counted_and_no_more():
    """They are in no count of violations, nor in the extremes of what was judged."""
    result = result_of(UnitNorm(), [0.0, 1.0, 0.0], allow_zero=True)
    assert (result.verdict, result.violating, result.within_tolerance) == (Verdict.PASS, 0, 0)
    assert (result.units, result.zero, result.zero_allowed) == (3, 0, 2)
    assert (result.measured_min, result.measured_max) == (1.0, 1.0)
    assert result.zero_first == ((0,), (2,))


def test_only_so_many_zero_vectors_are_listed():
    """A report stays small, whatever a tensor holds; the count is whole."""
    result = result_of(MinMaxNorm(0.5, 2.0), [0.0] * 1000)
    assert result.zero == 1000
    assert result.zero_first == tuple((i,) for i in range(MOST_ZEROS))


def test_a_zero_unit_that_conforms_is_no_matter():
    """A bound from above alone says nothing about zeros."""
    result = result_of(MaxNorm(1.0), [0.0, 0.5], allow_zero=True)
    assert (result.zero, result.zero_allowed, result.zero_first) == (0, 0, ())
    assert result.measured_min == 0.0


@pytest.mark.parametrize(
    ("values", "zero"),
    [
        ({Statistic.NORM: [0, 1, 0]}, [True, False, False]),
        ({Statistic.SUM: [0, 0, 0], Statistic.SUM_ABS: [0, 2, 0]}, [True, False, False]),
        ({Statistic.MOVE: [0, 0, 0], Statistic.MAX_ABS: [0, 2, 0]}, [True, False, False]),
        ({Statistic.MIN: [0, -1, 0], Statistic.MAX: [0, 0, 0]}, [True, False, False]),
        ({Statistic.MIN: [0, 0, 0]}, [False] * 3),
        ({Statistic.SUM: [0, 0, 0]}, [False] * 3),
    ],
)
def test_which_statistics_tell_zeros(values, zero):
    """A sum of zero is not a unit of zeros, and a unit that is not finite is none either."""
    arrays = {name: np.array(numbers, np.float64) for name, numbers in values.items()}
    statistics = UnitStatistics(3, arrays, np.array([0, 0, 1]))
    assert statistics.zero.tolist() == zero


@pytest.mark.parametrize("constraint", [Clip(0.5, 4.0), CenterAround(1.0), NonNeg()])
def test_every_kind_of_constraint_can_except_zeros(constraint):
    """What violates at zero is excepted; what does not has nothing to except."""
    statistics = {name: np.zeros(2) for name in constraint.needs}
    zeros = Batch(0, ((0, 2),), UnitStatistics(3, statistics, np.zeros(2, np.int64)))
    result = tallied(zeros, of=assignment(constraint, shape=(3, 2), allow_zero=True))
    assert (result.verdict, result.zero_allowed) == (
        Verdict.PASS,
        0 if constraint == NonNeg() else 2,
    )


@pytest.mark.parametrize(
    ("norms", "epsilon"),
    [
        ([0.05 - 1e-5, 0.05 - 0.9e-5, 0.06], 1e-5),
        ([0.05 - 1.4e-4, 0.05 - 0.8e-4, 0.0], 1e-4),
        ([0.05 - 1e-3], 1e-3),
        ([0.05 - 1e-2], None),
        ([0.05 - 2e-5], None),
        ([0.05 - 1e-5, 0.05 - 1.6e-5], None),
        ([0.05 - 1e-5, 0.05 - 5e-6], None),
        ([0.05 - 1e-5, 2.0 + 1e-5], None),
        ([0.05 - 1e-5, 2.1], None),
        ([2.1], None),
        ([0.0], None),
    ],
)
def test_a_raised_epsilon_shows_in_what_all_short_units_have_in_common(norms, epsilon):
    """One power of ten, on the lower side, for every unit that is not zero; or nothing is said."""
    of = assignment(MinMaxNorm(0.05, 2.0), tolerance=2e-6, history=History.TRAINED, shortfall=4e-6)
    kernel = replace(of.tensor, dtype=DTYPES["float32"], shape=(3, len(norms)))
    of = replace(of, tensor=kernel)
    result = tallied(batch(norms, ((0, len(norms)),)), of=of)
    assert result.violating
    assert result.epsilon == epsilon
    words = f"`epsilon: {epsilon or 0:g}`"
    assert (words in (result.hint or "")) == (epsilon is not None)


def test_a_stated_number_that_is_too_small_for_training_is_told():
    """At tolerance 0 real training violates a minimum, by the epsilon that is known."""
    result = result_of(MinMaxNorm(0.05, 2.0), [0.05 - 1e-7, 0.05 - 1.2e-7], tolerance=0.0)
    assert result.epsilon == 1e-7
    assert "tolerance: trained" in (result.hint or "")
    assert "epsilon: 1e-07" not in (result.hint or "")


def test_one_unit_that_is_farther_out_spoils_the_excuse():
    """What explains most of them explains nothing; zeros alone are no training in a narrow dtype."""
    result = result_of(MinMaxNorm(0.05, 2.0), [0.05 - 1e-7, 0.05 - 1e-3], tolerance=0.0)
    assert result.epsilon is None
    zeros = result_of(UnitNorm(), [0.0], tolerance=1e-5, history=History.CAST)
    assert "training in" not in (zeros.hint or "")


def test_only_norms_are_divided_by():
    """A mean, or a weight, that lies short of its bound was not left there by an epsilon."""
    short = {Statistic.SUM: np.array([3 - 3e-5]), Statistic.SUM_ABS: np.array([3 - 3e-5])}
    pieces = Batch(0, ((0, 1),), UnitStatistics(3, short, np.zeros(1, np.int64)))
    result = tallied(pieces, of=assignment(CenterAround(1.0), shape=(3, 1), tolerance=0.0))
    assert (result.violating, result.epsilon, result.hint) == (1, None, None)


def test_units_that_are_not_finite_are_explained_by_nothing():
    """No hint leads from a broken weight to a looser gate."""
    pieces = batch([0.05 - 1e-5, np.nan], ((0, 2),), nonfinite=[0, 1])
    result = tallied(pieces, of=assignment(MinMaxNorm(0.05, 2.0), shape=(3, 2), tolerance=0.0))
    assert (result.epsilon, result.hint) == (None, None)


@pytest.mark.parametrize(("norm", "told"), [(1.001, True), (1.002, False), (0.999, True)])
def test_what_training_would_leave_is_told_where_a_cast_is_assumed(norm, told):
    """Three roundoffs of float16 are 1.46e-3: nobody else than the user knows which it was."""
    result = result_of(UnitNorm(), [norm], tolerance=1e-5, history=History.CAST, shortfall=2e-7)
    assert ("training in float16" in (result.hint or "")) == told


def test_below_a_minimum_more_is_forgiven_than_above_a_maximum():
    """An epsilon only ever takes away."""
    below = result_of(UnitNorm(), [0.985], tolerance=0.01, shortfall=0.01)
    above = result_of(UnitNorm(), [1.015], tolerance=0.01, shortfall=0.01)
    assert (below.verdict, below.within_tolerance) == (Verdict.PASS, 1)
    assert (above.verdict, above.within_tolerance) == (Verdict.VIOLATION, 0)
