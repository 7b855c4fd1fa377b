"""Sets of few non-zero weights: at most k in each unit, or at most n in every m that follow each other.

The nearest such point keeps what is largest in magnitude and makes the rest 0, in each unit or group by
itself; where magnitudes are equal it is as near as any other to keep the first. No weight that is kept
changes a bit, so no rounding can leave the set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ckptclamp.constraints.base import BuiltIn, Judgement, Statistic, number
from ckptclamp.constraints.sets.whole import WholeUnitConstraint
from ckptclamp.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ckptclamp.constraints.base import UnitStatistics


class _Counted(WholeUnitConstraint, BuiltIn):
    """What both have in common: a count that is compared with `max_nonzero`."""

    max_nonzero: int

    needs: ClassVar[frozenset[Statistic]] = frozenset({Statistic.NONZERO})
    measures: ClassVar[str] = "number of weights that are not 0"

    def judge(self, statistics: UnitStatistics) -> Judgement:
        """Compare each count; it is exact, so there is nothing for a tolerance to forgive."""
        count = statistics[Statistic.NONZERO]
        bound = np.full_like(count, self.max_nonzero)
        return Judgement(count, bound, np.maximum(count - bound, 0.0), np.zeros_like(count))

    def interval(self) -> tuple[float | None, float | None]:
        """Up to `max_nonzero`."""
        return None, self.max_nonzero


@dataclass(frozen=True)
class MaxNonZero(_Counted):
    r"""At most `max_nonzero` weights of each unit are not 0: projection onto the L0 ball.

    argmin over y of ‖x - y‖₂² subject to ‖y‖₀ ≤ max_nonzero, which keeps the `max_nonzero` largest
    magnitudes: hard thresholding, Blumensath and Davies, *Iterative thresholding for sparse
    approximations* (2008). It is judged by a count that streams; the projection sorts whole units.

    Raises:
        UsageError: `max_nonzero` is no whole number, or negative.
    """

    max_nonzero: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_nonzero", _whole("max_nonzero", self.max_nonzero, 0))

    def nearest(self, units: NDArray[np.float64]) -> NDArray[np.float64]:
        """Keep the largest magnitudes of each unit."""
        return _largest(units.reshape(len(units), -1), self.max_nonzero).reshape(units.shape)


@dataclass(frozen=True)
class Sparsity(_Counted):
    r"""Of every `group` consecutive weights of a unit at most `max_nonzero` are not 0: n:m sparsity.

    2:4 is ``max_nonzero: 2, group: 4``. Groups are counted from the start of each unit, whose weights
    are in C order; one that is left over at the end is a group too. What is measured is the largest
    count in any group of the unit.

    argmin over y of ‖x - y‖₂² is, group by group, that of `MaxNonZero`. Zhou et al., *Learning N:M
    fine-grained structured sparse neural networks from scratch* (2021).

    Raises:
        UsageError: `max_nonzero` or `group` is no whole number, or too small; or every group conforms.
    """

    max_nonzero: int
    group: int

    streaming: ClassVar[bool] = False
    measures: ClassVar[str] = "number of weights that are not 0 in a group"

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_nonzero", _whole("max_nonzero", self.max_nonzero, 0))
        object.__setattr__(self, "group", _whole("group", self.group, 2))
        if self.max_nonzero >= self.group:
            raise UsageError(
                f"max_nonzero must be less than group ({self.group}), or it says nothing"
            )

    def measure(self, units: NDArray[np.float64]) -> dict[Statistic, NDArray[np.float64]]:
        """The largest count of any group of each unit."""
        counts = np.count_nonzero(self._grouped(units), axis=2)
        return {Statistic.NONZERO: counts.max(axis=1).astype(np.float64)}

    def nearest(self, units: NDArray[np.float64]) -> NDArray[np.float64]:
        """Keep the largest magnitudes of each group."""
        groups = self._grouped(units)
        kept = _largest(groups.reshape(-1, self.group), self.max_nonzero)
        rows = kept.reshape(len(units), -1)
        return rows[:, : units[0].size].reshape(units.shape)

    def _grouped(self, units: NDArray[np.float64]) -> NDArray[np.float64]:
        """The groups of each unit, shape (units, groups, group); the last is filled up with 0."""
        rows = units.reshape(len(units), -1)
        rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % self.group)))
        return rows.reshape(len(units), -1, self.group)


def _largest(rows: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """`rows` with all but the `count` largest magnitudes of each made 0."""
    order = np.argsort(-np.abs(rows), axis=1, kind="stable")
    kept = np.zeros_like(rows)
    places = order[:, :count]
    np.put_along_axis(kept, places, np.take_along_axis(rows, places, axis=1), axis=1)
    return kept


def _whole(name: str, value: object, least: int) -> int:
    """Return `value` as a whole number that is not below `least`.

    Raises:
        UsageError: it is none.
    """
    result = number(name, value)
    if not (result.is_integer() and result >= least):
        raise UsageError(f"{name} must be a whole number from {least} up, not {value!r}")
    return int(result)
