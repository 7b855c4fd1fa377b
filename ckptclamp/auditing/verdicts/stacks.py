"""Small tensors that are measured many at a time, and judged so where they plainly conform.

What lies outside, or so near to a limit that float64 cannot tell, is judged by itself, from what was
measured here. What could not be read is measured by itself, too; so is, of constraints on single
weights, whatever does not plainly conform.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptclamp.constraints.base import Statistic
from ckptclamp.engine.measure.exact import in_doubt
from ckptclamp.engine.measure.requests import Batch, Request
from ckptclamp.engine.measure.stacks import HEIGHT, stack, stackable
from ckptclamp.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from ckptclamp.checkpoints.tensor import Tensor
    from ckptclamp.constraints.base import UnitStatistics
    from ckptclamp.engine.histogram import Histogram
    from ckptclamp.plan import Assignment

_EXTREMES = frozenset({Statistic.MIN, Statistic.MAX})


@frozen
class Seen:
    """What was seen of the units of one assignment, all of which conform.

    The histogram is of their numbers, where it was asked for; of single weights, of which only the
    extremes are looked at, it is empty.
    """

    units: int
    within_tolerance: int
    minimum: float
    maximum: float
    histogram: Histogram | None


@frozen
class Stack:
    """Assignments, by their places, that differ in the tensor alone; and what to measure of all."""

    places: tuple[int, ...]
    of: Assignment
    request: Request

    def answers(self, batch: Batch, *, histogram: bool) -> Iterator[tuple[int, Seen | Batch]]:
        """What `batch` says of each, by their places: of others than conform beyond doubt, its own batch."""
        first, last = batch.units[0]
        places = self.places[first:last]
        if not len(batch.statistics):
            return
        judge = self._by_extremes if self.of.constraint.elementwise else self._by_units
        fine, within, low, high, measured = judge(batch.statistics, len(places))
        units = self.of.tensor.size if self.of.constraint.elementwise else self.units
        lows, highs, counts = low.tolist(), high.tolist(), within.tolist()
        conforming = np.flatnonzero(fine)
        histograms = _histograms(measured[conforming]) if histogram else itertools.repeat(None)
        for at, own in zip(conforming.tolist(), histograms, strict=False):
            yield places[at], Seen(units, counts[at], lows[at], highs[at], own)
        if not self.of.constraint.elementwise:
            for at in np.flatnonzero(~fine).tolist():
                yield places[at], self._own(batch, at)

    def _own(self, batch: Batch, at: int) -> Batch:
        """What `batch` says of its member `at`, as if that had been measured by itself."""
        units = slice(at * self.units, (at + 1) * self.units)
        return Batch(0, batch.units[1:], batch.statistics.part(units))

    @property
    def units(self) -> int:
        """Units of one member."""
        return self.of.tensor.size // self.request.unit

    def _by_units(self, statistics: UnitStatistics, members: int) -> tuple[Any, ...]:
        of, constraint = self.of, self.of.constraint
        with np.errstate(all="ignore"):
            judgement = constraint.judge(statistics)
        outside = judgement.violates(of.tolerance, of.shortfall) | (statistics.nonfinite > 0)
        outside |= in_doubt(judgement, constraint, of.tolerance, of.shortfall)
        beyond = judgement.violates(0.0).reshape(members, -1)
        measured = judgement.measured.reshape(members, -1)
        return (
            ~outside.reshape(members, -1).any(axis=1),
            np.count_nonzero(beyond, axis=1),
            measured.min(axis=1),
            measured.max(axis=1),
            measured,
        )

    def _by_extremes(self, statistics: UnitStatistics, members: int) -> tuple[Any, ...]:
        """Of constraints on each weight by itself, of which an interval tells everything."""
        low, high = statistics[Statistic.MIN], statistics[Statistic.MAX]
        least, most = self.of.constraint.bounds()
        fine = (statistics.nonfinite == 0) & (least <= low) & (high <= most)
        return fine, np.zeros(members, np.intp), low, high, np.zeros((members, 0))


def _histograms(measured: NDArray[np.float64]) -> list[Histogram]:
    from ckptclamp.engine.histogram import histograms_of

    return histograms_of(measured)


def stacks_of(assignments: Sequence[Assignment]) -> list[Stack]:
    """Stack what differs in small tensors alone, and is measured as it streams past."""
    alike: dict[object, list[int]] = defaultdict(list)
    for place, assignment in enumerate(assignments):
        if assignment.constraint.streaming and stackable(assignment.tensor):
            alike[_kind(assignment)].append(place)
    found: list[Stack] = []
    known: dict[tuple[int, ...], Tensor] = {}
    for places in alike.values():
        for at in range(0, len(places), HEIGHT):
            some = places[at : at + HEIGHT]
            made = _stacked(some, assignments, known) if len(some) > 1 else None
            if made is not None:
                found.append(made)
    return sorted(found, key=lambda one: one.places)


def _kind(assignment: Assignment) -> object:
    """Everything that those of a stack have in common."""
    a, tensor = assignment, assignment.tensor
    return (
        *(id(a.constraint), id(tensor.dtype), tensor.shape, a.axes, a.rule, a.origin, a.why),
        *(a.tolerance, a.shortfall, a.history, a.severity, a.label, a.location, a.notices),
        *(a.allow_zero, a.names, a.tied_to),
    )


def _stacked(
    places: Sequence[int], assignments: Sequence[Assignment], known: dict[tuple[int, ...], Tensor]
) -> Stack | None:
    """Stack the assignments at `places`; of the same tensors, `known` has the one that is read."""
    of = assignments[places[0]]
    members = [assignments[place].tensor for place in places]
    constraint = of.constraint
    whole = tuple(range(len(of.tensor.shape)))
    made = stack(members, whole if constraint.elementwise else of.axes)
    if made is None:
        return None
    tensor, axes = made
    tensor = known.setdefault(tuple(map(id, members)), tensor)
    needs = _EXTREMES if constraint.elementwise else constraint.needs
    return Stack(tuple(places), of, Request(tensor, axes, needs))
