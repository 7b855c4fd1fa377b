"""Projecting a weight that is computed from parts by the one part that a factor for a unit goes into.

Where every weight of a unit is proportional to numbers of its own (the scales of its row, the row of a
factor), a norm is brought to its bound exactly as elsewhere: by a factor, only that it is the part that
takes it. All directions stay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptclamp.checkpoints.copying import Preview
from ckptclamp.constraints.movement import Transform
from ckptclamp.engine.blocks import grid_of
from ckptclamp.engine.measure import measure
from ckptclamp.engine.measure.exact import sums_of_stored
from ckptclamp.engine.measure.requests import Batch, Failed
from ckptclamp.engine.project.job import NOTHING, Job, Projected
from ckptclamp.engine.project.transform import Rounding, rounded
from ckptclamp.errors import UnreadableError
from ckptclamp.spec.model import Projection

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ckptclamp.checkpoints.checkpoint import Copy
    from ckptclamp.checkpoints.tensor import Tensor
    from ckptclamp.constraints.base import Constraint, ExactSums
    from ckptclamp.models.effective.weights import Rescaling

_TURNS = 12
"""How often the part is rounded one step further where a unit still lies outside."""


def project_rescaled(
    copy: Copy,
    tensor: Tensor,
    axes: tuple[int, ...],
    constraint: Constraint,
    tolerance: float,
    *,
    rescaling: Rescaling,
    memory: int,
    jobs: int | None = None,
    progress: Callable[[int], None] | None = None,
    spare_zero: bool = False,
) -> Projected:
    """Project the units of `tensor`, which span `axes`, by changing a part of it in `copy`.

    `constraint` projects by a factor alone. The part is rounded to the nearest numbers, and where norms
    then lie outside further inward. Units with non-finite weights and those that are unmendable keep their
    bytes.

    Raises:
        UnreadableError: the tensor cannot be read.
        NotWrittenError: the part cannot be written.
    """
    job = Job(
        copy,
        tensor,
        axes,
        constraint,
        tolerance,
        Projection.EXACT,
        grid_of(tensor, axes),
        spare_zero,
    )
    total = NOTHING
    for turn in range(_TURNS):
        batches = _measured(job, memory, jobs)
        inward = turn > 0 and constraint.one_sided
        done = sum((_rescale(job, rescaling, batch, inward=inward) for batch in batches), NOTHING)
        if not turn:
            total = done
            if progress is not None:
                progress(tensor.nbytes)
        total = replace(total, left=done.left)
        if not done.changed or isinstance(copy, Preview):
            break
    return total


def _measured(job: Job, memory: int, jobs: int | None) -> list[Batch]:
    """What is measured of all units, before any of them is written."""
    found = []
    for answer in measure(job.copy, [job.request], memory=memory, jobs=jobs):
        if isinstance(answer, Failed):
            raise UnreadableError(answer.reason, tensor=job.tensor.name, hint=answer.hint)
        if isinstance(answer, Batch):
            found.append(answer)
    return found


def _rescale(job: Job, rescaling: Rescaling, batch: Batch, *, inward: bool) -> Projected:
    """Multiply what belongs to the units of `batch` that lie outside; `left` counts the hopeless ones."""
    statistics = batch.statistics

    def sums(places: NDArray[np.intp]) -> list[ExactSums]:
        return sums_of_stored(job.copy, job.request, batch.units, places)

    with np.errstate(all="ignore"):
        outside, chosen = job.fixable(statistics, sums)
        movement = job.constraint.project(statistics)
    assert isinstance(movement, Transform)
    hopeless = int(np.count_nonzero(outside & ~chosen))
    if not chosen.any():
        return Projected(len(statistics), 0, 0.0, hopeless)
    scale = np.where(chosen, np.broadcast_to(movement.scale, chosen.shape), 1.0)
    kept = job.request.kept
    box = rescaling.box(batch.units, kept)
    held = np.asarray(job.copy.read(rescaling.part, box, None))
    factor, mask = (rescaling.spread(one, batch.units, kept) for one in (scale, chosen))
    if not held.ndim:
        factor, mask = factor.reshape(()), mask.reshape(())
    new = np.where(mask, _scaled(held, factor, inward=inward, divides=rescaling.divides), held)
    job.copy.write(rescaling.part, box, np.asarray(new, held.dtype))
    change = float(np.abs(scale - 1).max())
    return Projected(len(statistics), int(np.count_nonzero(chosen)), change, hopeless)


def _scaled(
    held: NDArray[Any], factor: NDArray[np.float64], *, inward: bool, divides: bool
) -> NDArray[Any]:
    """`held` times `factor`, or through it where it `divides`: the nearest numbers of its dtype.

    On the way `inward` it is those next to them, and a factor of nearly 1 moves a number by one step.
    """
    wide, smaller = np.atleast_1d(held).astype(np.float64), (factor <= 1) != divides
    moved = wide / factor if divides else wide * factor
    if not inward:
        return rounded(moved, held.dtype, Rounding.NEAREST).reshape(held.shape)
    toward = np.where(smaller, Rounding.TOWARD_ZERO, Rounding.AWAY_FROM_ZERO)
    directions = np.broadcast_to(toward, wide.shape).astype(np.int8)
    slack = np.where(smaller, 1 - 2.0**-52, 1 + 2.0**-52)
    return rounded(moved * slack, held.dtype, directions).reshape(held.shape)
