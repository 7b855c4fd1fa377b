"""Sets of matrices: a bounded spectral norm, orthonormal rows or columns, symmetric, triangular.

A unit is a matrix: the whole tensor of two axes, or one of a stack. It is read in boxes, so a matrix
may be larger than the memory. What spectra are told by is the Gram matrix of the shorter side, which
must fit; it is accumulated in float64, box by box.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ckptclamp.constraints.base import BuiltIn, Judgement, Statistic, norm_bound
from ckptclamp.constraints.whole import SIDE, Derived, Matrix, MatrixConstraint, Part, cut
from ckptclamp.errors import UnreadableError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ckptclamp.constraints.base import UnitStatistics

_HUGE = 1e300
"""A sum of squares below this has lost nothing to overflow."""


@dataclass(frozen=True)
class SpectralNorm(MatrixConstraint, BuiltIn):
    r"""Largest singular value at most `max_value`: projection onto the ball of the spectral norm.

    argmin over Y of ‖X - Y‖_F² subject to ‖Y‖₂ ≤ max_value, which is U min(Σ, max_value) Vᵀ where
    X = U Σ Vᵀ. Lefkimmiatis, Ward and Unser, *Hessian Schatten-norm regularization* (2013), section
    III; Sedghi, Gupta and Long, *The singular values of convolutional layers* (2019).

    The largest eigenvalue λ of the Gram matrix is computed, and how far that may be off: by
    γ_n tr(XᵀX) where the products were summed (Higham, *Accuracy and Stability of Numerical
    Algorithms* (2002), section 3.1), and a modest multiple of that of the m x m eigenvalue problem
    (*LAPACK Users' Guide*, section 4.7). √ of the two ends are a lower and an upper bound: a unit
    conforms by the upper one, violates by the lower one, and is not evaluated where the bound lies
    between. No power iteration is trusted, which only ever tells a lower bound.

    Raises:
        UsageError: `max_value` is not positive and finite, or no number.
    """

    max_value: float

    needs: ClassVar[frozenset[Statistic]] = frozenset({Statistic.LOWER, Statistic.UPPER})
    measures: ClassVar[str] = "largest singular value"

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_value", norm_bound("max_value", self.max_value))
        if not 0 < self.max_value < math.inf:
            raise UsageError("max_value must be positive and finite")

    def measure(self, matrix: Matrix) -> dict[Statistic, float]:
        """A lower and an upper bound of the largest singular value."""
        gram = _gram(self, matrix)
        error = _gram_error(gram, matrix.shape)
        largest = float(np.linalg.eigvalsh(gram)[-1])
        return {
            Statistic.LOWER: math.sqrt(max(largest - error, 0.0)),
            Statistic.UPPER: math.sqrt(max(largest, 0.0) + error),
        }

    def judge(self, statistics: UnitStatistics) -> Judgement:
        """Compare each upper bound with `max_value`; see `undecided`."""
        upper = statistics[Statistic.UPPER]
        bound = np.full_like(upper, self.max_value)
        return Judgement(upper, bound, np.maximum(upper - bound, 0.0), bound)

    def undecided(self, statistics: UnitStatistics, tolerance: float) -> NDArray[np.bool_]:
        """Where the two bounds lie on different sides of what is allowed."""
        lower = statistics[Statistic.LOWER]
        proven = lower - self.max_value > tolerance * self.max_value
        return self.judge(statistics).violates(tolerance) & ~proven

    def nearest(self, matrix: Matrix, inner: float, memory: int) -> Matrix:
        """Take off what the singular values above the bound have too much.

        They are the largest, which the eigenvectors of the Gram matrix tell in full accuracy.
        """
        del memory
        tall = matrix.shape[0] >= matrix.shape[1]
        squares, vectors = np.linalg.eigh(_gram(self, matrix))
        values = np.sqrt(np.maximum(squares, 0.0))
        aim = self.max_value * inner
        above = values > aim
        vectors = vectors[:, above]
        lowered = vectors * (1 - aim / values[above])

        def read(part: Part) -> NDArray[np.float64]:
            block = matrix.read(part)
            surplus = (block @ vectors) @ lowered.T if tall else lowered @ (vectors.T @ block)
            return np.asarray(block - surplus)

        return Derived(matrix.shape, read)

    def needed(self, shape: tuple[int, int], *, projecting: bool) -> int:
        """The Gram matrix and a copy; its eigenvectors, and room to find them."""
        return (5 if projecting else 2) * 8 * min(shape) ** 2

    def interval(self) -> tuple[float | None, float | None]:
        """Up to the bound."""
        return None, self.max_value


@dataclass(frozen=True)
class Orthonormal(MatrixConstraint, BuiltIn):
    r"""Orthonormal columns, or rows where these are fewer: projection onto the Stiefel manifold.

    argmin over Y of ‖X - Y‖_F² subject to YᵀY = I, which is the orthonormal factor U Vᵀ of the polar
    decomposition, where X = U Σ Vᵀ. Higham, *Functions of Matrices* (2008), section 8.1; the set of
    PyTorch's `orthogonal` parametrisation. What is measured is the largest magnitude in YᵀY - I.
    A matrix whose smallest singular value is 0 has no nearest point and is left.

    Rounding each weight by a relative u moves an inner product of unit vectors by at most 2 u, so a
    tolerance counts twice.
    """

    needs: ClassVar[frozenset[Statistic]] = frozenset({Statistic.OWN})
    measures: ClassVar[str] = "largest deviation of inner products from 0 and 1"
    one_sided = False

    def measure(self, matrix: Matrix) -> dict[Statistic, float]:
        """The largest magnitude in the Gram matrix less the identity."""
        gram = _gram(self, matrix)
        gram[np.diag_indices_from(gram)] -= 1.0
        return {Statistic.OWN: float(np.abs(gram, out=gram).max())}

    def judge(self, statistics: UnitStatistics) -> Judgement:
        """Compare what is measured with 0."""
        off = statistics[Statistic.OWN]
        return Judgement(off, np.zeros_like(off), off, np.full_like(off, 2.0))

    def nearest(self, matrix: Matrix, inner: float, memory: int) -> Matrix:
        """The polar factor: of the whole matrix if there is room, else by the Gram matrix."""
        del inner
        rows, columns = matrix.shape
        if _WHOLE * 8 * rows * columns <= memory:
            left, values, right = np.linalg.svd(
                matrix.read((slice(0, rows), slice(0, columns))), full_matrices=False
            )
            if values[-1] <= max(rows, columns) * 2.0**-52 * values[0]:
                return matrix
            polar = left @ right
            return Derived(matrix.shape, lambda part: polar[part])
        # Twice: the first leaves what the Gram matrix lost of the smallest singular values.
        return self._by_gram(self._by_gram(matrix))

    def _by_gram(self, matrix: Matrix) -> Matrix:
        """X (XᵀX)^-½; the matrix itself where its singular values are too far apart for that."""
        rows, columns = matrix.shape
        squares, vectors = np.linalg.eigh(_gram(self, matrix))
        if squares[0] <= _SPREAD * squares[-1]:
            return matrix
        factor = (vectors / np.sqrt(squares)) @ vectors.T

        def read(part: Part) -> NDArray[np.float64]:
            block = matrix.read(part)
            return np.asarray(block @ factor if rows >= columns else factor @ block)

        return Derived(matrix.shape, read)

    def needed(self, shape: tuple[int, int], *, projecting: bool) -> int:
        """The Gram matrix and a copy; its eigenvectors, two factors, and room to find them."""
        return (7 if projecting else 2) * 8 * min(shape) ** 2

    def interval(self) -> tuple[float | None, float | None]:
        """Nothing may be off."""
        return None, 0.0


_WHOLE = 8
"""Arrays of the whole matrix that a singular value decomposition takes."""

_SPREAD = 1e-9
"""Squares of singular values that are farther apart leave the polar factor too few digits."""


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
        return Judgement(off, np.zeros_like(off), off, statistics[Statistic.MAX_ABS])

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


def _gram(constraint: MatrixConstraint, matrix: Matrix) -> NDArray[np.float64]:
    """XᵀX, or XXᵀ where there are fewer rows than columns.

    Raises:
        UnreadableError: squares leave float64.
    """
    rows, columns = matrix.shape
    gram = np.zeros((min(rows, columns),) * 2)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for (part,) in constraint.parts(matrix.shape):
            block = matrix.read(part)
            gram += block.T @ block if rows >= columns else block @ block.T
    if not np.trace(gram) < _HUGE:
        raise UnreadableError("squares of its weights are beyond float64")
    return gram


def _gram_error(gram: NDArray[np.float64], shape: tuple[int, int]) -> float:
    """How far a computed eigenvalue of a computed Gram matrix may be off, at most.

    Sums of n products, in any order, are off by γ_n Σ|a||b|, which over the whole matrix is no more
    than γ_n tr(G) in the Frobenius norm, and by the least normal number for each product that
    underflows; a backward stable solver adds p(m) ε ‖G‖₂, with p(m) = 10 m.
    """
    epsilon, least = 2.0**-52, 2.0**-1022
    relative = 1.01 * (max(shape) + 10 * min(shape) + 10) * epsilon
    return relative * float(np.trace(gram)) + math.prod(shape) * min(shape) * least
