"""Projecting one tensor of a copy, in place: units that violate move, all other bytes stay.

Units that lie whole in a box are mended box by box here; the others by `spanning`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial as bound
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptclamp.checkpoints.source import default_jobs
from ckptclamp.engine.blocks import BLOCK, SEGMENT, Grid, count_of, grid_of, kept_axes
from ckptclamp.engine.cache import KnownStatistics
from ckptclamp.engine.executors import in_order, threads
from ckptclamp.engine.job import NOTHING, Job, Projected
from ckptclamp.engine.kernels import merged
from ckptclamp.engine.measure import COPIES, DEFAULT_MEMORY, affordable, unreadable
from ckptclamp.engine.requests import WORKSPACE, Batch, read
from ckptclamp.engine.spanning import spanning_units
from ckptclamp.engine.statistics import extremes_inside
from ckptclamp.engine.transform import as_keras, changed_units, distances, exactly, moved, relative
from ckptclamp.errors import UnreadableError
from ckptclamp.spec.model import Projection

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from numpy.typing import NDArray

    from ckptclamp.checkpoints.checkpoint import Copy, TensorReader
    from ckptclamp.checkpoints.tensor import Box, Tensor
    from ckptclamp.constraints.base import Constraint, UnitStatistics
    from ckptclamp.engine.job import Search


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
    spare_zero: bool = False,
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
    job = Job(copy, tensor, axes, constraint, tolerance, projection, grid, spare_zero)
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
    """Mend every box by itself."""
    beforehand = KnownStatistics(job.request, known)
    boxes, step = len(job.grid), job.grid.segment
    items = (range(first, min(first + step, boxes)) for first in range(0, boxes, step))
    for item, done in in_order(bound(_fix_boxes, job, beforehand), items, pool, window):
        yield sum(count_of(job.grid.box(index)) for index in item), done


def _fix_boxes(job: Job, known: KnownStatistics, indices: range) -> Projected:
    total = NOTHING
    with np.errstate(all="ignore"):
        for index in indices:
            box = job.grid.box(index)
            total += _mend_box(job, box, known.of(box))
    return total


def _mend_box(job: Job, box: Box, known: UnitStatistics | None) -> Projected:
    """Project the units of `box`, all of them whole, and write them.

    `known` are their statistics, if somebody measured them; where none is to be mended, nothing is
    read.
    """
    if known is not None and job.projection is Projection.EXACT:
        outside, chosen = job.fixable(known)
        if not chosen.any():
            return Projected(len(outside), 0, 0.0, int(np.count_nonzero(outside)))
    block = read(job.copy, job.tensor, box)
    screened = job.projection is Projection.EXACT and job.constraint.elementwise and not job.axes
    if screened and extremes_inside(block, job.constraint.bounds(), WORKSPACE) is not None:
        return Projected(block.size, 0, 0.0, 0)
    statistics = job.measured(block, job.axes) if known is None else known
    if job.projection is Projection.KERAS:
        return _follow_keras(job, box, block, statistics)
    outside, chosen = job.fixable(statistics)
    hopeless = int(np.count_nonzero(outside)) - int(np.count_nonzero(chosen))
    if not chosen.any():
        return Projected(len(outside), 0, 0.0, hopeless)
    fix = _fix_rows if _has_rows(block.shape, job.axes) else _fix_all
    after, changed, largest, left = fix(job, block, statistics, chosen)
    job.write(box, changed, after)
    return Projected(len(outside), int(np.count_nonzero(changed)), largest, hopeless + left)


_Mended = tuple["NDArray[Any]", "NDArray[np.bool_]", float, int]
"""A mended block, which units changed, the largest relative change, and how many units are left."""


def _has_rows(shape: tuple[int, ...], axes: tuple[int, ...]) -> bool:
    """Whether each unit is one run of a block, so that some can be mended without the others."""
    extents, rows = merged(shape, axes)
    return len(extents) == 1 or (rows and len(extents) == 2)


def _fix_rows(
    job: Job, block: NDArray[Any], statistics: UnitStatistics, chosen: NDArray[np.bool_]
) -> _Mended:
    """Mend the chosen units, and touch no others."""
    places = np.flatnonzero(chosen)
    single = not job.axes
    rows = block.reshape(-1) if single else block.reshape(len(chosen), -1)
    axes = () if single else (1,)
    units = _taken(rows, places, "units")
    search = job.search(statistics.part(places), np.ones(len(places), np.bool_), margin=2)
    after = units
    while search.active.any():
        active, first = np.flatnonzero(search.active), search.trials == 0
        trial = moved(
            _taken(units, active, "active"),
            axes,
            np.ones(len(active), np.bool_),
            exactly(search.step.part(active)),
            WORKSPACE,
            into="after" if first else "moved",
        )
        stored = job.measured(trial, axes).scattered(active, len(places))
        better = search.observe(stored)[active]
        if first:
            after = trial
        else:
            after[active[better]] = trial[better]
    accepted = search.accepted
    left = int(np.count_nonzero(search.left))
    change = _largest_change(search, units, after, axes)
    if len(places) == len(rows) and accepted.all():
        return after.reshape(block.shape), accepted, change, left
    changed = np.zeros(len(chosen), np.bool_)
    changed[places[accepted]] = True
    rows[places[accepted]] = after[accepted]
    return block, changed, change, left


def _largest_change(
    search: Search, before: NDArray[Any], after: NDArray[Any], axes: tuple[int, ...]
) -> float:
    """The largest change of a weight that was accepted, relative to its unit's peak."""
    change = search.best.movement.change
    if change is not None:
        return float(change[search.accepted].max(initial=0.0))
    largest, peak = distances(before, after, axes, WORKSPACE)
    return relative(largest[search.accepted], peak[search.accepted])


