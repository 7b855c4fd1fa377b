"""Assignments → changes of a copy: tensor by tensor, the rules of each taking turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import field, replace
from typing import TYPE_CHECKING

from ckptclamp.applying.parts import turns
from ckptclamp.auditing.options import Running
from ckptclamp.auditing.results import TensorChange
from ckptclamp.checkpoints.checkpoint import Checkpoint, Copy
from ckptclamp.checkpoints.copying import FileCopy, Preview
from ckptclamp.checkpoints.source import default_jobs
from ckptclamp.checkpoints.tensor import Computed
from ckptclamp.constraints.sets.whole import MatrixConstraint, WholeUnitConstraint
from ckptclamp.engine.blocks import Workspace
from ckptclamp.engine.executors import Meter, in_phase, threads
from ckptclamp.engine.measure import affordable
from ckptclamp.engine.measure.cache import MeasurementCache
from ckptclamp.engine.measure.requests import Batch
from ckptclamp.engine.project import Projected, differing_units, project
from ckptclamp.engine.project.matrices import project_matrices
from ckptclamp.engine.project.whole_units import project_whole_units
from ckptclamp.frozen import frozen
from ckptclamp.plan import Assignment
from ckptclamp.plan.parts import part_to_change
from ckptclamp.spec.model import Projection

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ckptclamp.checkpoints.tensor import Tensor


@frozen
class Work:
    """What all tensors of one copy have in common.

    `kept` is what an audit of the `original` measured, whose weights `copy` still has, but for those of
    the stored tensors that are `written` since: one of them may be a part of other weights, too.
    """

    original: Checkpoint
    copy: Copy
    kept: MeasurementCache
    running: Running
    projection: Projection
    pool: Executor | None = None
    jobs: int = 1
    progress: Callable[[int], None] | None = None
    written: set[str] = field(default_factory=set)
    store: Workspace = field(default_factory=Workspace)


def project_tensors(
    work: Work, assignments: Sequence[Assignment], rounds: int, meter: Meter | None = None
) -> list[TensorChange]:
    """Project what `assignments` govern in the copy, in the order of their names.

    Rules of one tensor, of its views, and of what is stored of a weight in parts, take turns until none
    of them moves a unit, `rounds` times at most. Returns the tensors that changed.
    `meter` counts, if these are not all assignments.

    Raises:
        UnreadableError: a tensor cannot be read.
        NotWrittenError: one cannot be written.
    """
    todo = sorted(assignments, key=lambda a: (a.tensor.whole.name, a.tensor.name))
    tensors = [a.tensor for a in todo]
    running = work.running
    if meter is None:
        total = sum(tensor.nbytes for tensor in tensors)
        meter = Meter(in_phase(running.progress, "projecting"), total)
    jobs = affordable(running.jobs or default_jobs(), tensors, running.memory, projecting=True)
    with threads(jobs) as pool:
        at_work = replace(work, pool=pool, jobs=jobs, progress=meter.add)
        return [
            change
            for group in turns(todo)
            for change in _project_tensor(at_work, group, rounds)
            if change.changed
        ]


def _project_tensor(
    work: Work, assignments: Sequence[Assignment], rounds: int
) -> Iterator[TensorChange]:
    """Let the rules of one tensor take turns, and those of its parts; yield a change for each."""
    done: list[list[Projected]] = []
    for _ in range(rounds):
        done.append(list(_one_round(work, assignments)))
        if len(assignments) < 2 or not any(projected.changed for projected in done[-1]):
            break
    if isinstance(work.copy, FileCopy):
        for tensor in {a.tensor.whole.name: a.tensor.whole for a in assignments}.values():
            work.copy.begin_write_back(tensor)
    for name in dict.fromkeys(a.tensor.name for a in assignments):
        own = [i for i, a in enumerate(assignments) if a.tensor.name == name]
        turns = [[turn[i] for i in own] for turn in done]
        yield _change(work, [assignments[i] for i in own], turns)


def _change(
    work: Work, assignments: Sequence[Assignment], done: Sequence[Sequence[Projected]]
) -> TensorChange:
    """What the turns of the rules of one tensor came to."""
    units, changed = _counted(work, assignments, done)
    return TensorChange(
        tensor=assignments[0].tensor.name,
        units=units,
        changed=changed,
        largest_change=max((p.largest_change for turn in done for p in turn), default=0.0),
        rules=tuple(assignment.rule for assignment in assignments),
        label=assignments[0].label,
    )


def _counted(
    work: Work, assignments: Sequence[Assignment], done: Sequence[Sequence[Projected]]
) -> tuple[int, int]:
    """How many units there are, and how many changed; of rules with other units, the smallest ones.

    Several rules may have moved the same units or different ones, so the copy is compared with the
    original. Where there is no copy, it is counted how many units could differ at most: as if no
    two rules moved the same ones.
    """
    moved = [projected for turn in done for projected in turn if projected.changed]
    if len(moved) < 2:
        only = moved[0] if moved else done[0][0]
        return only.units, only.changed
    finest = max(range(len(assignments)), key=lambda i: done[0][i].units)
    tensor, axes = assignments[finest].tensor, assignments[finest].axes
    units = done[0][finest].units
    if not isinstance(work.copy, Preview):
        return units, differing_units(work.original, work.copy, tensor, axes)
    most = sum(
        projected.changed
        * (1 if _spans(assignment, tensor, axes) else tensor.size // projected.units)
        for assignment, projected in zip(assignments, done[0], strict=True)
    )
    return units, min(units, most)


def _spans(assignment: Assignment, tensor: Tensor, axes: tuple[int, ...]) -> bool:
    """Whether the units of `assignment` are those of `tensor` that span `axes`."""
    return (assignment.tensor.shape, assignment.axes) == (tensor.shape, axes)


def _one_round(work: Work, assignments: Sequence[Assignment]) -> Iterator[Projected]:
    for assignment in assignments:
        known = work.kept.take(assignment.tensor, assignment.rule)
        fresh = assignment.tensor.whole.name not in work.written
        projected = _project_one(work, assignment, known if fresh else ())
        if projected.changed:
            work.written.add(_written_by(assignment))
            from ckptclamp.models.effective.reparametrised import forget_norms

            forget_norms()
        yield projected


def _written_by(assignment: Assignment) -> str:
    """The name of the stored tensor that a projection writes."""
    changing = part_to_change(assignment.tensor, assignment.constraint, assignment.axes)
    return (assignment.tensor if changing is None else changing.part).whole.name


def _project_one(work: Work, assignment: Assignment, known: Sequence[Batch]) -> Projected:
    constraint, tolerance = assignment.constraint, assignment.projection_tolerance
    if assignment.base is not None or isinstance(assignment.tensor.whole.storage, Computed):
        return _project_parts(work, assignment)
    if isinstance(constraint, MatrixConstraint):
        return project_matrices(
            work.copy,
            assignment.tensor,
            assignment.axes,
            constraint,
            tolerance,
            memory=work.running.memory,
            progress=work.progress,
        )
    if isinstance(constraint, WholeUnitConstraint):
        return project_whole_units(
            work.copy,
            assignment.tensor,
            assignment.axes,
            constraint,
            tolerance,
            memory=work.running.memory,
            known=known,
            progress=work.progress,
            spare_zero=assignment.allow_zero,
        )
    if not constraint.streaming:
        return _project_whole(work, assignment)
    return project(
        work.copy,
        assignment.tensor,
        assignment.axes,
        constraint,
        tolerance,
        projection=work.projection,
        memory=work.running.memory,
        jobs=work.jobs,
        pool=work.pool,
        progress=work.progress,
        known=known,
        spare_zero=assignment.allow_zero,
        store=work.store,
    )


def _project_parts(work: Work, assignment: Assignment) -> Projected:
    """Project what is computed from parts, or compared with a base."""
    from ckptclamp.engine.project.rescale import project_rescaled
    from ckptclamp.engine.project.stored import project_stored

    tensor, axes, constraint = assignment.tensor, assignment.axes, assignment.constraint
    changing = part_to_change(tensor, constraint, axes)
    if changing is not None and changing.rescaling is not None:
        return project_rescaled(
            work.copy,
            tensor,
            axes,
            constraint,
            assignment.projection_tolerance,
            rescaling=changing.rescaling,
            memory=work.running.memory,
            jobs=work.jobs,
            progress=work.progress,
            spare_zero=assignment.allow_zero,
        )
    return project_stored(
        work.copy,
        tensor,
        axes,
        constraint,
        assignment.projection_tolerance,
        base=assignment.base,
        memory=work.running.memory,
        progress=work.progress,
        spare_zero=assignment.allow_zero,
    )


def _project_whole(work: Work, assignment: Assignment) -> Projected:
    from ckptclamp.constraints.sets.whole import WholeTensorConstraint
    from ckptclamp.engine.project.whole import project_whole

    assert isinstance(assignment.constraint, WholeTensorConstraint)
    return project_whole(
        work.copy,
        assignment.tensor,
        assignment.constraint,
        work.running.memory,
        assignment.projection_tolerance,
        projection=work.projection,
        spare_zero=assignment.allow_zero,
    )
