"""Subspaces of matrices: symmetric ones, and those with zeros in a triangle.

Stored numbers are equal or not, so nothing is in doubt but how a tolerance compares with a difference.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ckptclamp.constraints.base import (
    ROUNDOFF,
    BuiltIn,
    ExactSums,
    Judgement,
    Statistic,
    two_sum,
)
from ckptclamp.constraints.sets.whole import SIDE, Derived, Matrix, MatrixConstraint, Part, cut
from ckptclamp.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ckptclamp.constraints.base import UnitStatistics


@dataclass(frozen=True)
class Symmetric(MatrixConstraint, BuiltIn):
    r"""A square matrix that is its own transpose.

    argmin over Y of ‖X - Y‖_F² subject to Y = Yᵀ, which is (X + Xᵀ) / 2: Higham, *Computing a nearest
    symmetric positive semidefinite matrix* (1988), section 2. What is measured is the largest
    difference of two weights that should be equal, relative to the largest magnitude. Storage rounds
    equal numbers alike.
    """

    needs: ClassVar[frozenset[Statistic]] = frozenset({Statistic.OWN, Statistic.MAX_ABS})
    measures: ClassVar[str] = "largest difference to the transpose"

    def check_unit(self, extents: tuple[int, ...]) -> None:
        """Refuse what is not square."""
        super().check_unit(extents)
        if extents[0] != extents[1]:
            raise UsageError(f"a matrix of {extents[0]}x{extents[1]} is not square")

    def measure(self, matrix: Matrix) -> dict[Statistic, float]:
        """The largest difference to the transpose, and the largest magnitude."""
        off = peak = 0.0
        for part, *other in self.parts(matrix.shape):
            block = matrix.read(part)
            mirrored = matrix.read(other[0]) if other else block
            off = max(off, _peak(block - mirrored.T))
            peak = max(peak, _peak(block), _peak(mirrored))
        return {Statistic.OWN: off, Statistic.MAX_ABS: peak}

    def judge(self, statistics: UnitStatistics) -> Judgement:
        """Compare the largest difference with 0, relative to the largest magnitude."""
        off = statistics[Statistic.OWN]
        error = 4 * ROUNDOFF * off
        return Judgement(off, np.zeros_like(off), off, statistics[Statistic.MAX_ABS], error)

    def overshoot(self, exact: ExactSums, tolerance: float) -> Fraction:
        """Compare the largest difference with ``t`` times the largest magnitude."""
        return max(exact.total - Fraction(tolerance) * exact.magnitudes, Fraction(0))

    def exact(self, matrix: Matrix, tolerance: float) -> ExactSums:
        """Differences as two numbers each, so that none is rounded."""
        del tolerance
        off, lost, peak = 0.0, 0.0, 0.0
        for part, *other in self.parts(matrix.shape):
            block = matrix.read(part)
            mirrored = (matrix.read(other[0]) if other else block).T
            peak = max(peak, _peak(block), _peak(mirrored))
            difference, rest = two_sum(block, -mirrored)
            rest *= np.sign(difference)
            largest = _peak(difference)
            more = float(rest[np.abs(difference) == largest].max())
            off, lost = max((off, lost), (largest, more))
        return ExactSums(1, total=Fraction(off) + Fraction(lost), magnitudes=Fraction(peak))

    def nearest(self, matrix: Matrix, inner: float, memory: int) -> Matrix:
        """The mean of the matrix and its transpose."""
        del inner, memory

        def read(part: Part) -> NDArray[np.float64]:
            rows, columns = part
            return matrix.read(part) / 2 + matrix.read((columns, rows)).T / 2

        return Derived(matrix.shape, read)

    def parts(self, shape: tuple[int, int]) -> Iterator[tuple[Part, ...]]:
        """Square boxes, each with its mirror image."""
        spans = list(cut(shape[0], SIDE))
        for i, rows in enumerate(spans):
            yield ((rows, rows),)
            yield from (((rows, columns), (columns, rows)) for columns in spans[i + 1 :])

    def interval(self) -> tuple[float | None, float | None]:
        """Nothing may differ."""
        return None, 0.0


class _Triangular(MatrixConstraint, BuiltIn):
    """What both have in common: a triangle in which every weight is 0, exactly."""

    needs: ClassVar[frozenset[Statistic]] = frozenset({Statistic.OWN})
    measures: ClassVar[str] = "largest magnitude in the other triangle"

    @abstractmethod
    def _kept(self, block: NDArray[np.float64], offset: int) -> NDArray[np.float64]:
        """`block` with 0 in the other triangle; the diagonal passes `offset` right of its corner."""

    def measure(self, matrix: Matrix) -> dict[Statistic, float]:
        """The largest magnitude in the other triangle."""
        off = 0.0
        for (part,) in self.parts(matrix.shape):
            block = matrix.read(part)
            off = max(off, _peak(block - self._kept(block, part[0].start - part[1].start)))
        return {Statistic.OWN: off}

    def judge(self, statistics: UnitStatistics) -> Judgement:
        """Compare the largest magnitude with 0; there is nothing for a tolerance to be relative to."""
        off = statistics[Statistic.OWN]
        return Judgement(off, np.zeros_like(off), off, np.zeros_like(off))

    def nearest(self, matrix: Matrix, inner: float, memory: int) -> Matrix:
        """0 in the other triangle, and the rest as it is."""
        del inner, memory

        def read(part: Part) -> NDArray[np.float64]:
            return self._kept(matrix.read(part), part[0].start - part[1].start)

        return Derived(matrix.shape, read)

    def interval(self) -> tuple[float | None, float | None]:
        """Nothing may be there."""
        return None, 0.0


@dataclass(frozen=True)
class LowerTriangular(_Triangular):
    r"""Only zeros above the diagonal.

    argmin over Y of ‖X - Y‖_F² subject to y_ij = 0 where j > i, which is X with these made 0: the set
    is a subspace that coordinates span. PyTorch's `tril`.
    """

    def _kept(self, block: NDArray[np.float64], offset: int) -> NDArray[np.float64]:
        return np.tril(block, offset)


@dataclass(frozen=True)
class UpperTriangular(_Triangular):
    r"""Only zeros below the diagonal.

    argmin over Y of ‖X - Y‖_F² subject to y_ij = 0 where j < i, which is X with these made 0. PyTorch's
    `triu`.
    """

    def _kept(self, block: NDArray[np.float64], offset: int) -> NDArray[np.float64]:
        return np.triu(block, offset)


def _peak(block: NDArray[np.float64]) -> float:
    return float(np.abs(block).max(initial=0.0))