def _fix_all(
    job: Job, block: NDArray[Any], statistics: UnitStatistics, chosen: NDArray[np.bool_]
) -> _Mended:
    """Mend units that lie across each other: each trial computes all that are active at once."""
    search = job.search(statistics, chosen, margin=2)
    while search.active.any():
        after = moved(block, job.axes, search.active, exactly(search.step), WORKSPACE)
        search.observe(job.measured(after, job.axes))
    if search.trials > 1 or (search.accepted != chosen).any():
        after = moved(block, job.axes, search.accepted, exactly(search.best), WORKSPACE)
    left = int(np.count_nonzero(search.left))
    return after, search.accepted, _largest_change(search, block, after, job.axes), left


def _follow_keras(job: Job, box: Box, block: NDArray[Any], statistics: UnitStatistics) -> Projected:
    arithmetic = as_keras(job.constraint.project_keras(statistics))
    chosen = (statistics.nonfinite == 0) & ~job.spared(statistics)
    after = moved(block, job.axes, chosen, arithmetic, WORKSPACE)
    trial = job.measured(after, job.axes)
    if (chosen & (trial.nonfinite > 0)).any():
        after = moved(block, job.axes, chosen & (trial.nonfinite == 0), arithmetic, WORKSPACE)
    changed = changed_units(block, after, job.axes)
    job.write(box, changed, after)
    return Projected(
        len(changed),
        int(np.count_nonzero(changed)),
        relative(*distances(block, after, job.axes, WORKSPACE)),
        int(np.count_nonzero(job.left_by_keras(statistics, trial))),
    )


def _taken(rows: NDArray[Any], places: NDArray[np.intp], name: str) -> NDArray[Any]:
    """Some rows, in a buffer; all of them as they are."""
    if len(places) == len(rows):
        return rows
    out = WORKSPACE.array(name, rows.dtype, (len(places), *rows.shape[1:]))
    return np.take(rows, places, axis=0, out=out, mode="clip")
