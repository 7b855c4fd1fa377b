"""From measurements to one result: every count, extreme and unit that a verdict rests on."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from ckptclamp.auditing.results import Result, Verdict, WorstUnit
from ckptclamp.auditing.verdicts import Tally
from ckptclamp.checkpoints.dtypes import DTYPES
from ckptclamp.checkpoints.tensor import Contiguous, Tensor
from ckptclamp.constraints.base import Statistic, UnitStatistics
from ckptclamp.constraints.sets.linear import NonNeg
from ckptclamp.constraints.sets.norms import MaxNorm, MinMaxNorm
from ckptclamp.engine.measure.requests import Batch, Failed, Screened
from ckptclamp.errors import Notice, Reason
from ckptclamp.plan import Assignment, Origin
from ckptclamp.plan.units import unit_words
from ckptclamp.spec.model import Severity

NAN = math.nan


def assignment(constraint=MaxNorm(2.0), shape=(3, 2, 4), axes=(0,), **changes) -> Assignment:  # noqa: B008 - immutable
    """One tensor under one rule; with these defaults it has 2 x 4 units of 3 weights."""
    tensor = Tensor("block/kernel", shape, DTYPES["float16"], Contiguous(0, 0))
    made = Assignment(tensor, constraint, axes, "rule", Origin.SPEC, "rule rule", 0.01)
    return replace(made, **changes)


def batch(norms, units, nonfinite=None, statistic=Statistic.NORM) -> Batch:
    """Units with these measurements."""
    counts = np.zeros(len(norms), np.int64) if nonfinite is None else np.asarray(nonfinite)
    values = {statistic: np.asarray(norms, np.float64)}
    return Batch(0, units, UnitStatistics(3, values, counts))


def tallied(*pieces, of: Assignment | None = None, **options) -> Result:
    """The result of these pieces."""
    tally = Tally(of or assignment(), **options)
    for piece in pieces:
        tally.add(piece)
    return tally.result()


FIRST = batch([1.0, 2.0, 2.01, 3.0], ((0, 1), (0, 4)))
SECOND = batch([0.5, NAN, 9.0, 2.5], ((1, 2), (0, 4)), nonfinite=[0, 2, 0, 0])


@pytest.mark.parametrize("order", [(FIRST, SECOND), (SECOND, FIRST)])
def test_counts_and_extremes(order):
    """Units outside, within the tolerance and not finite are counted apart; extremes are of finite units."""
    result = tallied(*order)
    assert result.verdict is Verdict.VIOLATION
    assert (result.units, result.violating, result.within_tolerance) == (8, 4, 1)
    assert (result.nonfinite, result.unmendable) == (1, 1)
    assert (result.measured_min, result.measured_max) == (0.5, 9.0)


def test_every_word_of_the_assignment_reaches_the_result():
    """A report names the rule, the place and the units that the plan named."""
    notice = Notice("code", "message")
    given = assignment(
        MinMaxNorm(0.5, 2.0),
        rule="bounded",
        origin=Origin.DECLARED,
        why="declared by dense",
        severity=Severity.WARNING,
        label="dense/kernel",
        location="layers[1]",
        notices=(notice,),
    )
    result = tallied(batch([1.0] * 8, ((0, 2), (0, 4))), of=given)
    assert result == Result(
        tensor="block/kernel",
        rule="bounded",
        constraint="MinMaxNorm(min_value=0.5, max_value=2, rate=1)",
        origin=Origin.DECLARED,
        verdict=Verdict.PASS,
        label="dense/kernel",
        shape=(3, 2, 4),
        dtype="float16",
        axes=(0,),
        unit_words=unit_words((3, 2, 4), (0,)),
        unit_size=3,
        location="layers[1]",
        why="declared by dense",
        severity=Severity.WARNING,
        tolerance=0.01,
        units=8,
        bound=(0.5, 2.0),
        measured_min=1.0,
        measured_max=1.0,
        notices=(notice,),
    )


def test_the_worst_units_come_first():
    """Not finite before everything, then by excess; each at its own coordinates."""
    result = tallied(FIRST, SECOND)
    assert [unit.index for unit in result.worst] == [(1, 1), (1, 2), (0, 3), (1, 3)]
    broken, largest, *_ = result.worst
    assert largest == WorstUnit((1, 2), measured=9.0, bound=2.0, distance=7.0, excess=3.5)
    assert math.isnan(broken.measured)
    assert math.isnan(broken.distance)
    assert (broken.excess, broken.nonfinite, broken.bound) == (None, 2, 2.0)


@pytest.mark.parametrize("order", [(FIRST, SECOND), (SECOND, FIRST)])
@pytest.mark.parametrize("keep", [0, 1, 2, 4, 9])
def test_only_so_many_are_kept(order, keep):
    """Whatever the order of the pieces, the kept units are the worst; all are counted."""
    result = tallied(*order, keep=keep)
    assert [u.index for u in result.worst] == [(1, 1), (1, 2), (0, 3), (1, 3)][:keep]
    assert result.violating == 4


def test_units_that_are_equally_bad_stay_in_order():
    """The same file gives the same report."""
    result = tallied(batch([3.0] * 8, ((0, 2), (0, 4))), keep=3)
    assert [unit.index for unit in result.worst] == [(0, 0), (0, 1), (0, 2)]


def test_ten_are_kept_unasked():
    """The default of the command line is that of the library."""
    wide = assignment(shape=(3, 20))
    assert len(tallied(batch([3.0] * 20, ((0, 20),)), of=wide).worst) == 10


def test_a_bound_of_0_ranks_by_distance():
    """Nothing is relative to 0: the excess is unknown, and the farthest is the worst."""
    given = assignment(NonNeg(), shape=(4,), axes=())
    piece = batch([-1.0, 2.0, -3.0, -2.0], ((0, 4),), statistic=Statistic.MIN)
    result = tallied(piece, of=given)
    assert [unit.index for unit in result.worst] == [(2,), (3,), (0,)]
    assert [unit.excess for unit in result.worst] == [None] * 3
    assert [unit.distance for unit in result.worst] == [3.0, 2.0, 1.0]
    assert [unit.measured for unit in result.worst] == [-3.0, -2.0, -1.0]


def test_a_whole_tensor_is_one_unit():
    """A unit without coordinates is at ()."""
    given = assignment(shape=(3, 2), axes=(0, 1))
    result = tallied(batch([4.0], ()), of=given)
    assert [unit.index for unit in result.worst] == [()]
    assert (result.units, result.unit_size) == (1, 6)


def test_every_violating_unit_is_heard_of_in_order():
    """What is streamed is not what is kept: all of it, in the order of the tensor."""
    heard = []
    given = assignment()
    tallied(FIRST, SECOND, of=given, keep=1, on_unit=lambda *unit: heard.append(unit))
    assert [unit.index for _, unit in heard] == [(0, 3), (1, 1), (1, 2), (1, 3)]
    assert all(of is given for of, _ in heard)


def test_screened_weights_count_and_widen():
    """Blocks in which all conforms are counted, and their extremes are of the tensor."""
    given = assignment(NonNeg(), shape=(9,), axes=())
    piece = batch([0.5, 4.0], ((0, 2),), statistic=Statistic.MIN)
    result = tallied(Screened(0, 3, 0.25, 0.75), piece, Screened(0, 4, 1.0, 8.0), of=given)
    assert (result.verdict, result.units) == (Verdict.PASS, 9)
    assert (result.measured_min, result.measured_max) == (0.25, 8.0)
    assert result.bound == (0.0, None)


def test_without_a_finite_unit_there_are_no_extremes():
    """Infinity would be no measurement."""
    given = assignment(shape=(3, 2))
    result = tallied(batch([NAN, NAN], ((0, 2),), nonfinite=[1, 3]), of=given)
    assert (result.measured_min, result.measured_max) == (None, None)
    assert (result.verdict, result.violating, result.nonfinite) == (Verdict.VIOLATION, 2, 2)


def test_zero_units_without_a_nearest_point_cannot_be_mended():
    """They violate, are finite, and no projection helps."""
    given = assignment(MinMaxNorm(0.5, 2.0), shape=(3, 4))
    result = tallied(batch([0.0, 1.0, 3.0, NAN], ((0, 4),), nonfinite=[0, 0, 0, 1]), of=given)
    assert (result.violating, result.nonfinite, result.unmendable) == (3, 1, 2)


CUT = Reason("read-failed", "is cut")


@pytest.mark.parametrize(
    ("shape", "pieces", "reason", "hint"),
    [
        ((3, 2, 4), (FIRST,), "4 of 8 units were measured", "please report this"),
        ((3, 2, 4), (FIRST, SECOND, FIRST), "12 of 8 units were measured", "please report this"),
        ((3, 2, 4), (), "0 of 8 units were measured", "please report this"),
        ((3, 0, 4), (), "it has no weights", None),
        ((3, 2, 4), (FIRST, SECOND, Failed(0, CUT, "copy again")), "is cut", "copy again"),
    ],
)
def test_what_was_not_measured_is_not_evaluated(shape, pieces, reason, hint):
    """Never a pass, and never only a violation: nobody looked at the rest."""
    result = tallied(*pieces, of=assignment(shape=shape))
    assert (result.verdict, result.reason, result.hint) == (Verdict.NOT_EVALUATED, reason, hint)
    assert result.reason_code in {"undecided", "no-real-numbers", "read-failed"}


def test_an_empty_batch_changes_nothing():
    """A box without units is no measurement."""
    empty = batch([], ((0, 0), (0, 4)))
    assert tallied(FIRST, empty, SECOND) == tallied(FIRST, SECOND)


def test_a_histogram_is_made_only_when_asked_for():
    """It counts every finite unit once."""
    assert tallied(FIRST, SECOND).histogram is None
    histogram = tallied(FIRST, SECOND, histogram=True).histogram
    assert histogram is not None
    assert sum(histogram.counts) == 7


def test_counts_add_up_over_batches():
    """What one batch found is not forgotten at the next; one bad weight is enough."""
    given = assignment(MinMaxNorm(0.5, 2.0), shape=(3, 4))
    left = batch([NAN, 0.0], ((0, 2),), nonfinite=[1, 0])
    right = batch([0.0, NAN], ((2, 4),), nonfinite=[0, 1])
    result = tallied(left, right, of=given)
    assert (result.violating, result.nonfinite, result.unmendable) == (4, 2, 4)


def test_excess_counts_for_more_than_distance():
    """Half of the smaller bound is worse than a little over the larger one."""
    given = assignment(MinMaxNorm(0.5, 10.0), shape=(3, 3))
    result = tallied(batch([12.0, 0.125, 11.0], ((0, 3),)), of=given)
    assert [unit.index for unit in result.worst] == [(1,), (0,), (2,)]
    assert [unit.excess for unit in result.worst] == pytest.approx([0.75, 0.2, 0.1])


def test_a_unit_with_one_bad_weight_is_the_worst():
    """Whatever was measured of it, which means nothing."""
    given = assignment(shape=(3, 3))
    result = tallied(batch([9.0, 2.5, 8.0], ((0, 3),), nonfinite=[0, 1, 0]), of=given)
    assert [unit.index for unit in result.worst] == [(1,), (0,), (2,)]


def test_coordinates_inside_of_a_box():
    """A batch may be any box of units; its positions count inside of that box."""
    given = assignment(shape=(3, 4, 5))
    heard = []
    piece = batch([3.0] * 6, ((1, 3), (2, 5)))
    tallied(piece, of=given, on_unit=lambda _, unit: heard.append(unit.index))
    assert heard == [(1, 2), (1, 3), (1, 4), (2, 2), (2, 3), (2, 4)]
