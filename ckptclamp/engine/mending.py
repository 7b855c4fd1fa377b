"""One projection: what is done to which tensor, and how a block of whole units is mended."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptclamp.checkpoints.tensor import one_run
from ckptclamp.constraints.base import UnitStatistics
from ckptclamp.engine.kernels import merged
from ckptclamp.engine.requests import Projected, Request
from ckptclamp.engine.search import Search, mendable
from ckptclamp.engine.segments import WORKSPACE, read
from ckptclamp.engine.statistics import extremes_inside, measure_box, measured
from ckptclamp.engine.transform import (
    as_keras,
    boxes_to_write,
    changed_units,
    distances,
    exactly,
    moved,
    relative,
    within,
)
from ckptclamp.spec.model import Projection

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ckptclamp.checkpoints.checkpoint import Copy
    from ckptclamp.checkpoints.tensor import Box, Tensor
    from ckptclamp.constraints.base import Constraint
    from ckptclamp.engine.blocks import Grid
    from ckptclamp.engine.requests import Batch


_LARGE = 64
"""Weights in a unit from which on a margin of a few u/√n is lost in the rounding."""

NOTHING = Projected(0, 0, 0.0, 0)


@dataclass(frozen=True, slots=True)
class Job:
    """One tensor under one constraint."""

    copy: Copy
    tensor: Tensor
    axes: tuple[int, ...]
    constraint: Constraint
    tolerance: float
    projection: Projection
    grid: Grid

    @property
    def request(self) -> Request:
        """What must be measured to judge the units."""
        return Request(self.tensor, self.axes, self.constraint.needs)

    def search(
        self, statistics: UnitStatistics, active: NDArray[np.bool_], *, margin: float
    ) -> Search:
        """Begin a search over units; see `Search`.

        The first trial aims inward by `margin` times u/√n relative, so that seldom a second one is
        needed: rounding n weights moves their norm by less than u/√n, mostly. In small units that
        is no small part of the rounding itself; these are first tried without a margin.
        """
        assert self.tensor.dtype is not None
        u, size = self.tensor.dtype.unit_roundoff, statistics.size
        return Search(
            self.constraint,
            statistics,
            self.tolerance,
            self.tensor.dtype,
            active=active,
            margin=margin * u / math.sqrt(size) if size >= _LARGE else 0.0,
        )

    def mendable(self, statistics: UnitStatistics) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """See `search.mendable`."""
        return mendable(self.constraint, statistics, self.tolerance)

    def left_by_keras(self, before: UnitStatistics, trial: UnitStatistics) -> NDArray[np.bool_]:
        """Which units violate after Keras' formula; those that it made non-finite stay `before`."""
        was, now = self.mendable(before)[0], self.mendable(trial)[0]
        return np.where(trial.nonfinite > 0, was, now)

    def write(self, box: Box, units: NDArray[np.bool_], after: NDArray[Any]) -> None:
        """Write the changed `units` of `box`, which is to hold `after`."""
        if not units.any():
            return
        for part in boxes_to_write(self.tensor, box, self.axes, units):
            self.copy.write(self.tensor, part, after[within(box, part)])


class Known:
    """What is known beforehand of units, each of which lies whole in a box: all of them, or none.

    `answers` are all that `measure` answers for the job's tensor, or nothing.
    """

    def __init__(self, job: Job, answers: Sequence[Batch]) -> None:
        self._kept = tuple(job.tensor.shape[axis] for axis in job.request.kept)
        self._axes = job.request.kept
        self._statistics = self._in_order(answers) if answers else None

    def of(self, box: Box) -> UnitStatistics | None:
        """The statistics of the units of `box`, if they are known and stand next to each other."""
        run = one_run(self._kept, tuple(box[axis] for axis in self._axes), 1)
        if self._statistics is None or run is None:
            return None
        return _selected(self._statistics, slice(run[0], run[0] + run[1]))

    def _in_order(self, answers: Sequence[Batch]) -> UnitStatistics | None:
        """Join the answers if they come in C order of the units, as most do, and leave none out."""
        count = 0
        for answer in answers:
            if one_run(self._kept, answer.units, 1) != (count, len(answer.statistics)):
                return None
            count += len(answer.statistics)
        if count != math.prod(self._kept):
            return None
        return joined([answer.statistics for answer in answers])


def joined(parts: Sequence[UnitStatistics]) -> UnitStatistics:
    """Statistics of units that follow each other."""
    if len(parts) == 1:
        return parts[0]
    return UnitStatistics(
        parts[0].size,
        {key: np.concatenate([part[key] for part in parts]) for key in parts[0].values},
        np.concatenate([part.nonfinite for part in parts]),
    )


def mend_box(job: Job, box: Box, known: UnitStatistics | None) -> Projected:
    """Project the units of `box`, all of them whole, and write them.

    `known` are their statistics, if somebody measured them; where none is to be mended, nothing is
    read.
    """
    if known is not None and job.projection is Projection.EXACT:
        outside, chosen = job.mendable(known)
        if not chosen.any():
            return Projected(len(outside), 0, 0.0, int(np.count_nonzero(outside)))
    block = read(job.copy, job.tensor, box)
    screened = job.projection is Projection.EXACT and job.constraint.elementwise and not job.axes
    if screened and extremes_inside(block, job.constraint.bounds(), WORKSPACE) is not None:
        return Projected(block.size, 0, 0.0, 0)
    statistics = _statistics(job, block, job.axes) if known is None else known
    if job.projection is Projection.KERAS:
        return _follow_keras(job, box, block, statistics)
    outside, chosen = job.mendable(statistics)
    hopeless = int(np.count_nonzero(outside)) - int(np.count_nonzero(chosen))
    if not chosen.any():
        return Projected(len(outside), 0, 0.0, hopeless)
    mend = _mend_rows if has_rows(block.shape, job.axes) else _mend_all
    after, changed, largest, left = mend(job, block, statistics, chosen)
    job.write(box, changed, after)
    return Projected(len(outside), int(np.count_nonzero(changed)), largest, hopeless + left)


