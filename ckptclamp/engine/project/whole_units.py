"""Constraints that need whole units at once: as many units at a time as the memory has room for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptclamp.checkpoints.tensor import Chunked
from ckptclamp.constraints.base import UnitStatistics
from ckptclamp.engine.blocks import BLOCK, Grid, kept_axes
from ckptclamp.engine.measure import unreadable
from ckptclamp.engine.measure.cache import KnownStatistics
from ckptclamp.engine.measure.exact import ExactTotals
from ckptclamp.engine.measure.requests import WORKSPACE, Batch, Failed, Measurement
from ckptclamp.engine.measure.statistics import measure_units
from ckptclamp.engine.project.fitting import fitted
from ckptclamp.engine.project.job import NOTHING, Job, Projected
from ckptclamp.engine.project.transform import Rounding, changed_units, distances, relative, rounded
from ckptclamp.errors import Reason, UnreadableError
from ckptclamp.spec.model import Projection

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ckptclamp.checkpoints.checkpoint import Copy, TensorReader
    from ckptclamp.checkpoints.tensor import Box, Tensor
    from ckptclamp.constraints.base import ExactSums, Statistic
    from ckptclamp.constraints.sets.whole import WholeUnitConstraint
    from ckptclamp.engine.project.job import Sums

_COPIES = 5
"""Arrays of a slab in its storage dtype: read, by units, rounded, tried, and as it will be."""


def measure_whole_units(
    reader: TensorReader,
    tensor: Tensor,
    axes: tuple[int, ...],
    constraint: WholeUnitConstraint,
    memory: int,
) -> Iterator[Measurement]:
    """Measure the units of `tensor`, which span `axes`, by `constraint` itself.

    A tensor that cannot be read, or of which one unit does not fit into `memory` bytes, is answered
    by `Failed`; one without weights by a batch of no units.
    """
    kept = kept_axes(len(tensor.shape), axes)
    try:
        grid = slabs(tensor, axes, _needed(constraint, tensor, axes), memory)
        for box in map(grid.box, range(len(grid))):
            block = reader.read(tensor, box, None)
            yield Batch(
                0, tuple(box[axis] for axis in kept), measured_whole(constraint, block, axes)
            )
    except UnreadableError as error:
        yield Failed(0, error.reason, error.hint)


def project_whole_units(
    copy: Copy,
    tensor: Tensor,
    axes: tuple[int, ...],
    constraint: WholeUnitConstraint,
    tolerance: float,
    *,
    memory: int,
    known: Sequence[Batch] = (),
    progress: Callable[[int], None] | None = None,
    spare_zero: bool = False,
) -> Projected:
    """Project the units of `tensor` in `copy` that violate `tolerance`; `axes` are the reduced axes.

    Each becomes the nearest point of the set, computed in float64 and rounded to the storage dtype,
    is measured again as stored, and is written if it then conforms, or lies less than half as far
    outside as before. Units with non-finite weights, and those that the constraint calls
    unmendable, keep their bytes, and with `spare_zero` zero units. `known` is what `measure` answers
    for this tensor, if it is known.

    Raises:
        UnreadableError: the tensor cannot be read, or one unit does not fit into `memory` bytes.
        NotWrittenError: it cannot be written.
    """
    grid = slabs(tensor, axes, _needed(constraint, tensor, axes), memory)
    job = Job(copy, tensor, axes, constraint, tolerance, Projection.EXACT, grid, spare_zero)
    beforehand = KnownStatistics(job.request, known)
    total = NOTHING
    for box in map(grid.box, range(len(grid))):
        block = copy.read(tensor, box, None)
        statistics = beforehand.of(box) or measured_whole(constraint, block, axes)
        total += _project_slab(job, constraint, box, block, statistics)
        if progress is not None:
            progress(block.nbytes)
    return total


def needed_bytes(
    constraint: WholeUnitConstraint, shape: tuple[int, ...], axes: tuple[int, ...], itemsize: int
) -> int:
    """Bytes that one unit of a tensor of `shape` takes, at most."""
    each = _COPIES * itemsize + 8 * (2 + constraint.workspace)
    return each * math.prod(shape[axis] for axis in axes)


def _needed(constraint: WholeUnitConstraint, tensor: Tensor, axes: tuple[int, ...]) -> int:
    itemsize = 8 if tensor.dtype is None else tensor.dtype.itemsize
    return needed_bytes(constraint, tensor.shape, axes, itemsize)


def slabs(tensor: Tensor, axes: tuple[int, ...], one: int, memory: int) -> Grid:
    """Cut `tensor` into boxes of whole units for `memory` bytes, of which each unit takes `one`.

    Raises:
        UnreadableError: one unit does not.
    """
    refusal = unreadable(tensor, memory)
    if refusal is not None:
        raise UnreadableError(refusal[0], tensor=tensor.name, hint=refusal[1])
    if one > memory:
        raise UnreadableError(
            Reason("memory", f"one unit needs {one} bytes at once, over the budget of {memory}"),
            tensor=tensor.name,
            hint="raise --memory",
        )
    kept = kept_axes(len(tensor.shape), axes)
    unit = math.prod(tensor.shape[axis] for axis in axes)
    chunk = tensor.storage.chunk_shape if isinstance(tensor.storage, Chunked) else ()
    tile, room = list(tensor.shape), max(1, min(memory // max(one, 1), BLOCK // max(unit, 1)))
    for axis in reversed(kept):
        tile[axis] = max(1, min(tile[axis], room))
        if chunk and chunk[axis] < tile[axis] < tensor.shape[axis]:
            tile[axis] -= tile[axis] % chunk[axis]  # so that no chunk is decoded twice
        room = max(1, room // tile[axis])
    return Grid(tensor.shape, tuple(tile), kept + axes)


def measured_whole(
    constraint: WholeUnitConstraint, block: NDArray[Any], axes: tuple[int, ...]
) -> UnitStatistics:
    """Measure what the constraint needs of a block of whole units."""
    if constraint.streaming:
        with np.errstate(all="ignore"):
            return measure_units(np.asarray(block, order="C"), axes, constraint.needs, WORKSPACE)
    with np.errstate(invalid="ignore"):  # a NaN may be a signalling one
        units = units_of(block, axes).astype(np.float64)
    broken = ~np.isfinite(units)
    spread = tuple(range(1, units.ndim))
    nonfinite = np.count_nonzero(broken, axis=spread)
    units[nonfinite > 0] = 0.0
    return UnitStatistics(
        math.prod(units.shape[1:]), constraint.measure(units), np.asarray(nonfinite, np.int64)
    )


def units_of(block: NDArray[Any], axes: tuple[int, ...]) -> NDArray[Any]:
    """The units of a block, shape (units, *their extents)."""
    kept = kept_axes(block.ndim, axes)
    extents = [block.shape[axis] for axis in axes]
    return block.transpose(kept + axes).reshape(-1, *extents)


def put_back(units: NDArray[Any], like: NDArray[Any], axes: tuple[int, ...]) -> NDArray[Any]:
    """The block of which `units` are the units; what `_units` does, undone."""
    order = kept_axes(like.ndim, axes) + axes
    there = units.reshape([like.shape[axis] for axis in order])
    return np.asarray(there.transpose(np.argsort(order)), order="C")


def _project_slab(
    job: Job,
    constraint: WholeUnitConstraint,
    box: Box,
    block: NDArray[Any],
    before: UnitStatistics,
) -> Projected:
    """Project the units of one box, and write those that got better."""
    units = units_of(block, job.axes)
    lay, (outside, chosen) = (
        constraint.judge(before),
        job.fixable(before, sums_of(units, constraint.needs)),
    )
    hopeless = int(np.count_nonzero(outside & ~chosen))
    if not chosen.any():
        return Projected(len(outside), 0, 0.0, hopeless)
    with np.errstate(all="ignore"):
        near = constraint.nearest(units[chosen].astype(np.float64))
        stored = units.copy()
        sums = constraint.magnitude_sum()
        stored[chosen] = (
            rounded(near, units.dtype, Rounding.NEAREST)
            if sums is None
            else fitted(near, units.dtype, sums)
        )
        trial = put_back(stored, block, job.axes)
        after = measured_whole(constraint, trial, job.axes)
        lies = job.judged(after, sums_of(stored, constraint.needs))
        conforms = ~lies.violates(job.tolerance) & (after.nonfinite == 0)
        better = chosen & (conforms | (lies.distance < 0.5 * lay.distance))
    stored[~better] = units[~better]
    final = put_back(stored, block, job.axes)
    changed = changed_units(block, final, job.axes)
    job.write(box, changed, final)
    change = relative(*distances(block, final, job.axes, WORKSPACE))
    left = hopeless + int(np.count_nonzero(chosen & ~conforms))
    return Projected(len(outside), int(np.count_nonzero(changed)), change, left)


def sums_of(units: NDArray[Any], needs: frozenset[Statistic]) -> Sums:
    """What sums some of `units` exactly, shape (units, ...)."""

    def sums(places: NDArray[np.intp]) -> list[ExactSums]:
        rows = units.reshape(len(units), -1)
        totals = ExactTotals(needs, len(places))
        totals.add(np.arange(len(places)), rows[places])
        return totals.sums(rows.shape[1])

    return sums
