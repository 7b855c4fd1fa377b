"""Small tensors that are measured many at a time, and judged so where float64 decides.

What lies so near to a limit that it cannot tell, or holds zeros or what is not finite, is judged by
itself, from what was measured here. What could not be read is measured by itself, too; so is, of
constraints on single weights, whatever does not plainly conform.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptclamp.auditing.results import Verdict
from ckptclamp.constraints.base import Statistic
from ckptclamp.engine.measure.exact import in_doubt
from ckptclamp.engine.measure.requests import Batch, Request
from ckptclamp.engine.measure.stacks import HEIGHT, stack, stackable
from ckptclamp.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from ckptclamp.auditing.options import Reporting
    from ckptclamp.checkpoints.tensor import Tensor
    from ckptclamp.plan import Assignment

_EXTREMES = frozenset({Statistic.MIN, Statistic.MAX})


@frozen
class Stack:
    """Assignments, by their places, that differ in the tensor alone; and what to measure of all."""

    places: tuple[int, ...]
    of: Assignment
    request: Request

    def answers(
        self, batch: Batch, reporting: Reporting, *, alone: bool
    ) -> Iterator[tuple[int, dict[str, Any] | Batch]]:
        """What `batch` says of each, by their places, as a `Result` has it; or what was measured of one.

        The latter is of what has to be judged by itself: whatever violates, if it is to be judged `alone`.
        Histograms of single weights, of which only the extremes are looked at, are empty.
        """
        first, last = batch.units[0]
        places = self.places[first:last]
        if not len(batch.statistics):
            return
        told = self._by_extremes if self.of.constraint.elementwise else self._by_units
        for at, seen in told(batch, len(places), reporting, alone=alone):
            yield places[at], seen

    def _own(self, batch: Batch, at: int) -> Batch:
        """What `batch` says of its member `at`, as if that had been measured by itself."""
        units = slice(at * self.units, (at + 1) * self.units)
        return Batch(0, batch.units[1:], batch.statistics.part(units))

    @property
    def units(self) -> int:
        """Units of one member."""
        return self.of.tensor.size // self.request.unit

    def _by_units(
        self, batch: Batch, members: int, reporting: Reporting, *, alone: bool
    ) -> Iterator[tuple[int, dict[str, Any] | Batch]]:
        of, statistics = self.of, batch.statistics

        def in_any(units: NDArray[np.bool_]) -> NDArray[np.bool_]:
            return np.asarray(units.reshape(members, -1).any(axis=1))

        with np.errstate(all="ignore"):
            judgement = of.constraint.judge(statistics)
        violating = judgement.violates(of.tolerance, of.shortfall)
        unsure = in_doubt(judgement, of.constraint, of.tolerance, of.shortfall)
        unsure |= (statistics.nonfinite > 0) | (violating & statistics.zero)
        unsure |= violating & ~np.isfinite(judgement.measured)
        within = np.count_nonzero(judgement.violates(0.0).reshape(members, -1), axis=1)
        measured = judgement.measured.reshape(members, -1)
        by_itself, outside = in_any(unsure), in_any(violating)
        fine = ~(by_itself | outside)
        chosen = np.flatnonzero(fine)
        seen = _conforming(self.units, within[chosen], measured[chosen])
        yield from _with_histograms(chosen, measured, seen, reporting)
        if alone:
            by_itself |= outside
        chosen = np.flatnonzero(outside & ~by_itself)
        if len(chosen):
            from ckptclamp.auditing.verdicts.outside import Outside

            rows = Outside(
                of, judgement, statistics, chosen, units=self.units, keep=reporting.worst
            )
            told = ({"units": self.units, **one} for one in rows.told())
            yield from _with_histograms(chosen, measured, told, reporting)
        for at in np.flatnonzero(by_itself).tolist():
            yield at, self._own(batch, at)

    def _by_extremes(
        self, batch: Batch, members: int, reporting: Reporting, *, alone: bool
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Of constraints on each weight by itself, of which an interval tells everything.

        What it does not let pass is left to be measured by itself.
        """
        del alone
        statistics = batch.statistics
        low, high = statistics[Statistic.MIN], statistics[Statistic.MAX]
        least, most = self.of.constraint.bounds()
        fine = (statistics.nonfinite == 0) & (least <= low) & (high <= most)
        chosen = np.flatnonzero(fine)
        within, measured = np.zeros(len(chosen), np.intp), np.stack([low, high], axis=1)
        seen = _conforming(self.of.tensor.size, within, measured[chosen])
        yield from _with_histograms(chosen, np.zeros((members, 0)), seen, reporting)


def _conforming(
    units: int, within: NDArray[np.intp], measured: NDArray[np.float64]
) -> Iterator[dict[str, Any]]:
    """What is said of members that conform, each of as many `units`, of which `measured` has a row."""
    columns = (within, measured.min(axis=1), measured.max(axis=1))
    for count, low, high in zip(*(column.tolist() for column in columns), strict=True):
        yield {
            "verdict": Verdict.PASS,
            "units": units,
            "within_tolerance": count,
            "measured_min": low,
            "measured_max": high,
        }


def _with_histograms(
    chosen: NDArray[np.intp],
    measured: NDArray[np.float64],
    told: Iterator[dict[str, Any]],
    reporting: Reporting,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """What is `told` of the `chosen` members, with histograms of their numbers if they are asked for."""
    if not reporting.histogram:
        yield from zip(chosen.tolist(), told, strict=True)
        return
    from ckptclamp.engine.histogram import histograms_of

    histograms = histograms_of(measured[chosen])
    for at, seen, histogram in zip(chosen.tolist(), told, histograms, strict=True):
        yield at, {**seen, "histogram": histogram}


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