Mended = tuple["NDArray[Any]", "NDArray[np.bool_]", float, int]
"""A mended block, which units changed, the largest relative change, and how many units are left."""


def has_rows(shape: tuple[int, ...], axes: tuple[int, ...]) -> bool:
    """Whether each unit is one run of a block, so that some can be mended without the others."""
    extents, rows = merged(shape, axes)
    return len(extents) == 1 or (rows and len(extents) == 2)


def _mend_rows(
    job: Job, block: NDArray[Any], statistics: UnitStatistics, chosen: NDArray[np.bool_]
) -> Mended:
    """Mend the chosen units, and touch no others."""
    places = np.flatnonzero(chosen)
    single = not job.axes
    rows = block.reshape(-1) if single else block.reshape(len(chosen), -1)
    axes = () if single else (1,)
    units = _taken(rows, places, "units")
    search = job.search(_selected(statistics, places), np.ones(len(places), np.bool_), margin=2)
    after = units
    while search.active.any():
        active, first = np.flatnonzero(search.active), search.trials == 0
        trial = moved(
            _taken(units, active, "active"),
            axes,
            np.ones(len(active), np.bool_),
            exactly(search.step.part(active)),
            WORKSPACE,
            into="after" if first else "moved",
        )
        stored = _scattered(_statistics(job, trial, axes), active, len(places))
        better = search.observe(stored)[active]
        if first:
            after = trial
        else:
            after[active[better]] = trial[better]
    accepted = search.accepted
    left = int(np.count_nonzero(search.left))
    change = _largest_change(search, units, after, axes)
    if len(places) == len(rows) and accepted.all():
        return after.reshape(block.shape), accepted, change, left
    changed = np.zeros(len(chosen), np.bool_)
    changed[places[accepted]] = True
    rows[places[accepted]] = after[accepted]
    return block, changed, change, left


def _largest_change(
    search: Search, before: NDArray[Any], after: NDArray[Any], axes: tuple[int, ...]
) -> float:
    """The largest change of a weight that was accepted, relative to its unit's peak."""
    scale = search.pure_scale()
    if scale is not None:
        return float(np.abs(scale - 1)[search.accepted].max(initial=0.0))
    largest, peak = distances(before, after, axes, WORKSPACE)
    return relative(largest[search.accepted], peak[search.accepted])


def _mend_all(
    job: Job, block: NDArray[Any], statistics: UnitStatistics, chosen: NDArray[np.bool_]
) -> Mended:
    """Mend units that lie across each other: each trial computes all that are active at once."""
    search = job.search(statistics, chosen, margin=2)
    while search.active.any():
        after = moved(block, job.axes, search.active, exactly(search.step), WORKSPACE)
        search.observe(_statistics(job, after, job.axes))
    if search.trials > 1 or (search.accepted != chosen).any():
        after = moved(block, job.axes, search.accepted, exactly(search.best), WORKSPACE)
    left = int(np.count_nonzero(search.left))
    return after, search.accepted, _largest_change(search, block, after, job.axes), left


def _follow_keras(job: Job, box: Box, block: NDArray[Any], statistics: UnitStatistics) -> Projected:
    arithmetic = as_keras(job.constraint.project_keras(statistics))
    chosen = statistics.nonfinite == 0
    after = moved(block, job.axes, chosen, arithmetic, WORKSPACE)
    trial = _statistics(job, after, job.axes)
    if (chosen & (trial.nonfinite > 0)).any():
        after = moved(block, job.axes, chosen & (trial.nonfinite == 0), arithmetic, WORKSPACE)
    changed = changed_units(block, after, job.axes)
    job.write(box, changed, after)
    return Projected(
        len(changed),
        int(np.count_nonzero(changed)),
        relative(*distances(block, after, job.axes, WORKSPACE)),
        int(np.count_nonzero(job.left_by_keras(statistics, trial))),
    )


def _statistics(job: Job, block: NDArray[Any], axes: tuple[int, ...]) -> UnitStatistics:
    """Measure the units of a block, all of them whole."""
    needs = job.constraint.needs
    partial = measure_box(block, axes, measured(needs), WORKSPACE)
    partial.close()
    size = math.prod(block.shape[axis] for axis in axes)
    return partial.statistics(needs, size, block.size // size)


def _taken(rows: NDArray[Any], places: NDArray[np.intp], name: str) -> NDArray[Any]:
    """Some rows, in a buffer; all of them as they are."""
    if len(places) == len(rows):
        return rows
    out = WORKSPACE.array(name, rows.dtype, (len(places), *rows.shape[1:]))
    return np.take(rows, places, axis=0, out=out, mode="clip")


def _selected(statistics: UnitStatistics, places: slice | NDArray[np.intp]) -> UnitStatistics:
    values = {key: value[places] for key, value in statistics.values.items()}
    return UnitStatistics(statistics.size, values, statistics.nonfinite[places])


def _scattered(statistics: UnitStatistics, places: NDArray[np.intp], units: int) -> UnitStatistics:
    """Statistics of `units` units of which only some are known; the others are NaN."""
    if len(places) == units:
        return statistics
    values = {key: np.full(units, np.nan) for key in statistics.values}
    for key, value in statistics.values.items():
        values[key][places] = value
    return UnitStatistics(statistics.size, values, np.zeros(units, np.int64))
