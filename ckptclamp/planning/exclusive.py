"""Rules of one tensor that no weights can satisfy together."""

from __future__ import annotations

import math
from collections import defaultdict
from itertools import combinations
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ckptclamp.planning.model import Assignment


def exclusive(assignments: Iterable[Assignment]) -> Iterator[tuple[Assignment, Assignment]]:
    """Pairs that bound the same numbers of the same units, by intervals that do not meet.

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
        yield from (pair for pair in combinations(group, 2) if _apart(*pair))


def _apart(one: Assignment, other: Assignment) -> bool:
    """Whether the intervals, with what the tolerances forgive, have no number in common."""
    (low, high), (other_low, other_high) = _forgiven(one), _forgiven(other)
    return low > other_high or other_low > high


def _forgiven(assignment: Assignment) -> tuple[float, float]:
    low, high = assignment.constraint.interval()
    return (
        -math.inf if low is None else low - assignment.tolerance * abs(low),
        math.inf if high is None else high + assignment.tolerance * abs(high),
    )
