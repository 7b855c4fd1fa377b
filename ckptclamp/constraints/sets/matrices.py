"""Sets of matrices that spectra tell: a bounded spectral norm, orthonormal rows or columns.

A unit is a matrix: the whole tensor of two axes, or one of a stack. It is read in boxes, so a matrix
may be larger than the memory. What spectra are told by is the Gram matrix of the shorter side, which
must fit; it is accumulated in float64, box by box.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import partial as bound
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ckptclamp.constraints.base import (
    ROUNDOFF,
    BuiltIn,
    ExactSums,
    Judgement,
    Statistic,
    norm_bound,
)
from ckptclamp.constraints.sets.spectra import (
    MOST_PRODUCTS,
    eigenvalue_bounds,
    exceeds,
    gram_error,
    inner_product,
    largest_of,
    product_error,
    summed_exactly,
)
from ckptclamp.constraints.sets.whole import Derived, Matrix, MatrixConstraint, Part
from ckptclamp.errors import Reason, UnreadableError, UsageError

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

    The largest eigenvalue of the Gram matrix is bounded from both sides, with proof (`spectra`). √ of the
    two ends are a lower and an upper bound: a unit conforms by the upper one, violates by the lower
    one, and in between small matrices are decided in exact arithmetic and others are not evaluated. No
    power iteration is trusted, which only ever tells a lower bound.

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
        low, high = eigenvalue_bounds(gram, gram_error(gram, matrix.shape))
        return {
            Statistic.LOWER: math.sqrt(low) * (1 - 4 * ROUNDOFF),
            Statistic.UPPER: math.sqrt(high) * (1 + 4 * ROUNDOFF),
        }

    def judge(self, statistics: UnitStatistics) -> Judgement:
        """Compare each upper bound with `max_value`; where the lower one is inside, that is doubtful."""
        upper = statistics[Statistic.UPPER]
        most = np.full_like(upper, self.max_value)
        distance = np.maximum(upper - most, 0.0)
        error = np.where(distance > 0, upper - statistics[Statistic.LOWER], 0.0)
        return Judgement(upper, most, distance, most, error)

    def overshoot(self, exact: ExactSums, tolerance: float) -> Fraction:
        """Compare squares with the square of ``max_value (1 + t)``."""
        return max(exact.squares - self._limit(tolerance), Fraction(0))

    def exact(self, matrix: Matrix, tolerance: float) -> ExactSums | None:
        """Squares that lie to both limits as the largest singular value's does; if that can be told."""
        measured = self.measure(matrix)
        outside = self._beyond(matrix, measured, tolerance)
        if outside is None:
            return None
        limit = self._limit(tolerance)
        if outside:
            return ExactSums(1, squares=limit + 1)
        inside = self._beyond(matrix, measured, 0.0) is False
        return ExactSums(1, squares=Fraction(0) if inside else limit)

    def _beyond(
        self, matrix: Matrix, measured: dict[Statistic, float], tolerance: float
    ) -> bool | None:
        """Whether the largest singular value is beyond ``max_value (1 + t)``, if that can be told."""
        limit = self._limit(tolerance)
        if Fraction(measured[Statistic.UPPER]) ** 2 <= limit:
            return False
        if Fraction(measured[Statistic.LOWER]) ** 2 > limit:
            return True
        rows, columns = matrix.shape
        if max(rows, columns) * min(rows, columns) ** 2 > MOST_PRODUCTS:
            return None
        return exceeds(matrix.read((slice(0, rows), slice(0, columns))), limit)

    def _limit(self, tolerance: float) -> Fraction:
        return (Fraction(self.max_value) * (1 + Fraction(tolerance))) ** 2

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
        """The Gram matrix and what its bounds are proven by; its eigenvectors, and room to find them."""
        return (5 if projecting else 4) * 8 * min(shape) ** 2

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

    needs: ClassVar[frozenset[Statistic]] = frozenset({Statistic.OWN, Statistic.UPPER})
    measures: ClassVar[str] = "largest deviation of inner products from 0 and 1"
    one_sided = False

    def measure(self, matrix: Matrix) -> dict[Statistic, float]:
        """The largest magnitude in the Gram matrix less the identity, and the most that it can be."""
        gram = _gram(self, matrix)
        error = self._error(gram, matrix)
        off = float(self._off(gram).max())
        return {Statistic.OWN: off, Statistic.UPPER: off + error if error else off}

    def judge(self, statistics: UnitStatistics) -> Judgement:
        """Compare what is measured with 0."""
        off = statistics[Statistic.OWN]
        error = 2 * (statistics[Statistic.UPPER] - off)
        return Judgement(off, np.zeros_like(off), off, np.full_like(off, 2.0), error)

    def overshoot(self, exact: ExactSums, tolerance: float) -> Fraction:
        """Compare with twice the tolerance."""
        return max(exact.total - 2 * Fraction(tolerance), Fraction(0))

    def exact(self, matrix: Matrix, tolerance: float) -> ExactSums | None:
        """The inner product that is farthest off, as far as two limits need it; if it was found."""
        gram = _gram(self, matrix)
        error = self._error(gram, matrix)
        off = self._off(gram)
        rows, columns = np.triu_indices(len(gram))
        flat = off[rows, columns]
        some = np.argsort(-flat, kind="stable")[:_MOST_ENTRIES]
        tall = matrix.shape[0] >= matrix.shape[1]

        def vector(i: int) -> NDArray[np.float64]:
            line, whole = slice(i, i + 1), slice(0, max(matrix.shape))
            return matrix.read((whole, line) if tall else (line, whole)).ravel()

        def entry(i: int, j: int) -> Fraction:
            return abs(inner_product(vector(i), vector(j)) - (i == j))

        limit = 2 * Fraction(tolerance)
        found = largest_of(
            ((float(flat[k]), bound(entry, int(rows[k]), int(columns[k]))) for k in some.tolist()),
            error,
            limit,
        )
        seen = len(some) == len(flat) or found > limit
        rest = 0.0 if seen else float(flat[some[-1]]) + error
        if not seen and Fraction(rest) > (limit if found else 0):
            return None
        return ExactSums(1, total=found)

    def _off(self, gram: NDArray[np.float64]) -> NDArray[np.float64]:
        """Its distance to the identity; `gram` is used up."""
        gram[np.diag_indices_from(gram)] -= 1.0
        return np.abs(gram, out=gram)

    def _error(self, gram: NDArray[np.float64], matrix: Matrix) -> float:
        """How far an entry of `gram` may be off, at most: by nothing where the weights have few bits."""
        terms = max(matrix.shape)
        error = product_error(float(gram.diagonal().max(initial=0.0)) + 1.0, terms)
        parts = (matrix.read(part) for (part,) in self.parts(matrix.shape))
        return 0.0 if summed_exactly(parts, terms) else error

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
        """The Gram matrix and its entries in order; its eigenvectors, two factors, and room for them."""
        return (7 if projecting else 5) * 8 * min(shape) ** 2

    def interval(self) -> tuple[float | None, float | None]:
        """Nothing may be off."""
        return None, 0.0


_WHOLE = 8
"""Arrays of the whole matrix that a singular value decomposition takes."""

_MOST_ENTRIES = 4096
"""Inner products that are computed exactly, at most, until a matrix is not evaluated."""

_SPREAD = 1e-9
"""Squares of singular values that are farther apart leave the polar factor too few digits."""


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
        raise UnreadableError(Reason("undecided", "squares of its weights are beyond float64"))
    return gram
