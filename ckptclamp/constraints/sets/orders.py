"""Sets that other packages' layers keep their kernels in: signs by row, orders, bounded sums.

All need the whole tensor, which has the shape (rows, units). Source: the constraints of TensorFlow
Lattice's layers, as sets; its own formulas only come near a projection onto most of them. For an order
`apply` gives the weights that are nearest in the maximum norm, so that what is measured says how far
outside a kernel lies, whatever formula would mend it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ckptclamp.constraints.base import BuiltIn, ExactSums, Judgement, Statistic, number, ordered
from ckptclamp.constraints.sets.whole import WholeTensorConstraint
from ckptclamp.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ckptclamp.constraints.base import UnitStatistics


class OfRows(WholeTensorConstraint, BuiltIn):
    """What constraints on the rows of a matrix have in common."""

    nearest: ClassVar[bool] = False
    """Whether `apply` gives the nearest point in the Euclidean norm too, so that it may be written."""

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Refuse what is no matrix with the rows that are meant."""
        rows = self.rows
        if len(shape) != 2 or rows not in (None, shape[0]):
            raise UsageError(
                f"shape {'x'.join(map(str, shape))} is not (rows, units)"
                + ("" if rows is None else f" with {rows:,} rows")
            )

    @property
    def rows(self) -> int | None:
        """How many rows there are; ``None`` is any number."""
        return None


@dataclass(frozen=True)
class RowSigns(OfRows):
    """No weight of a row has the wrong sign: `signs` is 1, 0 (either) or -1 for each row.

    Projection: a weight of the wrong sign becomes 0, which is nearest in every norm.
    """

    signs: tuple[int, ...]

    nearest: ClassVar[bool] = True

    @property
    def rows(self) -> int:
        """One for each sign."""
        return len(self.signs)

    def judge(self, statistics: UnitStatistics) -> Judgement:
        """As for all such sets; a move is a weight's own magnitude, without any rounding."""
        lies = super().judge(statistics)
        return replace(lies, error=np.zeros_like(lies.distance))

    def exact(self, w: NDArray[Any], tolerance: float) -> ExactSums:
        """The magnitude of the largest weight of the wrong sign."""
        del tolerance
        wide = w.astype(np.float64)
        move, peak = (float(np.abs(x).max(initial=0.0)) for x in (wide - self.apply(w), wide))
        return ExactSums(w.size, total=Fraction(move), magnitudes=Fraction(peak))

    def apply(self, w: NDArray[Any]) -> NDArray[np.float64]:
        """``max(w, 0)`` in rows of sign 1, ``min(w, 0)`` in rows of sign -1."""
        wide = w.astype(np.float64)
        signs = np.asarray(self.signs)[:, None]
        return np.where(signs * wide < 0, 0.0, wide)


@dataclass(frozen=True)
class Monotonic(OfRows):
    """Weights on a grid that do not fall where `directions` is 1, nor rise where it is -1.

    The rows are the vertices of a grid of `sizes`, the last axis fastest. A monotone function lies as
    near as any, in the maximum norm, if it is halfway between the largest weight at or before each
    vertex and the smallest at or after it (Ubhaya, *Isotone optimization*, 1974): half the worst
    inversion away.
    """

    sizes: tuple[int, ...]
    directions: tuple[int, ...]

    @property
    def rows(self) -> int:
        """One for each vertex."""
        return math.prod(self.sizes)

    def apply(self, w: NDArray[Any]) -> NDArray[np.float64]:
        """The monotone weights halfway between the running extremes."""
        before = after = w.astype(np.float64).reshape(*self.sizes, -1)
        for axis, direction in enumerate(self.directions):
            if direction:
                before = _running(np.maximum, before, axis, backwards=direction < 0)
                after = _running(np.minimum, after, axis, backwards=direction > 0)
        return _halfway(before, after).reshape(w.shape)


