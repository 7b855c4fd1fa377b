"""Projecting one tensor of a copy, in place: units that violate move, all other bytes stay."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial as bound
from typing import TYPE_CHECKING

import numpy as np

from ckptclamp.checkpoints.source import default_jobs
from ckptclamp.engine.blocks import BLOCK, SEGMENT, Grid, grid_of
from ckptclamp.engine.executors import in_order, threads
from ckptclamp.engine.measure import COPIES, DEFAULT_MEMORY, affordable, unreadable
from ckptclamp.engine.mending import NOTHING, Job, Known, mend_box
from ckptclamp.engine.requests import Batch, Projected
from ckptclamp.engine.segments import count_of
from ckptclamp.engine.spanning import spanning_units
from ckptclamp.engine.transform import changed_units
from ckptclamp.errors import UnreadableError
from ckptclamp.spec.model import Projection

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ckptclamp.checkpoints.checkpoint import Copy, TensorReader
    from ckptclamp.checkpoints.tensor import Tensor
    from ckptclamp.constraints.base import Constraint


__all__ = ["Projected", "project"]


def project(
    copy: Copy,
    tensor: Tensor,
    axes: tuple[int, ...],
    constraint: Constraint,
    tolerance: float,
    *,
    projection: Projection = Projection.EXACT,
    memory: int = DEFAULT_MEMORY,
    jobs: int | None = None,
    pool: Executor | None = None,
    progress: Callable[[int], None] | None = None,
    known: Sequence[Batch] = (),
    block: int = BLOCK,
) -> Projected:
    """Project the units of `tensor` in `copy` onto `constraint`; `axes` are the reduced axes.

    `Projection.EXACT` moves only units that violate `tolerance`: to the nearest point of the set,
    computed in float64, rounded to the storage dtype, measured again as stored and moved further
    inward until they conform at tolerance 0 (constraints that rounding inward cannot reach, such as
    ``norm = 1``: at `tolerance`). `Projection.KERAS` applies Keras' formula to every unit with
    finite weights. Units with non-finite weights, those that the constraint calls unmendable, and
    those that Keras' formula would make non-finite in the storage dtype keep their bytes.
    `memory`, `jobs` and `block` are those of `measure`; a `pool` of as many threads may be given, so
    that these keep their buffers from one tensor to the next. `known` is all that `measure` answers for
    this tensor and what the constraint needs, if that is known already; it is believed, and saves
    measuring once more.

    Raises:
        UnreadableError: the tensor cannot be read.
        NotWrittenError: it cannot be written.
    """
    refusal = unreadable(tensor, memory)
    if refusal is not None:
        raise UnreadableError(refusal[0], tensor=tensor.name, hint=refusal[1])
    if tensor.size == 0:
        return NOTHING
    job = Job(copy, tensor, axes, constraint, tolerance, projection, grid_of(tensor, axes, block))
    jobs = affordable(jobs or default_jobs(), [tensor], memory, copies=COPIES)
    small = tensor.size <= SEGMENT
    with threads(1 if small or pool is not None else jobs) as own:
        total, at_work = NOTHING, None if small else pool or own
        for weights, done in (
            _whole_units(job, at_work, 2 * jobs, known)
            if job.grid.completes(axes)
            else spanning_units(job, at_work, 2 * jobs, known)
        ):
            total += done
            if progress is not None:
                progress(weights * (tensor.nbytes // tensor.size))
    return total


def _whole_units(
    job: Job, pool: Executor | None, window: int, known: Sequence[Batch]
) -> Iterator[tuple[int, Projected]]:
    """Mend every box by itself."""
    beforehand = Known(job, known)
    boxes, step = len(job.grid), job.grid.segment
    items = (range(first, min(first + step, boxes)) for first in range(0, boxes, step))
    for item, done in in_order(bound(_mend_boxes, job, beforehand), items, pool, window):
        yield sum(count_of(job.grid.box(index)) for index in item), done


def _mend_boxes(job: Job, known: Known, indices: range) -> Projected:
    total = NOTHING
    with np.errstate(all="ignore"):
        for index in indices:
            box = job.grid.box(index)
            total += mend_box(job, box, known.of(box))
    return total


def differing_units(
    one: TensorReader, other: TensorReader, tensor: Tensor, axes: tuple[int, ...]
) -> int:
    """Count the units of `tensor`, spanning `axes`, in which `one` and `other` differ.

    Two boxes are in memory at once, and a bit for each unit of a box: all boxes of some units are
    visited before those of the next.
    """
    kept = tuple(axis for axis in range(len(tensor.shape)) if axis not in axes)
    cut = grid_of(tensor, axes)
    grid = Grid(cut.shape, cut.tile, (*kept, *axes))
    total, current, differ = 0, None, np.zeros(0, np.bool_)
    for box in map(grid.box, range(len(grid))):
        units = tuple(box[axis] for axis in kept)
        if units != current:
            total += int(np.count_nonzero(differ))
            current, differ = units, np.zeros(math.prod(b - a for a, b in units), np.bool_)
        differ |= changed_units(one.read(tensor, box), other.read(tensor, box), axes)
    return total + int(np.count_nonzero(differ))
