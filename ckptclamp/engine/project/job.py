"""One projection: what is done to which tensor, its units as rows, and which bytes are written.

Units that one box holds and units that span many go the same way: a pass visits the boxes and hands
rows of the units that matter to some work, about as many at a time as a cache holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial as bound
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ckptclamp.checkpoints.tensor import Chunked, box_shape
from ckptclamp.constraints.base import UnitStatistics
from ckptclamp.engine.blocks import PIECE, Broadcast, kept_axes, within
from ckptclamp.engine.executors import in_order
from ckptclamp.engine.kernels import native
from ckptclamp.engine.measure.exact import ExactTotals, settled
from ckptclamp.engine.measure.requests import WORKSPACE, Request
from ckptclamp.engine.measure.statistics import Partial, measure_box, measured
from ckptclamp.engine.project.transform import compare, relative
from ckptclamp.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import Executor

    from numpy.typing import NDArray

    from ckptclamp.checkpoints.checkpoint import Copy
    from ckptclamp.checkpoints.tensor import Box, Tensor
    from ckptclamp.constraints.base import Constraint, ExactSums, Judgement, Statistic
    from ckptclamp.engine.blocks import Grid
    from ckptclamp.spec.model import Projection

    Sums = Callable[[NDArray[np.intp]], Sequence[ExactSums]]

_GAP = 16 << 10
"""Writing so many bytes again costs less than one more system call."""


@frozen
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


@frozen
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

    def judged(self, statistics: UnitStatistics, sums: Sums) -> Judgement:
        """Judge units truly at the tolerance and at 0; `sums` finds the exact sums of some of them."""
        judgement = self.constraint.judge(statistics)
        broken = statistics.nonfinite > 0
        return settled(judgement, self.constraint, self.tolerance, broken, sums)

    def fixable(
        self, statistics: UnitStatistics, sums: Sums
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which units lie outside (non-finite ones do), and which of these a projection can mend."""
        broken = statistics.nonfinite > 0
        outside = self.judged(statistics, sums).violates(self.tolerance) | broken
        outside &= ~self.spared(statistics)
        return outside, outside & ~broken & ~self.constraint.unmendable(statistics)

    def spared(self, statistics: UnitStatistics) -> NDArray[np.bool_]:
        """Which units are left alone wherever they lie."""
        return statistics.zero if self.spare_zero else np.zeros(len(statistics), np.bool_)

    def write(self, box: Box, units: NDArray[np.bool_], after: NDArray[Any]) -> None:
        """Write the changed `units` of `box`, which is to hold `after`."""
        if not units.any():
            return
        for part in _boxes_to_write(self.tensor, box, self.axes, units):
            self.copy.write(self.tensor, part, after[within(box, part)])


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


_MOST_PIECES = 1 << 20
"""More than a row has."""

Result = TypeVar("Result")

Make = Callable[[int, "NDArray[np.intp]", "NDArray[Any]"], "NDArray[Any]"]
"""Makes of (the box's place, units, their rows in it) what is to be stored, of the same dtype."""

Work = Callable[[int, "NDArray[np.intp]", "NDArray[Any]"], Result]
"""Anything that is done with such rows."""


def as_stored(part: int, places: NDArray[np.intp], rows: NDArray[Any]) -> NDArray[Any]:
    """Leave weights as they are."""
    del part, places
    return rows


