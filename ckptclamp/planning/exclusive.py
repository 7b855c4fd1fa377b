"""Rules of one tensor that no weights can satisfy together."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ckptclamp.planning.model import Assignment


def exclusive(assignments: Iterable[Assignment]) -> Iterator[tuple[Assignment, Assignment]]:
    """Pairs that bound the same numbers of the same units, by intervals that do not meet.

    Of rules that bound the same numbers, only the two that are farthest apart are told.
    Only that can be told without weights: rules about different numbers (a norm and each weight), or
    about different units, may exclude each other too.
    """
    alike: dict[object, list[Assignment]] = defaultdict(list)
    for assignment in assignments:
        constraint = assignment.constraint
        if constraint.streaming:
            measured = None if constraint.elementwise else constraint.needs
            alike[assignment.tensor.name, assignment.axes, measured].append(assignment)
    for group in alike.values():
        lowest = min(group, key=lambda a: _forgiven(a)[1])
        highest = max(group, key=lambda a: _forgiven(a)[0])
        if _forgiven(highest)[0] > _forgiven(lowest)[1]:
            yield lowest, highest


def _forgiven(assignment: Assignment) -> tuple[float, float]:
    """The interval of a rule, with what its tolerance forgives."""
    low, high = assignment.constraint.interval()
    return (
        -math.inf if low is None else low - assignment.tolerance * abs(low),
        math.inf if high is None else high + assignment.tolerance * abs(high),
    )