@dataclass(frozen=True)
class PartialOrder(OfRows):
    """For each pair (i, j) of `pairs`, no weight of row i is greater than that of row j.

    The nearest weights are found as those of `Monotonic`.

    Raises:
        UsageError: the pairs order some row before itself.
    """

    pairs: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        self._ordered()

    def _ordered(self) -> list[int]:
        """The rows of the pairs, each after those that must not be greater."""
        sorter: TopologicalSorter[int] = TopologicalSorter()
        for lower, upper in self.pairs:
            sorter.add(upper, lower)
        try:
            return list(sorter.static_order())
        except CycleError as error:
            raise UsageError("the pairs order a row before itself") from error

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Refuse rows that are not there."""
        super().check_shape(shape)
        if not all(0 <= row < shape[0] for pair in self.pairs for row in pair):
            raise UsageError(f"the pairs name rows beyond {shape[0]}")

    def apply(self, w: NDArray[Any]) -> NDArray[np.float64]:
        """The ordered weights halfway between the extremes of the rows before and after."""
        before, after = w.astype(np.float64), w.astype(np.float64)
        place = {row: number for number, row in enumerate(self._ordered())}
        pairs = sorted(self.pairs, key=lambda pair: place[pair[0]])
        for lower, upper in pairs:
            before[upper] = np.maximum(before[upper], before[lower])
        for lower, upper in sorted(self.pairs, key=lambda pair: -place[pair[1]]):
            after[lower] = np.minimum(after[lower], after[upper])
        return _halfway(before, after)


@dataclass(frozen=True)
class BoundedSums(OfRows):
    """The sum of the rows down to each one lies in [`low`, `high`]; first and last may be given.

    The rows of a piecewise linear function's kernel are its first value and then its steps, so that
    these sums are its values. `first` and `last` are what they must be there, ``None`` for any. What
    is measured is the largest change of a step where each value is moved to the nearest allowed one.

    Raises:
        UsageError: a bound is no number, or no value lies between them.
    """

    low: float = -math.inf
    high: float = math.inf
    first: float | None = None
    last: float | None = None

    def __post_init__(self) -> None:
        for name in ("low", "high", "first", "last"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, number(name, value))
        ordered("low", self.low, "high", self.high)

    def get_config(self) -> dict[str, Any]:
        """The arguments that say anything."""
        return {key: value for key, value in super().get_config().items() if value is not None}

    def judge(self, statistics: UnitStatistics) -> Judgement:
        """Compare the largest move with none, relative to the largest weight or bound.

        Steps that were taken in float32 add up to a bound only so far as its own rounding goes.
        """
        move, peak = statistics[Statistic.MOVE], statistics[Statistic.MAX_ABS]
        bounds = (self.low, self.high, self.first, self.last)
        largest = max((abs(b) for b in bounds if b is not None and math.isfinite(b)), default=0.0)
        return Judgement(move, np.zeros_like(move), move, np.maximum(peak, largest))

    def apply(self, w: NDArray[Any]) -> NDArray[np.float64]:
        """The steps between allowed values; exactly the same ones where all are allowed."""
        wide = w.astype(np.float64)
        values = np.cumsum(wide, axis=0)
        allowed = np.clip(values, self.low, self.high)
        if self.first is not None:
            allowed[:1] = self.first
        if self.last is not None:
            allowed[-1:] = self.last
        return wide + np.diff(allowed - values, axis=0, prepend=0.0)


def _running(
    extreme: np.ufunc, values: NDArray[np.float64], axis: int, *, backwards: bool
) -> NDArray[np.float64]:
    """The extreme of all values so far along `axis`, from its end where `backwards`."""
    turned = np.flip(values, axis) if backwards else values
    running: NDArray[np.float64] = extreme.accumulate(turned, axis=axis)
    return np.flip(running, axis) if backwards else running


def _halfway(before: NDArray[np.float64], after: NDArray[np.float64]) -> NDArray[np.float64]:
    """Exactly the weight itself where both are that."""
    return after + (before - after) / 2


ORDERS: dict[str, type[OfRows]] = {
    cls.__name__: cls for cls in (RowSigns, Monotonic, PartialOrder, BoundedSums)
}
"""What a declaration may be judged by, and no spec can state."""
