"""One projection: what is done to which tensor, its units as rows, and which bytes are written.

Units that one box holds and units that span many go the same way: a pass visits the boxes and hands
rows of the units that matter to some work, about as many at a time as a cache holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from functools import partial as bound
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ckptclamp.checkpoints.tensor import Chunked, box_shape
from ckptclamp.constraints.base import UnitStatistics
from ckptclamp.engine.blocks import PIECE, Broadcast, Workspace, count_of, kept_axes, within
from ckptclamp.engine.executors import in_order
from ckptclamp.engine.measure.exact import ExactTotals, settled
from ckptclamp.engine.measure.requests import WORKSPACE, Request
from ckptclamp.engine.measure.statistics import Partial, measure_box, measured
from ckptclamp.engine.project.rows import MOST_PIECES, Held, Rows, pieces_of
from ckptclamp.engine.project.transform import compare, relative
from ckptclamp.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
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
    store: Workspace = field(default_factory=Workspace)
    """Where rows stay from one pass over them to the next."""

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
    is put together in the order of the boxes. As many weights are worked on `at_once`: more than a piece
    where compiled kernels do the work, which cut it themselves.
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
        self.at_once = PIECE
        self._held: dict[int, Held] = {}
        self._store, self._starts = np.zeros(0), [0]
        self._holding: NDArray[np.bool_] | None = None
        self._kept = kept_axes(len(job.tensor.shape), job.axes)

    def hold(self, chosen: NDArray[np.bool_]) -> None:
        """Keep the rows of the `chosen` units, if there is room; later passes are over some of these."""
        tensor = self.job.tensor
        if self._holding is not None:
            return
        assert tensor.dtype is not None
        needed = int(np.count_nonzero(chosen)) * self.job.request.unit
        if needed * tensor.dtype.itemsize > self._room:
            return
        self._holding = chosen
        self._store = self.job.store.array("rows", tensor.dtype.numpy, (needed,))
        sizes = [
            np.count_nonzero(chosen[units]) * (count_of(box) // (units.stop - units.start))
            for box, units in self._boxes
        ]
        self._starts = np.cumsum([0, *sizes]).tolist()

    @property
    def only_pieces(self) -> NDArray[np.intp] | None:
        """The number of the piece that holds each unit, or ``None`` where not every unit is in one."""
        lengths = [units.stop - units.start for _, units in self._boxes]
        if sum(lengths) != self.count or self.job.request.unit > PIECE:
            return None
        return np.repeat(np.arange(len(lengths)) * MOST_PIECES, lengths)

    def run(
        self,
        work: Work[Result],
        active: NDArray[np.bool_],
        at_once: int | None = None,
        *,
        alike: bool = False,
    ) -> Iterator[tuple[int, NDArray[np.intp], Result]]:
        """Do `work` with the rows of the `active` units; yield box, units and result, in order.

        It is done for the boxes of a few units together where it is `alike` in all of them: results are
        then a `Partial`, or an array of shape (units,).
        """
        if alike and self._few(active):
            yield from self._stacked(work, active)
            return
        visit = bound(self._visit, work, active, at_once or self.at_once)
        for _, results in self._each(visit, active):
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

    def gather(
        self, work: Work[Partial], active: NDArray[np.bool_], *, alike: bool = False
    ) -> UnitStatistics:
        """Put together what `work` measures of the `active` units, as `measure` does; see `run`."""
        needs, total = self.job.constraint.needs, Partial({})
        for _, places, found in self.run(work, active, alike=alike):
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
        for _, here, found in self.run(work, chosen, PIECE):
            total.merge(np.searchsorted(places, here), found)
        return total.sums(self.job.request.unit)

    def write(self, make: Make, chosen: NDArray[np.bool_]) -> Projected:
        """Write the `chosen` units as `make` makes them, and count what that changes."""
        changed = np.zeros(self.count, np.bool_)
        largest, peak = np.zeros(self.count), np.zeros(self.count)
        if chosen.any():
            for _, parts in self._each(bound(self._write_box, make, chosen), chosen):
                for places, some, (distance, magnitude) in parts:
                    changed[places] |= some
                    largest[places] = np.maximum(largest[places], distance)
                    peak[places] = np.maximum(peak[places], magnitude)
        return Projected(self.count, int(np.count_nonzero(changed)), relative(largest, peak), 0)

    def _each(
        self, visit: Callable[[int], list[Result]], active: NDArray[np.bool_]
    ) -> Iterator[tuple[int, list[Result]]]:
        """Visit the boxes; in the pool, unless so few units are `active` that to hand them over is more."""
        parts = range(len(self._boxes))
        return in_order(visit, parts, None if self._few(active) else self._pool, self._window)

    def _few(self, active: NDArray[np.bool_]) -> bool:
        """Whether calls are more than the work on the `active` units, which are in memory."""
        weights = np.count_nonzero(active) * self.job.request.unit
        return self._holding is not None and bool(weights <= PIECE)

    def _stacked(
        self, work: Work[Result], active: NDArray[np.bool_]
    ) -> Iterator[tuple[int, NDArray[np.intp], Result]]:
        """Do `work` with rows of several boxes that hold the same units."""
        width = [count_of(box) // (units.stop - units.start) for box, units in self._boxes]
        for _, alike in groupby(
            range(len(width)), lambda part: (self._boxes[part][1], width[part])
        ):
            parts = list(alike)
            units = self._boxes[parts[0]][1]
            some = np.flatnonzero(active[units])
            if not len(some):
                continue
            whole, places = slice(0, width[parts[0]]), units.start + some
            rows = np.concatenate([self._rows(part).take(some, whole) for part in parts])
            with np.errstate(all="ignore"):
                found: Any = work(parts[0], np.tile(places, len(parts)), rows)
            split = found.split if isinstance(found, Partial) else bound(np.split, found)
            of_each: Iterable[Any] = split(len(parts))
            for part, one in zip(parts, of_each, strict=True):
                yield part * MOST_PIECES, places, one

    def _visit(
        self, work: Work[Result], active: NDArray[np.bool_], at_once: int, part: int
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
                for part, some, columns in pieces_of(part, chosen, rows.width, at_once)
            ]

    def _rows(self, part: int) -> Rows | Held:
        """The rows of a box; those that are kept, read once."""
        box, units = self._boxes[part]
        if part in self._held:
            return self._held[part]
        rows = Rows(self._block_of(box), self.job.axes, self._kept)
        if self._holding is None:
            return rows
        places = np.flatnonzero(self._holding[units])
        start = self._starts[part]
        out = self._store[start : start + len(places) * rows.width].reshape(-1, rows.width)
        rows.copy(places, slice(0, rows.width), out)
        self._held[part] = Held(places, out)
        return self._held[part]

    def _write_box(
        self, make: Make, chosen: NDArray[np.bool_], part: int
    ) -> list[tuple[NDArray[np.intp], NDArray[np.bool_], tuple[Any, Any]]]:
        """Write one box."""
        box, units = self._boxes[part]
        first, some_of = units.start, np.flatnonzero(chosen[units])
        if not len(some_of):
            return []
        held = self._held.get(part)
        if held is not None and not np.isin(some_of, held.places).all():
            held = None
        if held is None or len(some_of) < units.stop - first:
            block = self._block_of(box)
        else:  # nothing of it stays
            block = WORKSPACE.array("written", held.rows.dtype, box_shape(box))
        rows = Rows(block, self.job.axes, self._kept)
        differ = np.zeros(rows.count, np.bool_)
        found = []
        with np.errstate(all="ignore"):
            for piece, some, columns in pieces_of(part, some_of, rows.width, self.at_once):
                before = (held or rows).take(some, columns)
                after = make(piece, first + some, before)
                differs, change, peak = compare(before, after, WORKSPACE)
                differ[some] |= differs
                found.append((first + some, differ[some], (change, peak)))
                rows.put(some, columns, after)
        self.job.write(box, differ, block)
        return found
