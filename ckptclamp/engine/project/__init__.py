"""Projecting one tensor of a copy, in place: units that violate move, all other bytes stay."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial as bound
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptclamp.checkpoints.source import default_jobs
from ckptclamp.engine.blocks import (
    PENDING,
    SEGMENT,
    Grid,
    Workspace,
    block_of,
    count_of,
    grid_of,
    kept_axes,
)
from ckptclamp.engine.executors import in_order, threads
from ckptclamp.engine.measure import COPIES, DEFAULT_MEMORY, affordable, room_for_rows, unreadable
from ckptclamp.engine.measure.cache import KnownStatistics
from ckptclamp.engine.measure.requests import WORKSPACE, Batch, read
from ckptclamp.engine.measure.statistics import extremes_inside
from ckptclamp.engine.project.job import NOTHING, Job, Projected, Units, as_stored
from ckptclamp.engine.project.picked import PickedRows, few_rows
from ckptclamp.engine.project.search import nearest
from ckptclamp.engine.project.transform import as_keras, changed_units
from ckptclamp.errors import UnreadableError
from ckptclamp.spec.model import Projection

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from numpy.typing import NDArray

    from ckptclamp.checkpoints.checkpoint import Copy, TensorReader
    from ckptclamp.checkpoints.tensor import Box, Tensor
    from ckptclamp.constraints.base import Constraint, UnitStatistics


__all__ = ["Projected", "project"]

_TOGETHER = 4096
"""Units that are searched for at once where a box has fewer: each step costs some calls, whatever it does."""


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
    block: int | None = None,
    spare_zero: bool = False,
    store: Workspace | None = None,
) -> Projected:
    """Project the units of `tensor` in `copy` onto `constraint`; `axes` are the reduced axes.

    `Projection.EXACT` moves only units that violate `tolerance`: to the nearest weights in the set
    that the storage dtype holds, see `search`. They conform at tolerance 0, in exact arithmetic
    (constraints that rounding inward cannot reach, such as ``norm = 1``: at `tolerance`).
    `Projection.KERAS` applies Keras' formula to every unit with finite weights. Units with non-finite
    weights, those that the constraint calls unmendable, and those that Keras' formula would make
    non-finite in the storage dtype keep their bytes.

    `memory`, `jobs` and `block` are those of `measure`; a `pool` of as many threads may be given, and a
    `store` for rows, so that buffers are kept from one tensor to the next. `known` is all that `measure` answers for
    this tensor and what the constraint needs, if that is known already; it is believed, and saves
    measuring once more. `spare_zero` leaves units alone that have no weight but zeros.

    Raises:
        UnreadableError: the tensor cannot be read.
        NotWrittenError: it cannot be written.
    """
    refusal = unreadable(tensor, memory)
    if refusal is not None:
        raise UnreadableError(refusal[0], tensor=tensor.name, hint=refusal[1])
    if tensor.size == 0:
        return NOTHING
    grid = grid_of(tensor, axes, block)
    job = Job(
        *(copy, tensor, axes, constraint, tolerance, projection, grid, spare_zero),
        store=store or Workspace(),
    )
    if (few := _few(job, known)) is not None:
        return _picked(job, *few, memory=memory, jobs=jobs, pool=pool, progress=progress)
    jobs = affordable(jobs or default_jobs(), [tensor], memory, projecting=True)
    small = tensor.size <= SEGMENT
    with threads(1 if small or pool is not None else jobs) as own:
        total, at_work = NOTHING, None if small else pool or own
        for weights, done in (
            _whole_units(job, at_work, 2 * jobs, known)
            if job.grid.completes(axes)
            else _spanning_units(job, at_work, 2 * jobs, known, room_for_rows(jobs, tensor, memory))
        ):
            total += done
            if progress is not None:
                progress(weights * (tensor.nbytes // tensor.size))
    return total


def _few(job: Job, known: Sequence[Batch]) -> tuple[NDArray[np.intp], UnitStatistics] | None:
    """The rows that may have to move, where it is known that these are few, and what is known of all."""
    if job.projection is Projection.KERAS or not job.grid.completes(job.axes):
        return None
    whole = tuple((0, extent) for extent in job.tensor.shape)
    statistics = KnownStatistics(job.request, known).of(whole)
    if statistics is None:
        return None
    rows = few_rows(job.tensor, job.axes, job.constraint, statistics)
    return None if rows is None else (rows, statistics)


def _picked(
    job: Job,
    rows: NDArray[np.intp],
    statistics: UnitStatistics,
    *,
    memory: int,
    jobs: int | None,
    pool: Executor | None,
    progress: Callable[[int], None] | None,
) -> Projected:
    """Project some rows, the only ones that may have to move, without reading any other."""
    picked = PickedRows(job.copy, job.tensor, rows)
    others = job.tensor.shape[0] - len(rows)
    done = Projected(others, 0, 0.0, 0)
    if len(rows):
        done += project(
            *(picked, picked.tensor, job.axes, job.constraint, job.tolerance),
            memory=memory,
            jobs=jobs,
            pool=pool,
            known=[Batch(0, ((0, len(rows)),), statistics.part(rows))],
            spare_zero=job.spare_zero,
        )
    if progress is not None:
        progress(job.tensor.nbytes)
    return done


def differing_units(
    one: TensorReader, other: TensorReader, tensor: Tensor, axes: tuple[int, ...]
) -> int:
    """Count the units of `tensor`, spanning `axes`, in which `one` and `other` differ.

    Two boxes are in memory at once, and a bit for each unit of a box: all boxes of some units are
    visited before those of the next.
    """
    kept = kept_axes(len(tensor.shape), axes)
    cut = grid_of(tensor, axes)
    grid = Grid(cut.shape, cut.tile, (*kept, *axes))
    total, current, differ = 0, None, np.zeros(0, np.bool_)
    for box in map(grid.box, range(len(grid))):
        units = tuple(box[axis] for axis in kept)
        if units != current:
            total += int(np.count_nonzero(differ))
            current, differ = units, np.zeros(count_of(units), np.bool_)
        differ |= changed_units(one.read(tensor, box), other.read(tensor, box), axes)
    return total + int(np.count_nonzero(differ))


def _whole_units(
    job: Job, pool: Executor | None, window: int, known: Sequence[Batch]
) -> Iterator[tuple[int, Projected]]:
    """Mend some boxes at a time, each read once at most and only where that must be."""
    beforehand = KnownStatistics(job.request, known)
    boxes, units = len(job.grid), math.prod(job.grid.tile[axis] for axis in job.request.kept)
    step = max(1, min(job.grid.boxes_of(COPIES * block_of(job.tensor)), _TOGETHER // units))
    items = (range(first, min(first + step, boxes)) for first in range(0, boxes, step))
    for item, done in in_order(bound(_fix_boxes, job, beforehand), items, pool, window):
        yield sum(count_of(job.grid.box(index)) for index in item), done


def _fix_boxes(job: Job, known: KnownStatistics, indices: range) -> Projected:
    """Project the units of some boxes, all of them whole."""
    held: dict[Box, NDArray[Any]] = {}

    def block(box: Box) -> NDArray[Any]:
        if box not in held:
            held[box] = read(job.copy, job.tensor, box, f"read {len(held)}")
        return held[box]

    placed: dict[Box, slice] = {}
    fitting = count = 0
    bounds = job.constraint.bounds() if _screened(job) else None
    for box in map(job.grid.box, indices):
        units = math.prod(box[axis][1] - box[axis][0] for axis in job.request.kept)
        if bounds is not None and known.of(box) is None and _inside(block(box), bounds):
            fitting += units
        else:
            placed[box] = slice(count, count := count + units)
    fine = Projected(fitting, 0, 0.0, 0)
    return _fix(Units(job, placed, block), known.of_all(placed)) + fine if placed else fine


def _screened(job: Job) -> bool:
    """Whether a block of single weights is told by its extremes to have nothing to mend."""
    return job.projection is Projection.EXACT and job.constraint.elementwise and not job.axes


def _inside(block: NDArray[Any], bounds: tuple[float, float]) -> bool:
    with np.errstate(all="ignore"):
        return extremes_inside(block, bounds, WORKSPACE) is not None


def _spanning_units(
    job: Job, pool: Executor | None, window: int, known: Sequence[Batch], room: int
) -> Iterator[tuple[int, Projected]]:
    """Project units that no box holds whole, as many at a time as there is room for.

    Each pass over their weights reads the boxes again, unless there is `room` in bytes for those that
    move; what is tried is never written.
    """
    beforehand = KnownStatistics(job.request, known)
    for boxes in _unit_groups(job):
        where: dict[Box, slice] = {}
        placed: dict[Box, slice] = {}
        firsts, count = [], 0
        for box in boxes:
            units = tuple(box[axis] for axis in job.request.kept)
            if units not in where:
                where[units] = slice(count, count := count + count_of(units))
                firsts.append(box)
            placed[box] = where[units]
        group = Units(
            job, placed, bound(read, job.copy, job.tensor), pool, window=window, room=room
        )
        yield sum(map(count_of, boxes)), _fix(group, beforehand.of_all(firsts))


def _unit_groups(job: Job) -> Iterator[list[Box]]:
    """Boxes that hold whole units: all boxes, or some stripes at a time."""
    grid, step = job.grid, len(job.grid)
    if grid.order != tuple(range(len(grid.shape))):
        boxes = math.prod(grid.counts[axis] for axis in job.axes)
        units = math.prod(grid.tile[axis] for axis in job.request.kept)
        step = boxes * max(1, PENDING // 4 // units)
    for first in range(0, len(grid), step):
        yield [grid.box(index) for index in range(first, min(first + step, len(grid)))]


def _fix(units: Units, known: UnitStatistics | None) -> Projected:
    """Move the units that are to move, and write them."""
    everything = np.ones(units.count, np.bool_)
    with np.errstate(all="ignore"):
        statistics = units.measure(as_stored, everything) if known is None else known
        if units.job.projection is Projection.KERAS:
            return _follow_keras(units, statistics)
        outside, chosen = units.job.fixable(statistics, bound(units.exact, as_stored))
        left = int(np.count_nonzero(outside & ~chosen))
        if not chosen.any():
            return Projected(units.count, 0, 0.0, left)
        units.hold(chosen)
        make, accepted, lost = nearest(units, statistics, chosen)
        return units.write(make, accepted) + Projected(0, 0, 0.0, left + int(np.sum(lost)))


def _follow_keras(units: Units, statistics: UnitStatistics) -> Projected:
    """Do to every unit what Keras' formula does, unless that would make it non-finite."""
    job, movement = units.job, units.job.constraint.project_keras(statistics)

    def make(part: int, places: NDArray[np.intp], rows: NDArray[Any]) -> NDArray[Any]:
        del part
        return as_keras(movement.part(places), rows)

    chosen = (statistics.nonfinite == 0) & ~job.spared(statistics)
    if not chosen.any():
        return Projected(units.count, 0, 0.0, int(np.count_nonzero(statistics.nonfinite)))
    places = np.flatnonzero(chosen)
    trial = units.measure(make, chosen).part(places)
    left, _ = job.fixable(statistics, bound(units.exact, as_stored))
    now, _ = job.fixable(trial, lambda some: units.exact(make, places[some]))
    kept = trial.nonfinite == 0
    left[places[kept]] = now[kept]
    good = np.zeros_like(chosen)
    good[places[kept]] = True
    return units.write(make, good) + Projected(0, 0, 0.0, int(np.count_nonzero(left)))