class Units:
    """All units of a job's tensor that lie in some boxes.

    `boxes` tells which units each box has weights of; `block_of` returns what it holds. A pass
    visits the boxes in their order, `pool` works on several at once, and everything that comes of it
    is put together in the order of the boxes.
    """

    def __init__(
        self,
        job: Job,
        boxes: Mapping[Box, slice],
        block_of: Callable[[Box], NDArray[Any]],
        pool: Executor | None = None,
        *,
        window: int = 1,
        room: int = 0,
    ) -> None:
        self.job = job
        self.count = max(units.stop for units in boxes.values())
        self._boxes, self._block_of = list(boxes.items()), block_of
        self._pool, self._window, self._room = pool, window, room
        self._held: dict[int, _Held] = {}
        self._holding: NDArray[np.bool_] | None = None
        self._kept = kept_axes(len(job.tensor.shape), job.axes)

    def hold(self, chosen: NDArray[np.bool_]) -> None:
        """Keep the rows of the `chosen` units, if there is room; later passes are over some of these."""
        tensor = self.job.tensor
        if self._holding is not None:
            return
        needed = np.count_nonzero(chosen) * self.job.request.unit * (tensor.nbytes // tensor.size)
        if needed <= self._room:
            self._holding = chosen

    def run(
        self, work: Work[Result], active: NDArray[np.bool_]
    ) -> Iterator[tuple[int, NDArray[np.intp], Result]]:
        """Do `work` with the rows of the `active` units; yield box, units and result, in order."""
        visit = bound(self._visit, work, active)
        for _, results in self._each(visit):
            yield from results

    def measure(self, make: Make, active: NDArray[np.bool_]) -> UnitStatistics:
        """Measure the `active` units as `make` would store them; the others' numbers mean nothing."""
        needs, axes = self.needed, (1,) if self.job.axes else ()

        def work(part: int, places: NDArray[np.intp], rows: NDArray[Any]) -> Partial:
            new = make(part, places, rows)
            return measure_box(new if axes else new[:, 0], axes, needs, WORKSPACE)

        return self.gather(work, active)

    @property
    def needed(self) -> frozenset[Statistic]:
        """What is measured of them."""
        return measured(self.job.constraint.needs)

    def gather(self, work: Work[Partial], active: NDArray[np.bool_]) -> UnitStatistics:
        """Put together what `work` measures of the `active` units, as `measure` does."""
        needs, total = self.job.constraint.needs, Partial({})
        for _, places, found in self.run(work, active):
            total.take(places, found, self.count)
        return total.statistics(needs, self.job.request.unit)

    def exact(self, make: Make, places: NDArray[np.intp]) -> list[ExactSums]:
        """Sum the units at `places` exactly, as `make` would store them."""
        needs = self.job.constraint.needs

        def work(part: int, places: NDArray[np.intp], rows: NDArray[Any]) -> ExactTotals:
            found = ExactTotals(needs, len(places))
            found.add(np.arange(len(places)), make(part, places, rows))
            return found

        total = ExactTotals(needs, len(places))
        chosen = np.zeros(self.count, np.bool_)
        chosen[places] = True
        for _, here, found in self.run(work, chosen):
            total.merge(np.searchsorted(places, here), found)
        return total.sums(self.job.request.unit)

    def write(self, make: Make, chosen: NDArray[np.bool_]) -> Projected:
        """Write the `chosen` units as `make` makes them, and count what that changes."""
        changed = np.zeros(self.count, np.bool_)
        largest, peak = np.zeros(self.count), np.zeros(self.count)
        if chosen.any():
            for _, parts in self._each(bound(self._write_box, make, chosen)):
                for places, some, (distance, magnitude) in parts:
                    changed[places] |= some
                    largest[places] = np.maximum(largest[places], distance)
                    peak[places] = np.maximum(peak[places], magnitude)
        return Projected(self.count, int(np.count_nonzero(changed)), relative(largest, peak), 0)

    def _each(self, visit: Callable[[int], list[Result]]) -> Iterator[tuple[int, list[Result]]]:
        return in_order(visit, range(len(self._boxes)), self._pool, self._window)

    def _visit(
        self, work: Work[Result], active: NDArray[np.bool_], part: int
    ) -> list[tuple[int, NDArray[np.intp], Result]]:
        """Do `work` with one box."""
        units = self._boxes[part][1]
        first, chosen = units.start, np.flatnonzero(active[units])
        if not len(chosen):
            return []
        rows = self._rows(part)
        with np.errstate(all="ignore"):
            return [
                (part, first + some, work(part, first + some, rows.take(some, columns)))
                for part, some, columns in _pieces(part, chosen, rows.width)
            ]

    def _rows(self, part: int) -> _Rows | _Held:
        """The rows of a box; those that are kept, read once."""
        box, units = self._boxes[part]
        if part in self._held:
            return self._held[part]
        rows = _Rows(self._block_of(box), self.job.axes, self._kept)
        if self._holding is None:
            return rows
        places = np.flatnonzero(self._holding[units])
        held = rows.take(places, slice(0, rows.width))
        # What is read lies in a buffer that the next box is read into.
        self._held[part] = _Held(places, held if held.base is None else held.copy())
        return self._held[part]

    def _write_box(
        self, make: Make, chosen: NDArray[np.bool_], part: int
    ) -> list[tuple[NDArray[np.intp], NDArray[np.bool_], tuple[Any, Any]]]:
        """Write one box."""
        box, units = self._boxes[part]
        first, some_of = units.start, np.flatnonzero(chosen[units])
        if not len(some_of):
            return []
        block = self._block_of(box)
        rows = _Rows(block, self.job.axes, self._kept)
        differ = np.zeros(rows.count, np.bool_)
        found = []
        with np.errstate(all="ignore"):
            for piece, some, columns in _pieces(part, some_of, rows.width):
                before = rows.take(some, columns)
                after = make(piece, first + some, before)
                differs, change, peak = compare(before, after, WORKSPACE)
                differ[some] |= differs
                found.append((first + some, differ[some], (change, peak)))
                rows.put(some, columns, after)
        self.job.write(box, differ, block)
        return found


class _Rows:
    """A block, seen as one row for each of its units."""

    def __init__(self, block: NDArray[Any], axes: tuple[int, ...], kept: tuple[int, ...]) -> None:
        order = (*kept, *axes)
        self._extents = tuple(block.shape[axis] for axis in kept)
        self._shape = tuple(block.shape[axis] for axis in axes)
        self.count, self.width = math.prod(self._extents), math.prod(self._shape)
        self._view, self._columns = block.transpose(order), None
        if order == tuple(range(block.ndim)):
            self._view = block.reshape(self.count, self.width)
            self._extents, self._shape = (self.count,), (self.width,)
        elif (*axes, *kept) == tuple(range(block.ndim)):
            self._columns = block.reshape(self.width, self.count)

    def take(self, places: NDArray[np.intp], columns: slice) -> NDArray[Any]:
        """Part of the rows at `places`, C-contiguous; no copy where they lie like that."""
        if self._columns is not None and (library := native.loaded()) is not None:
            return library.gather(self._columns[columns], places)
        rows = self._view[self._at(places)].reshape(len(places), self.width)
        return np.ascontiguousarray(rows[:, columns])

    def put(self, places: NDArray[np.intp], columns: slice, new: NDArray[Any]) -> None:
        """Replace part of the rows at `places`."""
        if self._columns is not None and (library := native.loaded()) is not None:
            library.scatter(self._columns[columns], places, new)
            return
        at = self._at(places)
        rows = new
        if new.shape[1] < self.width:
            rows = self._view[at].reshape(len(places), self.width)
            rows[:, columns] = new
        self._view[at] = rows.reshape(len(places), *self._shape)

    def _at(self, places: NDArray[np.intp]) -> Any:  # noqa: ANN401 - an index
        if len(self._extents) == 1 and len(places) == places[-1] - places[0] + 1:
            return slice(places[0], places[-1] + 1)  # they follow each other
        return np.unravel_index(places, self._extents)


@frozen
class _Held:
    """Some rows of a block, those at `places`."""

    places: NDArray[np.intp]
    rows: NDArray[Any]

    @property
    def width(self) -> int:
        """Weights in a row."""
        return int(self.rows.shape[1])

    def take(self, places: NDArray[np.intp], columns: slice) -> NDArray[Any]:
        """Part of the rows at `places`, C-contiguous."""
        if len(places) == len(self.places):
            return np.ascontiguousarray(self.rows[:, columns])
        at = np.searchsorted(self.places, places)
        assert np.array_equal(self.places[at], places)
        following = at[-1] - at[0] + 1 == len(at)
        some = self.rows[at[0] : at[-1] + 1] if following else self.rows[at]
        return np.ascontiguousarray(some[:, columns])


def _pieces(
    part: int, places: NDArray[np.intp], width: int
) -> Iterator[tuple[int, NDArray[np.intp], slice]]:
    """Cut rows of box `part` into pieces for the cache, and number these in the order of weights."""
    height, columns = max(1, PIECE // width), min(width, PIECE)
    for top in range(0, len(places), height):
        for number, left in enumerate(range(0, width, columns)):
            yield (
                part * _MOST_PIECES + number,
                places[top : top + height],
                slice(left, left + columns),
            )
