"""Constraints that no statistics of units can tell: about whole units, matrices, or whole tensors."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial as bound
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from ckptclamp.constraints.base import (
    ROUNDOFF,
    BuiltIn,
    Constraint,
    ExactSums,
    Judgement,
    Statistic,
)
from ckptclamp.constraints.sets.spectra import largest_of
from ckptclamp.errors import UsageError
from ckptclamp.frozen import frozen

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ckptclamp.constraints.base import Movement, UnitStatistics


Part = tuple[slice, slice]
"""Rows and columns of a matrix, with start and stop."""

SIDE = 1024
"""Rows and columns of a box."""


class WholeUnitConstraint(Constraint):
    """A set whose nearest point depends on all weights of a unit at once.

    Where statistics tell whether a unit lies inside, it streams in an audit and needs whole units in
    a projection only; otherwise `measure` tells, of whole units.

    Class attributes:
        workspace: float64 numbers for each weight that `measure` and `nearest` take at most.
    """

    workspace: ClassVar[int] = 12

    @abstractmethod
    def nearest(self, units: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the nearest point of the set for each of `units`, finite, shape (units, ...)."""

    def measure(self, units: NDArray[np.float64]) -> dict[Statistic, NDArray[np.float64]]:
        """Measure what `needs` names of finite `units`, shape (units, ...); unless it streams."""
        raise NotImplementedError(f"{self} is judged by statistics")

    def magnitude_sum(self) -> tuple[float, float] | None:
        """The interval in which the sum of the magnitudes of a stored unit must lie, if in any.

        Rounding each weight to the nearest number may leave it; then others are rounded the other way.
        """
        return None

    def project(self, statistics: UnitStatistics) -> Movement:
        """Not possible: statistics do not say what is nearest; see `nearest`."""
        raise NotImplementedError(f"{self} projects whole units")


class Matrix(Protocol):
    """A matrix that is read in parts."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""

    def read(self, part: Part) -> NDArray[np.float64]:
        """Return the weights of `part`; those that are not finite as 0."""


@frozen
class Derived:
    """A matrix of which `read` computes each part."""

    shape: tuple[int, int]
    read: Callable[[Part], NDArray[np.float64]]


class MatrixConstraint(Constraint):
    """A set of matrices, judged and projected part by part."""

    streaming: ClassVar[bool] = False
    whole_by_default: ClassVar[bool] = True

    def check_unit(self, extents: tuple[int, ...]) -> None:
        """Refuse units that are no matrices; default: of other than two axes.

        Raises:
            UsageError: a unit of these extents cannot be under this constraint.
        """
        if len(extents) != 2:
            raise UsageError(
                f"a unit of {len(extents)} axes is no matrix",
                hint="unit_axis names the axes along which matrices are stacked",
            )

    @abstractmethod
    def measure(self, matrix: Matrix) -> dict[Statistic, float]:
        """Measure what `needs` names, reading every weight once.

        Raises:
            UnreadableError: that is beyond float64.
        """

    @abstractmethod
    def nearest(self, matrix: Matrix, inner: float, memory: int) -> Matrix:
        """Return the nearest matrix of the set, computed as it is read.

        With `inner` < 1 it lies so far inside, relative to the bound, that rounding may not leave the
        set. `memory` is what may be taken beside a box, in bytes.
        """

    def parts(self, shape: tuple[int, int]) -> Iterator[tuple[Part, ...]]:
        """How a matrix is best cut; parts that come together depend on each other.

        The default is boxes of whole columns or rows, along the longer side.
        """
        rows, columns = shape
        if rows >= columns:
            yield from (((part, slice(0, columns)),) for part in cut(rows, columns))
        else:
            yield from (((slice(0, rows), part),) for part in cut(columns, rows))

    def needed(self, shape: tuple[int, int], *, projecting: bool) -> int:
        """Bytes that `measure`, or `nearest` as well, takes beside a few boxes, at most."""
        del shape, projecting
        return 0

    def exact(self, matrix: Matrix, tolerance: float) -> ExactSums | None:
        """What `overshoot` compares with 0 and `tolerance`, where `judge` is not certain.

        ``None`` where it cannot be told. Default: never asked, since `judge` gives no error.
        """
        raise NotImplementedError(f"{self} is judged exactly")

    def project(self, statistics: UnitStatistics) -> Movement:
        """Not possible: statistics do not say what is nearest; see `nearest`."""
        raise NotImplementedError(f"{self} projects whole matrices")


class WholeTensorConstraint(Constraint):
    """A map from a whole tensor to what it would be after projection.

    What a tensor violates is how far the map would move it.
    """

    needs: ClassVar[frozenset[Statistic]] = frozenset({Statistic.MOVE, Statistic.MAX_ABS})
    one_sided = False
    streaming: ClassVar[bool] = False

    def exact(self, w: NDArray[Any], tolerance: float) -> ExactSums:
        """The largest move as `total`, as far as 0 and `tolerance` need it, and the largest magnitude.

        Default: never asked, since `judge` gives no error.
        """
        raise NotImplementedError(f"{self} is judged in float64")

    def overshoot(self, exact: ExactSums, tolerance: float) -> Fraction | None:
        """Compare the largest move with ``t`` times the largest magnitude."""
        return max(exact.total - Fraction(tolerance) * exact.magnitudes, Fraction(0))

    @abstractmethod
    def apply(self, w: NDArray[Any]) -> NDArray[np.float64]:
        """Return the projected tensor in float64 and the shape of `w`.

        Raises:
            UnreadableError: it cannot be projected.
        """

    def apply_keras(self, w: NDArray[Any]) -> NDArray[np.float64]:
        """What Keras' own formula makes of `w`; default: `apply`."""
        return self.apply(w)

    def judge(self, statistics: UnitStatistics) -> Judgement:
        """Compare the largest move with none at all, relative to the largest magnitude."""
        move = statistics[Statistic.MOVE]
        return Judgement(move, np.zeros_like(move), move, statistics[Statistic.MAX_ABS])

    def project(self, statistics: UnitStatistics) -> Movement:
        """Not possible: statistics do not say what the map does; see `apply`."""
        raise NotImplementedError(f"{self} projects whole tensors")

    def interval(self) -> tuple[float | None, float | None]:
        """No weight may move at all."""
        return None, 0.0


