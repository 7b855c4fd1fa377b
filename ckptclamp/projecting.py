"""Assignments → changes of a copy: tensor by tensor, the rules of each taking turns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from ckptclamp.constraints.whole import WholeTensorConstraint
from ckptclamp.processors import default_jobs
from ckptclamp.progress import Meter
from ckptclamp.results import TensorChange
from ckptclamp.streaming.executors import threads
from ckptclamp.streaming.measure import COPIES, affordable
from ckptclamp.streaming.mending import NOTHING
from ckptclamp.streaming.project import Projected, project
from ckptclamp.streaming.whole import project_whole

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ckptclamp.auditing import AuditOptions
    from ckptclamp.checkpoints.checkpoint import Copy
    from ckptclamp.plan import Assignment
    from ckptclamp.spec.model import Projection
    from ckptclamp.streaming.kept import Kept
    from ckptclamp.streaming.requests import Batch


def project_tensors(  # noqa: PLR0917 - each is of another type
    copy: Copy,
    assignments: Sequence[Assignment],
    kept: Kept,
    options: AuditOptions,
    projection: Projection,
    rounds: int,
) -> list[TensorChange]:
    """Project what `assignments` govern in `copy`, in the order of their names.

    `kept` is what an audit of the same weights measured. Rules of one tensor take turns until none
    of them moves a unit, `rounds` times at most. Returns the tensors that changed.

    Raises:
        UnreadableError: a tensor cannot be read.
        NotWrittenError: one cannot be written.
    """
    todo = sorted(assignments, key=lambda a: a.tensor.name)
    tensors = [a.tensor for a in todo]
    meter = Meter(options.progress, sum(tensor.nbytes for tensor in tensors))
    jobs = affordable(options.jobs or default_jobs(), tensors, options.memory, copies=COPIES)
    with threads(jobs) as pool:
        work = _Work(copy, kept, options, projection, pool, jobs, meter)
        return [
            change
            for _, group in groupby(todo, key=lambda a: a.tensor.name)
            for change in [_project_tensor(work, list(group), rounds)]
            if change.changed
        ]


@dataclass(frozen=True, slots=True)
class _Work:
    """What all tensors of one copy have in common."""

    copy: Copy
    kept: Kept
    options: AuditOptions
    projection: Projection
    pool: Executor | None
    jobs: int
    meter: Meter


def _project_tensor(work: _Work, assignments: Sequence[Assignment], rounds: int) -> TensorChange:
    """Let the rules of one tensor take turns."""
    first: list[Projected] = []
    largest = 0.0
    for _ in range(rounds):
        done = list(_one_round(work, assignments))
        first = first or done
        largest = max([largest, *(projected.largest_change for projected in done)])
        if len(done) < 2 or not any(projected.changed for projected in done):
            break
    most = max(first, key=lambda projected: projected.changed, default=NOTHING)
    return TensorChange(
        tensor=assignments[0].tensor.name,
        units=most.units,
        changed=most.changed,
        largest_change=largest,
        rules=tuple(assignment.rule for assignment in assignments),
        label=assignments[0].label,
    )


def _one_round(work: _Work, assignments: Sequence[Assignment]) -> Iterator[Projected]:
    changed = False
    for assignment in assignments:
        known = work.kept.take(assignment.tensor, assignment.rule)
        # What was measured is true of the weights as they were.
        projected = _project_one(work, assignment, () if changed else known)
        changed |= projected.changed > 0
        yield projected


def _project_one(work: _Work, assignment: Assignment, known: Sequence[Batch]) -> Projected:
    constraint, tolerance = assignment.constraint, assignment.mending_tolerance
    if isinstance(constraint, WholeTensorConstraint):
        return project_whole(
            work.copy,
            assignment.tensor,
            constraint,
            work.options.memory,
            tolerance,
            projection=work.projection,
        )
    return project(
        work.copy,
        assignment.tensor,
        assignment.axes,
        constraint,
        tolerance,
        projection=work.projection,
        memory=work.options.memory,
        jobs=work.jobs,
        pool=work.pool,
        progress=work.meter.add,
        known=known,
    )
