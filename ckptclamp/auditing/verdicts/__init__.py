"""Measurements → verdicts: what is kept of each tensor's units while they stream past.

Memory is bounded: counts, extremes and the worst few units, never a number per unit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptclamp.auditing.results import Result
from ckptclamp.auditing.verdicts.tally import MOST_ZEROS, OnUnit, Tally, described
from ckptclamp.engine.executors import Meter, in_phase, lent_threads
from ckptclamp.engine.measure import measure
from ckptclamp.engine.measure.requests import Batch, Measurement, Request

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ckptclamp.auditing.options import Reporting, Running
    from ckptclamp.checkpoints.checkpoint import TensorReader
    from ckptclamp.engine.measure.cache import MeasurementCache
    from ckptclamp.plan import Assignment

__all__ = ["MOST_ZEROS", "OnUnit", "Tally", "judge"]


_MANY = 32
"""Fewer assignments are judged one by one: there is little to be gained."""


def judge(
    reader: TensorReader,
    assignments: Sequence[Assignment],
    running: Running,
    reporting: Reporting,
    *,
    supposed: Sequence[Assignment] = (),
    kept: MeasurementCache | None = None,
) -> list[Result]:
    """Measure the tensors of `assignments` and return a result for each, in order.

    Results of `supposed` follow: nobody asked for these, so `Reporting.on_unit` is called for no
    unit of theirs. What is measured of the others goes to `kept` as well.
    """

    def tally(assignment: Assignment) -> Tally:
        return Tally(
            assignment,
            keep=reporting.worst,
            histogram=reporting.histogram,
            on_unit=reporting.on_unit,
            reader=reader,
        )

    results: dict[int, Result] = {}
    alone = kept is not None or reporting.on_unit is not None
    for place, found in _stacked(reader, assignments, running, reporting, alone=alone):
        if isinstance(found, Batch):
            results[place] = _judged(tally(assignments[place]), found, kept)
        else:
            results[place] = found
    left = [place for place in range(len(assignments)) if place not in results]
    tallies = [tally(assignments[place]) for place in left]
    tallies += [Tally(a, keep=0, reader=reader) for a in supposed]
    for index, item in _measured(reader, [tally.assignment for tally in tallies], running):
        tallies[index].add(item)
        if kept is not None and index < len(left):
            assignment = tallies[index].assignment
            kept.add(assignment.tensor, assignment.rule, item)
    results |= zip(left, (tally.result() for tally in tallies[: len(left)]), strict=True)
    return [
        *(results[place] for place in range(len(assignments))),
        *(tally.result() for tally in tallies[len(left) :]),
    ]


def _judged(tally: Tally, batch: Batch, kept: MeasurementCache | None) -> Result:
    """The result of a tensor of which all units are in one `batch`."""
    tally.add(batch)
    if kept is not None:
        kept.add(tally.assignment.tensor, tally.assignment.rule, batch)
    return tally.result()


def _stacked(
    reader: TensorReader,
    assignments: Sequence[Assignment],
    running: Running,
    reporting: Reporting,
    *,
    alone: bool,
) -> Iterator[tuple[int, Result | Batch]]:
    """What is known of small tensors, which are measured many at a time: results, where float64 decides.

    What violates may have to be judged `alone`. Where every violating unit is told, others are left to be
    measured in the order of the tensors.
    """
    if len(assignments) < _MANY:
        return
    from ckptclamp.auditing.verdicts.stacks import stacks_of

    stacks = stacks_of(assignments)
    told = [described(stack.of) for stack in stacks]
    for item in _streamed(reader, [stack.request for stack in stacks], running):
        if not isinstance(item, Batch):
            continue  # what could not be read is read again, by itself
        for place, seen in stacks[item.request].answers(item, reporting, alone=alone):
            if not isinstance(seen, Batch):
                name = assignments[place].tensor.name
                yield place, Result(**(told[item.request] | {"tensor": name}), **seen)
            elif reporting.on_unit is None:
                yield place, seen


def _measured(
    reader: TensorReader, assignments: Sequence[Assignment], running: Running
) -> Iterator[tuple[int, Measurement]]:
    """Everything measured, each with the index of its assignment."""
    streamed = [i for i, a in enumerate(assignments) if a.constraint.streaming]
    requests = [_request(assignments[i]) for i in streamed]
    for item in _streamed(reader, requests, running):
        yield streamed[item.request], item
    if len(streamed) < len(assignments):
        yield from _measured_whole(reader, assignments, running)


def _streamed(
    reader: TensorReader, requests: Sequence[Request], running: Running
) -> Iterator[Measurement]:
    total = sum({r.tensor.name: r.tensor.nbytes for r in requests}.values())
    yield from measure(
        reader,
        requests,
        memory=running.memory,
        jobs=running.jobs,
        executor=lent_threads(running.executor),
        progress=Meter(in_phase(running.progress, "measuring"), total).add,
    )


def _measured_whole(
    reader: TensorReader, assignments: Sequence[Assignment], running: Running
) -> Iterator[tuple[int, Measurement]]:
    """What only whole units, a whole tensor or another checkpoint can tell."""
    from ckptclamp.constraints.sets.distance import Distance
    from ckptclamp.constraints.sets.whole import (
        MatrixConstraint,
        WholeTensorConstraint,
        WholeUnitConstraint,
    )
    from ckptclamp.engine.measure.distance import measure_distance
    from ckptclamp.engine.project.matrices import measure_matrices
    from ckptclamp.engine.project.whole import measure_whole
    from ckptclamp.engine.project.whole_units import measure_whole_units

    memory = running.memory
    for index, assignment in enumerate(assignments):
        tensor, constraint, axes = assignment.tensor, assignment.constraint, assignment.axes
        items: Iterable[Measurement] = ()
        if isinstance(constraint, WholeTensorConstraint):
            items = [measure_whole(reader, tensor, constraint, memory)]
        elif isinstance(constraint, MatrixConstraint):
            items = measure_matrices(reader, tensor, axes, constraint, memory)
        elif isinstance(constraint, WholeUnitConstraint) and not constraint.streaming:
            items = measure_whole_units(reader, tensor, axes, constraint, memory)
        elif isinstance(constraint, Distance) and assignment.base is not None:
            items = measure_distance(
                reader, tensor, assignment.base, axes, constraint, memory=memory, jobs=running.jobs
            )
        for item in items:
            yield index, item


def _request(assignment: Assignment) -> Request:
    constraint = assignment.constraint
    return Request(
        tensor=assignment.tensor,
        axes=assignment.axes,
        needs=constraint.needs,
        bounds=constraint.bounds() if constraint.elementwise else None,
    )
