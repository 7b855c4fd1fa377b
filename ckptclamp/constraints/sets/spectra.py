"""What can be proven of a spectrum and of inner products: bounds that hold, and exact answers.

A Gram matrix that was summed in float64 is off by γ_n tr(XᵀX) at most, in the Frobenius norm and so in
every eigenvalue: Higham, *Accuracy and Stability of Numerical Algorithms* (2002), section 3.1. To that
come proofs of its largest eigenvalue from both sides, which trust no iteration:

- A Cholesky factorisation of B = s I - G that runs to completion is the exact one of B + ΔB with
  ‖ΔB‖₂ ≤ γ tr(B) / (1 - γ), γ = γ_(m+1) (Higham, theorems 10.3 and 10.7; Rump, *Verification of
  positive definiteness*, BIT 46 (2006)). So no eigenvalue of G lies above s by more than that.
- A Rayleigh quotient of any vector lies below the largest eigenvalue.

Weights are dyadic rationals: small matrices, and single inner products, are decided in integers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptclamp.constraints.base import ROUNDOFF

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

_LEAST = 2.0**-1022

MOST_PRODUCTS = 1 << 20
"""Products of integers that an exact decision about a spectrum may take."""

_MOST_ROWS = 64

_ATTEMPTS = 40
"""Factorisations that are tried, each four times as far above the largest eigenvalue."""

_BITS = 52
"""Integers of so many bits, and their sums, are float64 numbers."""


def gram_error(gram: NDArray[np.float64], shape: tuple[int, int]) -> float:
    """How far the Gram matrix of a matrix of `shape` may be off, in the Frobenius norm, at most.

    The least normal number is for each product that underflows.
    """
    n, m = max(shape), min(shape)
    return _gamma(n + 2) * float(np.trace(gram)) + n * m * m * _LEAST


def product_error(largest: float, n: int) -> float:
    """How far a sum of `n` products may be off where the squares of each factor sum to `largest`."""
    return _gamma(n + 4) * largest + n * _LEAST


def eigenvalue_bounds(gram: NDArray[np.float64], error: float) -> tuple[float, float]:
    """Return numbers between which the largest eigenvalue of a Gram matrix lies, proven.

    `error` is how far `gram` itself may be off.
    """
    rows, trace = len(gram), float(np.trace(gram))
    if not trace:
        return 0.0, error
    largest = max(float(np.linalg.eigvalsh(gram)[-1]), 0.0)
    room = max(rows * ROUNDOFF * trace, _LEAST)
    for _ in range(_ATTEMPTS):
        shift = largest + room
        above = shift * np.eye(rows) - gram
        try:
            np.linalg.cholesky(above)
        except np.linalg.LinAlgError:
            room *= 4
            continue
        lost = _gamma(rows + 2) * float(np.trace(above)) + 2 * ROUNDOFF * shift
        lost += rows * rows * _LEAST
        return max(_rayleigh(gram, above, trace) - error, 0.0), shift + lost + error
    return 0.0, trace * (1 + _gamma(rows)) + error  # no eigenvalue is larger than all together


def _rayleigh(gram: NDArray[np.float64], above: NDArray[np.float64], trace: float) -> float:
    """A number below the largest eigenvalue of `gram`; `above` is nearly singular along its vector."""
    start = np.random.default_rng(0).standard_normal(len(gram))
    with np.errstate(all="ignore"):
        try:
            vector = np.linalg.solve(above, start)
        except np.linalg.LinAlgError:
            vector = start
        vector /= np.abs(vector).max()
        quotient = float(vector @ (gram @ vector) / (vector @ vector))
    lost = 2 * _gamma(2 * len(gram) + 4) * trace
    return quotient - lost if math.isfinite(quotient) else 0.0


def _gamma(terms: int) -> float:
    return 1.01 * terms * ROUNDOFF


def summed_exactly(parts: Iterable[NDArray[np.float64]], terms: int) -> bool:
    """Whether sums of `terms` products of these weights are exact in float64, in whatever order.

    They are where all weights are multiples of one power of two and none has many bits.
    """
    largest, least = 0.0, math.inf
    for part in parts:
        sizes = np.abs(part[part != 0])
        if not len(sizes):
            continue
        fractions, exponents = np.frexp(sizes)
        significands = (fractions * 2.0**53).astype(np.int64)
        lowest = np.frexp((significands & -significands).astype(np.float64))[1] - 54
        least = min(least, float((lowest + exponents).min()))
        largest = max(largest, float(sizes.max()))
        bits = 2 * (math.frexp(largest)[1] - least) + math.log2(terms)
        if bits > _BITS or least < -500:
            return False
    return True


def exceeds(weights: NDArray[np.float64], limit: Fraction) -> bool | None:
    """Whether the square of a matrix's largest singular value exceeds `limit`, in exact arithmetic.

    That is whether limit · I - XᵀX is not positive semidefinite, which elimination without fractions
    tells (Bareiss, 1968). ``None`` where that would take too long.
    """
    tall = weights if weights.shape[0] >= weights.shape[1] else weights.T
    rows, m = tall.shape
    if m > _MOST_ROWS or rows * m * m > MOST_PRODUCTS:
        return None
    whole, exponent = _integers(tall)
    gram = whole.T @ whole
    scale = limit.numerator * 4**-exponent if exponent < 0 else limit.numerator
    factor = limit.denominator * (1 if exponent < 0 else 4**exponent)
    return not _semidefinite(np.diag([scale] * m).astype(object) - factor * gram)


def _semidefinite(matrix: NDArray[Any]) -> bool:
    """Whether a symmetric matrix of integers is positive semidefinite."""
    before = 1
    while len(matrix):
        pivot = matrix[0, 0]
        if pivot < 0 or (pivot == 0 and np.any(matrix[0] != 0)):
            return False
        rest = matrix[1:, 1:]
        if pivot:
            rest = (pivot * rest - np.outer(matrix[1:, 0], matrix[0, 1:])) // before
            before = pivot
        matrix = rest
    return True


def inner_product(a: NDArray[np.float64], b: NDArray[np.float64]) -> Fraction:
    """The exact sum of the products of two vectors."""
    (left, e), (right, f) = _integers(a), _integers(b)
    return Fraction(int(left @ right)) * Fraction(2) ** (e + f) if len(a) else Fraction(0)


def _integers(weights: NDArray[np.float64]) -> tuple[NDArray[Any], int]:
    """Python integers and the power of two that makes the weights of them."""
    fractions, exponents = np.frexp(weights)
    low = int(exponents.min(initial=0, where=weights != 0)) - 53
    significands = (fractions * 2.0**53).astype(np.int64).astype(object)
    shifts = np.maximum(exponents.astype(np.int64) - 53 - low, 0).astype(object)
    return significands << shifts, low


def largest_of(
    values: Iterable[tuple[float, Callable[[], Fraction]]], error: float, limit: Fraction
) -> Fraction:
    """Find how large the largest of some numbers is, as far as it takes to compare it with 0 and `limit`.

    `values` are what float64 makes of them, in falling order, good to `error`, each with what tells
    the number itself.
    """
    best, room = Fraction(0), Fraction(error)
    for value, exactly in values:
        most = Fraction(value) + room
        if best > limit or most <= best or (best and most <= limit):
            break
        best = max(best, exactly())
    return best
