"""What is kept of the units of one assignment while they stream past, and what it comes to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptclamp.auditing.results import Result, Verdict, WorstUnit
from ckptclamp.auditing.verdicts.excuses import Excuses
from ckptclamp.constraints.base import Judgement, UnitStatistics
from ckptclamp.engine.measure.exact import settled, sums_of_stored
from ckptclamp.engine.measure.requests import Batch, Failed, Measurement, Request, Screened
from ckptclamp.errors import Reason, UnreadableError
from ckptclamp.frozen import frozen
from ckptclamp.plan import Assignment
from ckptclamp.plan.units import kept_axes, unit_size

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ckptclamp.checkpoints.checkpoint import TensorReader
    from ckptclamp.constraints.base import ExactSums
    from ckptclamp.engine.histogram import UnitHistogram


OnUnit = Callable[[Assignment, WorstUnit], None]
"""Called with every violating unit, in the order of the tensor."""


def described(assignment: Assignment) -> dict[str, Any]:
    """What a `Result` says of `assignment` before anything is measured."""
    tensor = assignment.tensor
    return {
        "tensor": tensor.name,
        "rule": assignment.rule,
        "constraint": str(assignment.constraint),
        "origin": assignment.origin,
        "label": assignment.label,
        "shape": tensor.shape,
        "dtype": str(tensor.dtype),
        "axes": assignment.axes,
        "unit_words": assignment.unit_words,
        "unit_size": unit_size(tensor.shape, assignment.axes),
        "location": assignment.location,
        "why": assignment.why,
        "tied_to": assignment.tied_to,
        "severity": assignment.severity,
        "tolerance": assignment.tolerance,
        "shortfall": assignment.shortfall,
        "history": assignment.history,
        "bound": assignment.constraint.interval(),
        "notices": assignment.notices,
    }


MOST_ZEROS = 20
"""Of how many zero units a result says which they are."""


_JUDGED = 1 << 16
"""Units that are judged at once: a cache holds the arrays that this takes."""

_TOLD = 4096
"""How many units are made ready to be told at once."""


def _histogram() -> UnitHistogram:
    from ckptclamp.engine.histogram import UnitHistogram

    return UnitHistogram()


@frozen
class Some:
    """Units of a batch from its unit number `first` on: as many as are judged at once."""

    batch: Batch
    first: int
    statistics: UnitStatistics

    @classmethod
    def all_of(cls, batch: Batch) -> Iterator[Some]:
        """All units of a batch, so that judging them takes little memory beside it."""
        statistics = batch.statistics
        if len(statistics) <= _JUDGED:
            yield cls(batch, 0, statistics)
            return
        for first in range(0, len(statistics), _JUDGED):
            yield cls(batch, first, statistics.part(slice(first, first + _JUDGED)))


class Tally:
    """Counts the units of one assignment.

    `keep` is how many of the worst units are remembered; `on_unit` is called with all violating.
    From `reader` those are read again that lie too near to a limit for float64.
    """

    def __init__(
        self,
        assignment: Assignment,
        *,
        keep: int = 10,
        histogram: bool = False,
        on_unit: OnUnit | None = None,
        reader: TensorReader | None = None,
    ) -> None:
        self.assignment = assignment
        self.units = 0
        self.violating = 0
        self.within_tolerance = 0
        self.nonfinite = 0
        self.unmendable = 0
        self.zero = 0
        self.zero_allowed = 0
        self.minimum = math.inf
        self.maximum = -math.inf
        self._keep = keep
        self._on_unit = on_unit
        self._reader = reader
        self._histogram = _histogram() if histogram else None
        self._failure: Failed | None = None
        self._worst: list[tuple[float, WorstUnit]] = []
        self._zero_first: list[tuple[int, ...]] = []
        self._excuses = Excuses(assignment)

    def add(self, measurement: Measurement) -> None:
        """Take in one piece of what was measured."""
        match measurement:
            case Screened():
                self.units += measurement.count
                self._widen(measurement.minimum, measurement.maximum)
            case Failed():
                self._failure = measurement
            case Batch() if len(measurement.statistics):
                try:
                    for some in Some.all_of(measurement):
                        self._add_units(some)
                except UnreadableError as error:
                    self._failure = Failed(measurement.request, error.reason, error.hint)

    def _add_units(self, some: Some) -> None:
        statistics = some.statistics
        with np.errstate(all="ignore"):  # non-finite units are judged by their own count
            judgement = self.assignment.constraint.judge(statistics)
        broken = statistics.nonfinite > 0
        assignment = self.assignment
        judgement = self._settled(some, judgement, broken)
        outside = judgement.violates(assignment.tolerance, assignment.shortfall) | broken
        beyond = judgement.violates(0.0)
        zero = outside & statistics.zero if outside.any() else outside
        if zero.any():
            self._add_zeros(some, zero)
        excepted = zero if assignment.allow_zero else np.zeros_like(zero)
        outside, zero = outside & ~excepted, zero & ~excepted
        self.units += len(statistics)
        self.violating += int(np.count_nonzero(outside))
        self.within_tolerance += int(np.count_nonzero(beyond & ~outside & ~excepted))
        self.nonfinite += int(np.count_nonzero(broken))
        self._see(judgement.measured[~(broken | excepted)])
        if outside.any():
            self._excuses.add(judgement, outside, zero)
            self._add_violating(some, judgement, outside, zero)

    def _add_zeros(self, some: Some, zero: NDArray[np.bool_]) -> None:
        count = int(np.count_nonzero(zero))
        if self.assignment.allow_zero:
            self.zero_allowed += count
        else:
            self.zero += count
        room = MOST_ZEROS - len(self._zero_first)
        positions = np.flatnonzero(zero)[:room]
        self._zero_first += _indices(some, positions)

    def _settled(self, some: Some, judgement: Judgement, broken: NDArray[np.bool_]) -> Judgement:
        """Read units again that float64 cannot decide, and decide them exactly."""
        of, reader = self.assignment, self._reader
        if reader is None:
            return judgement

        def sums(places: NDArray[np.intp]) -> list[ExactSums]:
            return _exact_sums(reader, of, some.batch, some.first + places)

        return settled(judgement, of.constraint, of.tolerance, broken, sums, shortfall=of.shortfall)

    def _add_violating(
        self,
        some: Some,
        judgement: Judgement,
        outside: NDArray[np.bool_],
        zero: NDArray[np.bool_],
    ) -> None:
        broken = some.statistics.nonfinite > 0
        unfixable = broken | self.assignment.constraint.unmendable(some.statistics)
        self.unmendable += int(np.count_nonzero(outside & unfixable))
        positions = np.flatnonzero(outside)
        if self._on_unit is not None:
            for at in range(0, len(positions), _TOLD):
                for unit in _units(some, judgement, zero, positions[at : at + _TOLD]):
                    self._on_unit(self.assignment, unit)
        ranks = rank(judgement, some.statistics)[positions]
        if len(self._worst) == self._keep:  # only those as bad as the last one, or worse
            bad = ranks >= (self._worst[-1][0] if self._worst else math.inf)
            positions, ranks = positions[bad], ranks[bad]
        if len(positions) > self._keep:
            worst = np.argsort(-ranks, kind="stable")[: self._keep]
            positions, ranks = positions[worst], ranks[worst]
        units = _units(some, judgement, zero, positions)
        found = list(zip(ranks.tolist(), units, strict=True))
        self._worst = sorted(self._worst + found, key=lambda pair: (-pair[0], pair[1].index))
        del self._worst[self._keep :]

    def _see(self, measured: NDArray[np.float64]) -> None:
        if len(measured):
            self._widen(float(measured.min()), float(measured.max()))
            if self._histogram is not None:
                self._histogram.add(measured)

    def _widen(self, minimum: float, maximum: float) -> None:
        self.minimum = min(self.minimum, minimum)
        self.maximum = max(self.maximum, maximum)

    def result(self) -> Result:
        """The verdict. A tensor that failed, or of which no unit was seen, is not evaluated."""
        assignment = self.assignment
        finite = self.minimum <= self.maximum
        reason, hint = self._why_not_evaluated()
        return Result(
            **described(assignment),
            verdict=self._verdict(reason),
            reason=reason,
            reason_code=None if reason is None else reason.code,
            hint=hint or self._excuses.hint(),
            units=self.units,
            violating=self.violating,
            within_tolerance=self.within_tolerance,
            nonfinite=self.nonfinite,
            unmendable=self.unmendable,
            zero=self.zero,
            zero_allowed=self.zero_allowed,
            zero_first=tuple(self._zero_first),
            epsilon=self._excuses.epsilon(),
            measured_min=self.minimum if finite else None,
            measured_max=self.maximum if finite else None,
            worst=tuple(unit for _, unit in self._worst),
            histogram=self._histogram.result() if self._histogram is not None else None,
        )

    def _why_not_evaluated(self) -> tuple[Reason | None, str | None]:
        if self._failure is not None:
            return self._failure.reason, self._failure.hint
        shape, axes = self.assignment.tensor.shape, self.assignment.axes
        if not math.prod(shape):
            return Reason("no-real-numbers", "it has no weights"), None
        expected = math.prod(shape[axis] for axis in kept_axes(shape, axes))
        if self.units != expected:
            # Nothing should lead here; a gate must not rest on that.
            measured = f"{self.units} of {expected} units were measured"
            return Reason("undecided", measured), "please report this"
        return None, None

    def _verdict(self, reason: Reason | None) -> Verdict:
        if reason is not None:
            return Verdict.NOT_EVALUATED
        return Verdict.VIOLATION if self.violating else Verdict.PASS


def _exact_sums(
    reader: TensorReader, of: Assignment, batch: Batch, places: NDArray[np.intp]
) -> list[ExactSums]:
    """Read what lies at `places` of `batch` again, and sum it exactly."""
    from ckptclamp.constraints.sets.distance import Distance
    from ckptclamp.constraints.sets.whole import MatrixConstraint, WholeTensorConstraint
    from ckptclamp.engine.measure.distance import exact_distances
    from ckptclamp.engine.project.matrices import exact_of_matrices
    from ckptclamp.engine.project.whole import exact_of_whole

    constraint, tolerance = of.constraint, of.tolerance
    if isinstance(constraint, WholeTensorConstraint):
        return [exact_of_whole(reader, of.tensor, constraint, tolerance) for _ in places]
    if isinstance(constraint, MatrixConstraint):
        return exact_of_matrices(reader, of.tensor, of.axes, constraint, tolerance, places=places)
    if isinstance(constraint, Distance) and of.base is not None:
        return exact_distances(
            reader,
            of.tensor,
            of.base,
            of.axes,
            relative=constraint.relative,
            units=batch.units,
            places=places,
        )
    request = Request(of.tensor, of.axes, constraint.needs)
    return sums_of_stored(reader, request, batch.units, places)


def rank(judgement: Judgement, statistics: UnitStatistics) -> NDArray[np.float64]:
    """How bad each unit is: non-finite first, then by excess, then (bound 0) by distance."""
    with np.errstate(all="ignore"):
        relative = judgement.distance / judgement.scale
    ranks = np.where(judgement.scale > 0, relative, judgement.distance)
    return np.where((statistics.nonfinite > 0) | np.isnan(ranks), np.inf, ranks)


def _indices(some: Some, positions: NDArray[np.intp]) -> Iterator[tuple[int, ...]]:
    """The coordinates along the kept axes of units of a batch."""
    batch, positions = some.batch, some.first + positions
    extents = tuple(stop - start for start, stop in batch.units)
    if not extents:
        return iter([()] * len(positions))
    local = np.unravel_index(positions, extents)
    axes = ((i + start).tolist() for i, (start, _) in zip(local, batch.units, strict=True))
    return zip(*axes, strict=True)


def _units(
    some: Some, judgement: Judgement, zero: NDArray[np.bool_], positions: NDArray[np.intp]
) -> Iterator[WorstUnit]:
    """The units at `positions` of `some`, as a report tells them."""
    arrays = (
        *(judgement.measured, judgement.bound, judgement.distance, judgement.scale),
        *(some.statistics.nonfinite, zero),
    )
    columns = (array[positions].tolist() for array in arrays)
    for index, measured, bound, distance, scale, nonfinite, is_zero in zip(
        _indices(some, positions), *columns, strict=True
    ):
        yield WorstUnit(
            index=index,
            measured=math.nan if nonfinite else measured,
            bound=bound,
            distance=math.nan if nonfinite else distance,
            excess=distance / scale if scale > 0 and not nonfinite else None,
            nonfinite=nonfinite,
            zero=is_zero,
        )
