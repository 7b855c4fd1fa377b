"""One projection: what is done to which tensor, and which of its bytes are written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptclamp.checkpoints.tensor import Chunked, box_shape
from ckptclamp.engine.blocks import Broadcast, within
from ckptclamp.engine.exact import settled
from ckptclamp.engine.requests import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from ckptclamp.checkpoints.checkpoint import Copy
    from ckptclamp.checkpoints.tensor import Box, Tensor
    from ckptclamp.constraints.base import Constraint, ExactSums, Judgement, UnitStatistics
    from ckptclamp.engine.blocks import Grid
    from ckptclamp.spec.model import Projection

    Sums = Callable[[NDArray[np.intp]], Sequence[ExactSums]]

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
        return outside, outside & ~broken & ~self.constraint.unmendable(statistics)

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
