"""One projection: what is done to which tensor, and how a block of it is mended in the cache."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptclamp.spec.model import Projection
from ckptclamp.streaming.change import (
    Difference,
    as_keras,
    boxes_to_write,
    difference,
    exactly,
    moved,
    within,
)
from ckptclamp.streaming.partials import measure_box, measured
from ckptclamp.streaming.requests import Projected, Request
from ckptclamp.streaming.search import Search
from ckptclamp.streaming.segments import WORKSPACE, read

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ckptclamp.checkpoints.checkpoint import Copy
    from ckptclamp.checkpoints.description import Box, Tensor
    from ckptclamp.constraints.base import Constraint, UnitStatistics
    from ckptclamp.streaming.grid import Grid


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

    def search(self, statistics: UnitStatistics, *, margin: float = 0.0) -> Search:
        """Begin a search over units; see `Search`."""
        assert self.tensor.dtype is not None
        return Search(self.constraint, statistics, self.tolerance, self.tensor.dtype, margin=margin)

    def violates(self, statistics: UnitStatistics) -> NDArray[np.bool_]:
        """Which units lie outside, or have a non-finite weight."""
        judgement = self.constraint.judge(statistics)
        return judgement.violates(self.tolerance) | (statistics.nonfinite > 0)

    def left_by_keras(self, before: UnitStatistics, trial: UnitStatistics) -> NDArray[np.bool_]:
        """Which units violate after Keras' formula; those that it made non-finite stay `before`."""
        return np.where(trial.nonfinite > 0, self.violates(before), self.violates(trial))


def mend_box(job: Job, box: Box) -> Projected:
    """Project the units of `box`, all of them whole, and write them."""
    block = read(job.copy, job.tensor, box)
    if job.projection is Projection.KERAS:
        return _follow_keras(job, box, block)
    search = job.search(_statistics(job, block))
    units = len(search.outside)
    trial = block
    while search.active.any():
        trial = moved(block, job.axes, search.active, exactly(search.step), WORKSPACE)
        search.observe(_statistics(job, trial))
    left = int(np.count_nonzero(search.left))
    if not search.accepted.any():
        return Projected(units, 0, 0.0, left)
    trial = moved(block, job.axes, search.accepted, exactly(search.best), WORKSPACE)
    return _written(job, box, block, trial) + Projected(0, 0, 0.0, left)


def _follow_keras(job: Job, box: Box, block: NDArray[Any]) -> Projected:
    statistics = _statistics(job, block)
    arithmetic = as_keras(job.constraint.project_keras(statistics))
    chosen = statistics.nonfinite == 0
    after = moved(block, job.axes, chosen, arithmetic, WORKSPACE)
    trial = _statistics(job, after)
    if (chosen & (trial.nonfinite > 0)).any():
        after = moved(block, job.axes, chosen & (trial.nonfinite == 0), arithmetic, WORKSPACE)
    left = int(np.count_nonzero(job.left_by_keras(statistics, trial)))
    return _written(job, box, block, after) + Projected(0, 0, 0.0, left)


def _statistics(job: Job, block: NDArray[Any]) -> UnitStatistics:
    """Measure the units of a block, all of them whole."""
    needs = job.constraint.needs
    partial = measure_box(block, job.axes, measured(needs), WORKSPACE)
    partial.close()
    size = math.prod(block.shape[axis] for axis in job.axes)
    return partial.statistics(needs, size, block.size // size)


def _written(job: Job, box: Box, before: NDArray[Any], after: NDArray[Any]) -> Projected:
    """Write what differs; count it."""
    change = write_changes(job, box, before, after)
    return Projected(
        len(change.units),
        int(np.count_nonzero(change.units)),
        relative(change.largest, change.peak),
        0,
    )


def write_changes(job: Job, box: Box, before: NDArray[Any], after: NDArray[Any]) -> Difference:
    """Write what differs between two states of `box`."""
    change = difference(before, after, job.axes, WORKSPACE)
    if change.units.any():
        for part in boxes_to_write(job.tensor, box, change.weights):
            job.copy.write(job.tensor, part, after[within(box, part)])
    return change


def relative(largest: NDArray[np.float64], peak: NDArray[np.float64]) -> float:
    """The largest change relative to its unit's peak; infinite where all of the unit was zero."""
    some = largest > 0
    return float((largest[some] / peak[some]).max(initial=0.0))