@dataclass(frozen=True)
class RadialConstraint(WholeTensorConstraint, BuiltIn):
    r"""Square kernels of shape (n, n, in, out) whose weights depend on the ring alone.

    Ring d holds the positions at Chebyshev distance d from the centre, which is one position where n
    is odd and four where it is even. Projection: argmin over y of ‖x - y‖₂² subject to y being
    constant on each ring, which gives each ring its mean.

    The formula of tf.keras (`apply_keras`) is no projection: it gives each ring one of the values on
    the diagonal, for odd n that of the ring inside it. So it makes any kernel a radial one, but moves
    one of odd size again each time.
    """

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Refuse what is no square kernel of four axes."""
        if len(shape) != 4 or shape[0] != shape[1]:
            raise UsageError(
                f"shape {'x'.join(map(str, shape))} is no square kernel of four axes",
                hint="RadialConstraint is about Conv2D kernels of shape (n, n, in, out)",
            )

    def judge(self, statistics: UnitStatistics) -> Judgement:
        """As for all such sets; that a kernel is radial, and does not move at all, is certain."""
        lies, peak = super().judge(statistics), statistics[Statistic.MAX_ABS]
        error = np.where(lies.distance > 0, 4 * statistics.error * peak, 0.0)
        return replace(lies, error=error)

    def exact(self, w: NDArray[Any], tolerance: float) -> ExactSums:
        """Rings of rationals, of those kernels that move most."""
        wide = w.astype(np.float64)
        peak, rings = float(np.abs(wide).max(initial=0.0)), _rings(len(w))
        moves = np.abs(self.apply(w) - wide).max(axis=(0, 1))

        def move(i: int, j: int) -> Fraction:
            kernel, most = wide[:, :, i, j], Fraction(0)
            for ring in range(int(rings.max()) + 1):
                weights = list(map(Fraction, kernel[rings == ring].tolist()))
                mean = sum(weights, Fraction(0)) / len(weights)
                most = max(most, *(abs(weight - mean) for weight in weights))
            return most

        order = np.argsort(-moves, axis=None, kind="stable")
        places = zip(*(axis.tolist() for axis in np.unravel_index(order, moves.shape)), strict=True)
        error = float(4 * (2 * wide[:, :, 0, 0].size + 16) * ROUNDOFF * peak)
        largest = largest_of(
            ((float(moves[i, j]), bound(move, i, j)) for i, j in places),
            error,
            Fraction(tolerance) * Fraction(peak),
        )
        return ExactSums(w.size, total=largest, magnitudes=Fraction(peak))

    def apply(self, w: NDArray[Any]) -> NDArray[np.float64]:
        """Give each ring of each kernel its mean; `w` has shape (n, n, in, out)."""
        wide = w.astype(np.float64)
        rings = _rings(len(w))
        for ring in range(rings.max(initial=-1) + 1):
            weights = wide[rings == ring]
            # About the first weight, so that a constant ring stays what it is to the last bit.
            wide[rings == ring] = weights[0] + (weights - weights[0]).mean(axis=0)
        return wide

    def apply_keras(self, w: NDArray[Any]) -> NDArray[np.float64]:
        """Give each ring the diagonal's weight that tf.keras takes for it."""
        wide = w.astype(np.float64)
        size, start = len(w), len(w) // 2
        if size < 2:
            return wide
        of_ring = [start - 1, *range(start + 1 - size % 2, size - size % 2)]
        places = np.asarray(of_ring)[_rings(size)]
        chosen: NDArray[np.float64] = wide[places, places]
        return chosen


def _rings(size: int) -> NDArray[np.int64]:
    """The ring of each position of a square kernel."""
    depth = np.abs(2 * np.arange(size) - (size - 1)) // 2
    rings: NDArray[np.int64] = np.maximum(depth[:, None], depth[None, :])
    return rings


def cut(extent: int, other: int) -> Iterator[slice]:
    """Spans of an axis, so that a box of them and `other` has as many weights as a square one."""
    step = max(1, SIDE * SIDE // max(1, other))
    return (slice(start, min(start + step, extent)) for start in range(0, extent, step))
