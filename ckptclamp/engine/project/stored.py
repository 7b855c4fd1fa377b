"""Projecting weights that storage holds on a grid of its own, and towards those of a base checkpoint.

Whole units are taken at once, as many as there is room for. Each becomes the nearest point of the set,
and every weight the nearest that can be stored. Where that leaves the set, as few weights as it takes
are rounded the other way, those first that this costs least. What is written is what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptclamp.checkpoints.tensor import View, box_shape
from ckptclamp.constraints.base import ROUNDOFF, Statistic
from ckptclamp.constraints.sets.distance import Distance
from ckptclamp.constraints.sets.whole import WholeUnitConstraint
from ckptclamp.engine.blocks import Broadcast, kept_axes
from ckptclamp.engine.measure.distance import relative_to
from ckptclamp.engine.measure.requests import WORKSPACE
from ckptclamp.engine.measure.statistics import measure_units
from ckptclamp.engine.project.job import NOTHING, Job, Projected
from ckptclamp.engine.project.transform import relative, rounded
from ckptclamp.engine.project.whole_units import measured_whole, put_back, slabs, sums_of, units_of
from ckptclamp.frozen import frozen
from ckptclamp.models.effective.levels import Wanted
from ckptclamp.models.effective.weights import Effective
from ckptclamp.spec.model import Projection

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ckptclamp.checkpoints.checkpoint import Copy
    from ckptclamp.checkpoints.tensor import Box, Tensor
    from ckptclamp.constraints.base import Constraint, ExactSums, UnitStatistics

_NUMBERS = 24
"""Numbers of float64 that each weight of a slab takes, at most."""

_TRIALS = 8
"""How often units that float64 alone left outside are tried again, a little further inside."""

_NEAR = 0.5
"""How far a unit may be stored from its nearest point, relative to that: a coarse grid holds it, or not."""

_NORM = frozenset({Statistic.NORM})
_SUMMED = frozenset({Statistic.NORM, Statistic.SUM_ABS})
"""What is nearer to its bound when weights are all smaller, or all larger."""


def needed_bytes(shape: tuple[int, ...], axes: tuple[int, ...]) -> int:
    """Bytes that one unit of a tensor of `shape` takes, at most."""
    return 8 * _NUMBERS * math.prod(shape[axis] for axis in axes)


def project_stored(
    copy: Copy,
    tensor: Tensor,
    axes: tuple[int, ...],
    constraint: Constraint,
    tolerance: float,
    *,
    memory: int,
    base: Tensor | None = None,
    progress: Callable[[int], None] | None = None,
    spare_zero: bool = False,
) -> Projected:
    """Project the units of `tensor`, which span `axes`, in `copy`; `base` is what it is compared with.

    A unit is written if it conforms as it is stored, or lies less than half as far outside as before.
    Units with non-finite weights and those that are unmendable keep their bytes, and so does every
    weight that does not move.

    Raises:
        UnreadableError: the tensor cannot be read, or one unit does not fit into `memory` bytes.
        NotWrittenError: it cannot be written.
    """
    grid = slabs(tensor, axes, needed_bytes(tensor.shape, axes), memory)
    job = Job(copy, tensor, axes, constraint, tolerance, Projection.EXACT, grid, spare_zero)
    total = NOTHING
    for box in map(grid.box, range(len(grid))):
        slab = _Slab(job, box, None if base is None else copy.read(base, box, None))
        with np.errstate(all="ignore"):
            total += slab.project()
        if progress is not None:
            progress(math.prod(box_shape(box)) * (tensor.nbytes // tensor.size))
    return total


@frozen
class _Slab:
    """Whole units of a job that lie in `box`, and those of the base."""

    job: Job
    box: Box
    base: NDArray[np.float64] | None

    def project(self) -> Projected:
        """Move the units that lie outside, and write what moved."""
        job = self.job
        before = _wide(job.copy.read(job.tensor, self.box, None))
        measured = self.measured(before)
        outside, chosen = job.fixable(measured, lambda some: self.exact(before, some))
        hopeless = int(np.count_nonzero(outside & ~chosen))
        if not chosen.any():
            return Projected(len(outside), 0, 0.0, hopeless)
        aim = target = np.where(self.over(chosen), self.target(before, measured), before)
        after = self.nearest(target, before)
        found, still = self.outside(after)
        tried = found
        for trial in range(_TRIALS):
            again = chosen & still
            if not again.any():
                break
            aim = np.where(self.over(again), self.beyond(aim, tried, trial), aim)
            other = np.where(self.over(again), self.nearest(aim, before), after)
            tried, out = self.outside(other)
            apart, least = (job.constraint.judge(one).distance for one in (tried, found))
            after = np.where(self.over(again & (~out | (apart < least))), other, after)
            found, still = self.outside(after)
        lies, lay = (job.constraint.judge(one).distance for one in (found, measured))
        held = self.near(after, target)
        good = chosen & held & (~still | (lies < 0.5 * lay))
        moves = self.over(good) & (after != before)
        if moves.any():
            self.write(after, moves)
        change = self.largest(before, np.where(moves, after, before))
        left = hopeless + int(np.count_nonzero(chosen & (still | ~held)))
        return Projected(len(outside), int(np.count_nonzero(self.any(moves))), change, left)

    def outside(self, block: NDArray[np.float64]) -> tuple[UnitStatistics, NDArray[np.bool_]]:
        """What is measured of weights, and which units lie outside, in truth."""
        found = self.measured(block)
        return found, self.job.fixable(found, lambda some: self.exact(block, some))[0]

    def beyond(
        self, target: NDArray[np.float64], found: UnitStatistics, trial: int
    ) -> NDArray[np.float64]:
        """Targets past the bound by what storing the last ones missed it by, or what float64 loses.

        It is more with each trial, because what is less than a step of the grid stores the same
        weights again. The last trial of a distance is the base itself.
        """
        if self.base is not None and trial == _TRIALS - 1:
            return np.broadcast_to(self.base, target.shape)
        judged = self.job.constraint.judge(found)
        step = np.full(len(found), (self.size + 8) * ROUNDOFF * 8.0**trial)
        if self.job.constraint.needs & _SUMMED:
            missed = 4.0**trial * judged.distance / judged.bound
            step = np.maximum(step, np.fmin(missed, _NEAR))
        factor = np.where(judged.measured < judged.bound, 1 + step, 1 - step)
        centre = 0.0 if self.base is None else self.base
        return np.asarray(centre + (target - centre) * self.over(factor))

    def over(self, per_unit: NDArray[Any]) -> NDArray[Any]:
        """Spread a number of each unit over its weights."""
        return Broadcast.all_of(box_shape(self.box), self.job.axes)(per_unit)

    def rows(self, block: NDArray[Any]) -> NDArray[Any]:
        """The weights of each unit, shape (units, weights), C-contiguous.

        What adds them up does so in one order then, whichever units are in memory beside them.
        """
        kept = kept_axes(block.ndim, self.job.axes)
        units = math.prod(block.shape[axis] for axis in kept)
        return np.ascontiguousarray(block.transpose(kept + self.job.axes).reshape(units, self.size))

    def back(self, rows: NDArray[Any]) -> NDArray[Any]:
        """A block of rows; what `rows` does, undone."""
        return put_back(rows, np.empty(box_shape(self.box), rows.dtype), self.job.axes)

    def any(self, block: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which units have a true element."""
        return np.asarray(self.rows(block).any(axis=1))

    @property
    def size(self) -> int:
        """Weights of a unit."""
        return math.prod(self.job.tensor.shape[axis] for axis in self.job.axes)

    def measured(self, block: NDArray[np.float64]) -> UnitStatistics:
        """Measure what the constraint needs of weights."""
        constraint = self.job.constraint
        if isinstance(constraint, WholeUnitConstraint) and not constraint.streaming:
            return measured_whole(constraint, block, self.job.axes)
        if self.base is None:
            return self.statistics(block, constraint.needs)
        apart = self.statistics(block - self.base, _NORM)
        assert isinstance(constraint, Distance)
        return (
            relative_to(apart, self.statistics(self.base, _NORM)) if constraint.relative else apart
        )

    def statistics(self, block: NDArray[np.float64], needs: frozenset[Statistic]) -> UnitStatistics:
        """Measure what `needs` names of the units of a block."""
        if not self.job.axes:
            return measure_units(np.asarray(block, order="C"), (), needs, WORKSPACE)
        return measure_units(self.rows(block), (1,), needs, WORKSPACE)

    def exact(self, block: NDArray[np.float64], places: NDArray[np.intp]) -> Sequence[ExactSums]:
        """Sum the units at `places` exactly."""
        needs = self.job.constraint.needs
        rows = self.rows(block if self.base is None else block - self.base)[places]
        every = np.arange(len(rows))
        sums = sums_of(rows, needs)(every)
        if self.base is None:
            return sums
        of_base = sums_of(self.rows(self.base)[places], needs)(every)
        return [replace(a, base_squares=b.squares) for a, b in zip(sums, of_base, strict=True)]

    def target(self, block: NDArray[np.float64], measured: UnitStatistics) -> NDArray[np.float64]:
        """The nearest points of the set."""
        constraint, axes = self.job.constraint, self.job.axes
        if isinstance(constraint, Distance):
            assert self.base is not None
            apart = block - self.base
            norm = measured[Statistic.NORM]
            share = np.where(norm > 0, np.minimum(constraint.radius(measured) / norm, 1.0), 1.0)
            return np.asarray(self.base + apart * self.over(share))
        if isinstance(constraint, WholeUnitConstraint):
            return put_back(constraint.nearest(units_of(block, axes)), block, axes)
        out = block.copy()
        constraint.project(measured).apply(block, self.over, out)
        return out

    def nearest(
        self, target: NDArray[np.float64], before: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """The stored weights nearest to `target` that lie in the set, as far as rounding can see to it."""
        moves = target != before
        near = self.stored(Wanted(target, np.zeros(target.shape, np.int8), moves), before)
        inward = self.inward(near, target)
        if inward is None or not inward.any():
            return near
        other = self.stored(Wanted(target, inward, moves), before)
        flips = self.flips(target, near, other)
        return np.where(flips, other, near)

    def inward(
        self, near: NDArray[np.float64], target: NDArray[np.float64]
    ) -> NDArray[np.int8] | None:
        """Which way each weight is to be rounded instead, in units that rounding took out of the set."""
        constraint = self.job.constraint
        if constraint.elementwise:
            low, high = constraint.bounds()
            return (near < low).astype(np.int8) - (near > high).astype(np.int8)
        judged = constraint.judge(self.measured(near))
        off = self.over(judged.distance > 0)
        if constraint.needs == {Statistic.MAX_ABS}:
            over = np.abs(near) > self.over(judged.bound)
            return -np.sign(near * over).astype(np.int8)
        if not constraint.needs & _SUMMED:
            return None
        outward = self.over(np.where(judged.measured > judged.bound, -1, 1))
        centre = 0.0 if self.base is None else self.base
        return np.where(off, outward * np.sign(target - centre), 0).astype(np.int8)

    def flips(
        self,
        target: NDArray[np.float64],
        near: NDArray[np.float64],
        other: NDArray[np.float64],
    ) -> NDArray[np.bool_]:
        """Which weights take the `other` rounding: as few as bring their units back, the cheapest first."""
        constraint = self.job.constraint
        if constraint.elementwise or constraint.needs == {Statistic.MAX_ABS}:
            return np.asarray(near != other)
        squared = Statistic.NORM in constraint.needs
        centre = 0.0 if self.base is None else self.base
        sizes = [np.square(w - centre) if squared else np.abs(w) for w in (near, other)]
        judged = constraint.judge(self.measured(near))
        bound = judged.bound
        if isinstance(constraint, Distance):
            bound = constraint.radius(self.measured(near))
        total = self.rows(sizes[0]).sum(axis=1)
        excess = total - (np.square(bound) if squared else bound)
        excess += np.sign(excess) * (self.size + 8) * ROUNDOFF * total
        gain = self.rows(sizes[0] - sizes[1])
        cost = self.rows(np.abs(other - target) ** 2 - np.abs(near - target) ** 2)
        chosen = np.zeros(gain.shape, np.bool_)
        for unit in np.flatnonzero(judged.distance > 0):
            towards = gain[unit] * np.sign(excess[unit])
            order = np.flatnonzero(towards > 0)
            order = order[np.argsort(cost[unit][order] / towards[order], kind="stable")]
            enough = np.searchsorted(np.cumsum(towards[order]), abs(excess[unit])) + 1
            chosen[unit, order[:enough]] = True
        return np.asarray(self.back(chosen))

    def stored(
        self,
        wanted: Wanted,
        before: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """What weights come to be as they are stored; those that do not move are as before."""
        out = before.copy()
        for box, place in _pieces(self.job.tensor, self.box):
            part = _Part(self.job.copy, self.job.tensor.whole, box)
            decoded = part.decoded(wanted.part(place, box_shape(box)))
            out[place] = decoded.reshape(out[place].shape)
        return np.where(wanted.chosen, out, before)

    def write(self, after: NDArray[np.float64], moves: NDArray[np.bool_]) -> None:
        """Store weights that can be stored, those that move."""
        for box, place in _pieces(self.job.tensor, self.box):
            shape = box_shape(box)
            chosen = moves[place].reshape(shape)
            if chosen.any():
                _Part(self.job.copy, self.job.tensor.whole, box).write(
                    after[place].reshape(shape), chosen
                )

    def near(self, after: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which units are stored near their nearest points, and not as zeros for want of a finer grid.

        Towards a base they come near to that, which is no loss.
        """
        if self.job.constraint.elementwise or self.base is not None:
            return np.ones(len(self.rows(after)), np.bool_)
        off, size = (np.square(self.rows(one)).sum(axis=1) for one in (after - target, target))
        return np.asarray(off <= _NEAR**2 * size)

    def largest(self, before: NDArray[np.float64], after: NDArray[np.float64]) -> float:
        """The largest change of a weight, relative to the largest in its unit."""
        change = self.rows(np.abs(after - before)).max(axis=1, initial=0.0)
        return relative(change, self.rows(np.abs(before)).max(axis=1, initial=0.0))


@frozen
class _Part:
    """A box of a tensor of a copy, and how weights are stored there."""

    copy: Copy
    tensor: Tensor
    box: Box

    def decoded(self, wanted: Wanted) -> NDArray[np.float64]:
        """The weights as they would be stored."""
        stored = self._stored(wanted)
        if not isinstance(self.tensor.storage, Effective):
            return _wide(stored[1])
        part, (box, held) = self.tensor.storage.recoded, stored
        out = np.empty(box_shape(self.box))

        def read(tensor: Tensor, wanted: Box) -> NDArray[Any]:
            if part is None or tensor.name != part.name:
                return self.copy.read(tensor, wanted, None)
            return held[
                tuple(slice(a - s, b - s) for (a, b), (s, _) in zip(wanted, box, strict=True))
            ]

        self.tensor.storage.compute(read, self.tensor, self.box, out)
        return out

    def write(self, values: NDArray[np.float64], chosen: NDArray[np.bool_]) -> None:
        """Store `values`, which are such as can be stored, where they are `chosen`."""
        box, held = self._stored(Wanted(values, np.zeros(values.shape, np.int8), chosen))
        storage = self.tensor.storage
        part = storage.recoded if isinstance(storage, Effective) else self.tensor
        assert part is not None
        self.copy.write(part, box, held)

    def _stored(self, wanted: Wanted) -> tuple[Box, NDArray[Any]]:
        """A box of what is stored, and what it is to hold."""
        storage = self.tensor.storage
        if isinstance(storage, Effective):
            return storage.recode(
                lambda tensor, box: self.copy.read(tensor, box, None), self.box, wanted
            )
        held = self.copy.read(self.tensor, self.box, None)
        values = wanted.usable
        directions = (wanted.rounding * np.where(values < 0, -1, 1)).astype(np.int8)
        return self.box, np.where(wanted.chosen, rounded(values, held.dtype, directions), held)


def _pieces(tensor: Tensor, box: Box) -> list[tuple[Box, tuple[slice, ...]]]:
    """The boxes of the whole tensor that hold `box` of it, or of a view of it, and where they lie."""
    if isinstance(tensor.storage, View):
        return list(tensor.storage.pieces(box))
    return [(box, tuple(slice(None) for _ in box))]


def _wide(block: NDArray[Any]) -> NDArray[np.float64]:
    return np.array(block, np.float64, order="C")
