"""Projecting units that no block holds whole: columns, convolution kernels, whole tensors.

They are measured first. A trial is read through `_Trial`, so that what is measured is, bit for bit,
what would be stored; nothing is written before the last trial is known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial as bound
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptclamp.constraints.base import UnitStatistics
from ckptclamp.engine.blocks import PENDING, count_of
from ckptclamp.engine.cache import KnownStatistics
from ckptclamp.engine.executors import in_order
from ckptclamp.engine.job import Job, Projected
from ckptclamp.engine.measure import measure_boxes
from ckptclamp.engine.requests import WORKSPACE, Batch, Failed, Group, read
from ckptclamp.engine.transform import (
    Arithmetic,
    as_keras,
    as_matrix,
    changed_units,
    distances,
    exactly,
    moved,
    moved_few,
    relative,
)
from ckptclamp.errors import UnreadableError
from ckptclamp.spec.model import Projection

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from numpy.typing import NDArray

    from ckptclamp.checkpoints.checkpoint import TensorReader
    from ckptclamp.checkpoints.tensor import Box, Tensor
    from ckptclamp.constraints.movement import Step

_FEW = 4
"""Where fewer than one unit in so many moves, the others are left out of the arithmetic."""

_MARGIN = 4
"""In u/√n: a second trial is a pass over the whole tensor, so next to none may be needed."""


def spanning_units(
    job: Job, pool: Executor | None, window: int, known: Sequence[Batch]
) -> Iterator[tuple[int, Projected]]:
    """Project all units, as many at a time as the accumulators have room for.

    `known` is what was kept of the units: everything, or nothing. Yields how many weights
    were looked at, and what was done to their units.
    """
    beforehand = KnownStatistics(job.request, known)
    for first, last in _unit_groups(job):
        with np.errstate(all="ignore"):
            done = _Units(job, range(first, last), pool, window, beforehand).fix()
        yield sum(count_of(job.grid.box(index)) for index in range(first, last)), done


def _unit_groups(job: Job) -> Iterator[tuple[int, int]]:
    """Ranges of boxes that hold whole units: all boxes, or some stripes at a time."""
    grid = job.grid
    if grid.order == tuple(range(len(grid.shape))):
        yield 0, len(grid)
        return
    boxes = math.prod(grid.counts[axis] for axis in job.axes)
    units = math.prod(grid.tile[axis] for axis in job.request.kept)
    step = boxes * max(1, PENDING // units)
    for first in range(0, len(grid), step):
        yield first, min(first + step, len(grid))


@dataclass(frozen=True, slots=True)
class _Move:
    """Which units move, and how the units of a slice of them do.

    `change` is how far each moves relative to its largest magnitude, where that is known beforehand:
    then each moves.
    """

    chosen: NDArray[np.bool_]
    arithmetic: Callable[[slice | NDArray[np.intp]], Arithmetic]
    change: NDArray[np.float64] | None = None


class _Units:
    """The units of a range of boxes, measured and moved together.

    `places` tells where the units of each box stand in arrays of all units.
    """

    def __init__(
        self, job: Job, boxes: range, pool: Executor | None, window: int, known: KnownStatistics
    ) -> None:
        self.job = job
        self.boxes = boxes
        self.pool = pool
        self.window = window
        self.places: dict[Box, slice] = {}
        self.statistics = self._taken(known) or self._measure(job.copy)

    def fix(self) -> Projected:
        """Move the units that are to move, and write them."""
        if self.job.projection is Projection.KERAS:
            return self._follow_keras()
        outside, chosen = self.job.fixable(self.statistics)
        search = self.job.search(self.statistics, chosen, margin=_MARGIN)
        while search.active.any():
            trial = _Trial(self, _stepping(search.step, search.active))
            search.observe(self._measure(trial))
        move = _stepping(search.best, search.accepted)
        written = self._write(replace(move, change=search.best.movement.change))
        left = np.count_nonzero(outside & ~chosen) + np.count_nonzero(search.left)
        return written + Projected(0, 0, 0.0, int(left))

    def _follow_keras(self) -> Projected:
        movement = self.job.constraint.project_keras(self.statistics)
        chosen = (self.statistics.nonfinite == 0) & ~self.job.spared(self.statistics)
        move = _Move(chosen, lambda place: as_keras(movement.part(place)))
        trial = self._measure(_Trial(self, move))
        left = self.job.left_by_keras(self.statistics, trial)
        written = self._write(replace(move, chosen=move.chosen & (trial.nonfinite == 0)))
        return written + Projected(0, 0, 0.0, int(np.count_nonzero(left)))

    def _measure(self, reader: TensorReader) -> UnitStatistics:
        """Measure all units, in the order in which they are complete, which is always the same."""
        job = self.job
        group = Group(job.tensor, job.grid, ((0, job.request),))
        parts: list[tuple[Box, UnitStatistics]] = []
        for answer in measure_boxes(reader, group, self.boxes, self.pool, self.window):
            if isinstance(answer, Failed):
                raise UnreadableError(answer.reason, tensor=job.tensor.name, hint=answer.hint)
            assert isinstance(answer, Batch)
            parts.append((answer.units, answer.statistics))
        return self._joined(parts)

    def _taken(self, known: KnownStatistics) -> UnitStatistics | None:
        """Take what an audit measured of these units, if that is each of them."""
        boxes = {self._units(box): box for box in map(self.job.grid.box, self.boxes)}
        parts = [(units, known.of(box)) for units, box in boxes.items()]
        found = [(units, statistics) for units, statistics in parts if statistics is not None]
        return self._joined(found) if len(found) == len(parts) else None

    def _joined(self, parts: Sequence[tuple[Box, UnitStatistics]]) -> UnitStatistics:
        count = 0
        for units, statistics in parts:
            self.places[units] = slice(count, count + len(statistics))
            count += len(statistics)
        return UnitStatistics.joined([statistics for _, statistics in parts])

    def _units(self, box: Box) -> Box:
        return tuple(box[axis] for axis in self.job.request.kept)

    def place(self, box: Box) -> slice:
        """Where the units of `box` stand."""
        return self.places[self._units(box)]

    def moved(self, box: Box, block: NDArray[Any], move: _Move) -> NDArray[Any]:
        """Return `block`, which is `box`, with its chosen units moved."""
        place, axes = self.place(box), self.job.axes
        chosen = move.chosen[place]
        some = np.flatnonzero(chosen)
        if not len(some):
            return block
        matrix = as_matrix(block.shape, axes) if _FEW * len(some) < len(chosen) else None
        if matrix is not None:
            arithmetic = move.arithmetic(place.start + some)
            return moved_few(block, matrix, some, arithmetic, WORKSPACE)
        return moved(block, axes, chosen, move.arithmetic(place), WORKSPACE)

    def _write(self, move: _Move) -> Projected:
        """Write all boxes in which a unit moves, and count what that changes."""
        units = len(self.statistics)
        changed = np.zeros(units, np.bool_)
        largest, peak = np.zeros(units), np.zeros(units)
        step = self.job.grid.segment
        items = (self.boxes[i : i + step] for i in range(0, len(self.boxes), step))
        if not move.chosen.any():
            return Projected(units, 0, 0.0, 0)
        for _, parts in in_order(bound(self._write_boxes, move), items, self.pool, self.window):
            for place, some, distance, magnitude in parts:
                changed[place] |= some
                np.maximum(largest[place], distance, out=largest[place])
                np.maximum(peak[place], magnitude, out=peak[place])
        if move.change is not None:
            change = float(move.change[move.chosen].max(initial=0.0))
            return Projected(units, int(np.count_nonzero(move.chosen)), change, 0)
        return Projected(units, int(np.count_nonzero(changed)), relative(largest, peak), 0)

    def _write_boxes(self, move: _Move, indices: range) -> list[_Written]:
        job, written = self.job, []
        with np.errstate(all="ignore"):
            for index in indices:
                box = job.grid.box(index)
                place = self.place(box)
                if not move.chosen[place].any():
                    continue
                block = read(job.copy, job.tensor, box)
                after = self.moved(box, block, move)
                if move.change is not None:
                    job.write(box, move.chosen[place], after)
                    continue
                changed = changed_units(block, after, job.axes)
                job.write(box, changed, after)
                written.append((place, changed, *distances(block, after, job.axes, WORKSPACE)))
        return written


_Written = tuple[slice, "NDArray[np.bool_]", "NDArray[np.float64]", "NDArray[np.float64]"]
"""Where a box's units stand, which of them changed in it, by how much, and how large they were."""


def _stepping(step: Step, chosen: NDArray[np.bool_]) -> _Move:
    return _Move(chosen, lambda place: exactly(step.part(place)))


class _Trial:
    """Reads a tensor as it would be stored if units moved."""

    def __init__(self, units: _Units, move: _Move) -> None:
        self.units = units
        self.move = move

    def read(self, tensor: Tensor, box: Box, buffer: memoryview | None = None) -> NDArray[Any]:
        """See `TensorReader.read`."""
        block = self.units.job.copy.read(tensor, box, buffer)
        return self.units.moved(box, block, self.move)
