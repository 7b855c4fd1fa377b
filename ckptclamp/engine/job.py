"""One projection: what is done to which tensor, the search for weights that conform, the writing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptclamp.checkpoints.tensor import Chunked, box_shape
from ckptclamp.constraints.movement import Aim
from ckptclamp.engine.blocks import Broadcast, within
from ckptclamp.engine.requests import WORKSPACE, Request
from ckptclamp.engine.statistics import measure_units
from ckptclamp.engine.transform import inward

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from ckptclamp.checkpoints.checkpoint import Copy
    from ckptclamp.checkpoints.tensor import Box, Tensor
    from ckptclamp.constraints.base import Constraint, UnitStatistics
    from ckptclamp.constraints.movement import Step
    from ckptclamp.engine.blocks import Grid
    from ckptclamp.spec.model import Projection

_LARGE = 64
"""Weights in a unit from which on a margin of a few u/√n is lost in the rounding."""

_GAP = 16 << 10
"""Writing so many bytes again costs less than one more system call."""


@dataclass(frozen=True, slots=True)
class Projected:
    """What a projection did to one tensor.

    `changed` counts units of which a byte is another; `largest_change` is the largest change of a
    weight, relative to the largest magnitude in its unit; `left` counts units that still lie
    outside the tolerance: that no projection can fix, or that the dtype cannot hold.
    """

    units: int
    changed: int
    largest_change: float
    left: int

    def __add__(self, other: Projected) -> Projected:
        return Projected(
            self.units + other.units,
            self.changed + other.changed,
            max(self.largest_change, other.largest_change),
            self.left + other.left,
        )


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
    spare_zero: bool = False

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
        narrow = partial(inward, dtype=self.tensor.dtype.numpy)
        margin = margin * u / math.sqrt(size) if size >= _LARGE else 0.0
        aim = Aim(len(statistics), self.constraint.one_sided, margin, u == 0, narrow)
        return Search(self, statistics, active, aim)

    def fixable(self, statistics: UnitStatistics) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which units lie outside (non-finite ones do), and which of these a projection can mend."""
        broken = statistics.nonfinite > 0
        outside = self.constraint.judge(statistics).violates(self.tolerance) | broken
        outside &= ~self.spared(statistics)
        return outside, outside & ~broken & ~self.constraint.unmendable(statistics)

    def spared(self, statistics: UnitStatistics) -> NDArray[np.bool_]:
        """Which units are left alone wherever they lie."""
        return statistics.zero if self.spare_zero else np.zeros(len(statistics), np.bool_)

    def measured(self, block: NDArray[Any], axes: tuple[int, ...]) -> UnitStatistics:
        """Measure what the constraint needs of a block of whole units that span its `axes`."""
        return measure_units(block, axes, self.constraint.needs, WORKSPACE)

    def left_by_keras(self, before: UnitStatistics, trial: UnitStatistics) -> NDArray[np.bool_]:
        """Which units violate after Keras' formula; those that it made non-finite stay `before`."""
        was, now = self.fixable(before)[0], self.fixable(trial)[0]
        return np.where(trial.nonfinite > 0, was, now)

    def write(self, box: Box, units: NDArray[np.bool_], after: NDArray[Any]) -> None:
        """Write the changed `units` of `box`, which is to hold `after`."""
        if not units.any():
            return
        for part in _boxes_to_write(self.tensor, box, self.axes, units):
            self.copy.write(self.tensor, part, after[within(box, part)])


class Search:
    """The search, for some units at once, of a step whose rounded result lies inside the constraint.

    The first trial is the projection itself. Rounding to storage moves a norm by about u/√n
    relative, so every other unit lands a little outside. What is outside is tried again, from the
    original weights, by the `Steps` of the constraint's movement, which are told how the constraint
    would correct what was stored.

    Attributes:
        active: units for which the current `step` is yet to be tried.
        best: the best step so far.
        accepted: units whose weights become what `best` makes of them; known when none is active.
        left: units that violate the tolerance even then.
        trials: how many were observed.
    """

    def __init__(
        self, job: Job, statistics: UnitStatistics, active: NDArray[np.bool_], aim: Aim
    ) -> None:
        self.constraint, self.tolerance = job.constraint, job.tolerance
        self.active = active.copy()
        self._steps = self.constraint.project(statistics).steps(aim)
        self.best = self.step
        self.accepted = np.zeros(aim.units, np.bool_)
        self.left = active.copy()
        self._before = self.constraint.judge(statistics).distance
        self._distance = np.full(aim.units, np.inf)
        self.trials = 0

    @property
    def step(self) -> Step:
        """What to try next; means nothing for units that are not active."""
        return self._steps.step

    def observe(self, stored: UnitStatistics) -> NDArray[np.bool_]:
        """Take in what the trial of `step` gave, as stored, and set up the next.

        Statistics of units that are not active are not read. Returns which units' `best` is now
        this trial.
        """
        judgement = self.constraint.judge(stored)
        one_sided = self.constraint.one_sided
        reached = self.active & ~judgement.violates(0.0 if one_sided else self.tolerance)
        better = reached | (self.active & (judgement.distance < self._distance))
        self._distance = np.where(better, judgement.distance, self._distance)
        self.best = self.step.where(better, self.best)
        conforming = better & ~judgement.violates(self.tolerance)
        improved = better & (self._distance < 0.5 * self._before)
        improved &= ~self.constraint.unmendable(stored)
        self.accepted |= reached | conforming | improved
        self.left &= ~conforming
        self.active &= ~reached
        self.trials += 1
        if self.trials == self._steps.most:
            self.active[:] = False
        if self.active.any():
            self._steps.correct(self.constraint.project(stored), self.trials)
        return better


def _boxes_to_write(
    tensor: Tensor, box: Box, axes: tuple[int, ...], units: NDArray[np.bool_]
) -> Iterator[Box]:
    """Cut `box` into parts that hold all of its part of the changed `units`, and little else.

    A chunk without a changed unit is in none of them; rows between changed units are left out where
    they are worth a system call.
    """
    shape = box_shape(box)
    weights = Broadcast.all_of(shape, axes)(units)
    if isinstance(tensor.storage, Chunked):
        yield from _changed_chunks(box, tensor.storage.chunk_shape, weights)
        return
    axis = next((i for i, extent in enumerate(shape) if extent > 1), None)
    if axis is None or weights.shape[axis] == 1:
        yield box
        return
    rows = np.flatnonzero(weights.any(axis=tuple(i for i in range(len(shape)) if i != axis)))
    row_bytes = tensor.nbytes // tensor.size
    for i, extent in enumerate(shape):
        row_bytes *= extent if i != axis else 1
    for run in np.split(rows, np.flatnonzero(np.diff(rows) > 1 + _GAP // row_bytes) + 1):
        start = box[axis][0]
        yield (*box[:axis], (start + int(run[0]), start + int(run[-1]) + 1), *box[axis + 1 :])


def _changed_chunks(box: Box, chunk: tuple[int, ...], weights: NDArray[np.bool_]) -> Iterator[Box]:
    """The chunks of `box` that hold a changed unit; `weights` broadcasts over the box."""
    counts = [-(-stop // c) - start // c for (start, stop), c in zip(box, chunk, strict=True)]
    for index in np.ndindex(*counts):
        part = tuple(
            (max(start, (start // c + i) * c), min(stop, (start // c + i + 1) * c))
            for (start, stop), c, i in zip(box, chunk, index, strict=True)
        )
        place = within(box, part)
        shared = zip(weights.shape, place, strict=True)
        if weights[tuple(slice(None) if n == 1 else piece for n, piece in shared)].any():
            yield part
