"""Sets of bounded sums: the L1 ball, and the simplex. Both are reached by one threshold a unit.

The threshold is found by sorting, as in Held, Wolfe and Crowder, *Validation of subgradient
optimization* (1974), and Duchi, Shalev-Shwartz, Singer and Chandra, *Efficient projections onto the
l1-ball for learning in high dimensions* (2008).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ckptclamp.constraints.base import BuiltIn, Judgement, Statistic, norm_bound, number, two_sum
from ckptclamp.constraints.sets.whole import WholeUnitConstraint
from ckptclamp.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ckptclamp.constraints.base import ExactSums, UnitStatistics

_TINY = 2.0**-1060
"""More than a sum loses where float64 runs out of exponents."""


@dataclass(frozen=True)
class MaxL1Norm(WholeUnitConstraint, BuiltIn):
    r"""Sum of the magnitudes of each unit at most `max_value`: projection onto the L1 ball.

    argmin over y of ‖x - y‖₂² subject to ‖y‖₁ ≤ max_value, which is sign(x) · max(|x| - θ, 0) with the
    one θ for which the sum is max_value (soft thresholding): small weights become 0. Duchi et al.
    (2008), figure 1. It is judged by statistics; the projection sorts whole units.

    Raises:
        UsageError: `max_value` is negative, NaN or no number. Infinity is no bound.
    """

    max_value: float

    needs: ClassVar[frozenset[Statistic]] = frozenset({Statistic.SUM_ABS})
    measures: ClassVar[str] = "sum of magnitudes"

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_value", norm_bound("max_value", self.max_value))

    def judge(self, statistics: UnitStatistics) -> Judgement:
        """Compare each sum of magnitudes with the bound."""
        total = statistics[Statistic.SUM_ABS]
        bound = np.full_like(total, self.max_value)
        with np.errstate(invalid="ignore"):
            distance = np.where(total <= bound, 0.0, total - bound)
        scale = np.where(np.isfinite(bound), bound, 0.0)
        return Judgement(total, bound, distance, scale, _error(statistics, total))

    def overshoot(self, exact: ExactSums, tolerance: float) -> Fraction:
        """Compare the sum of magnitudes with ``max_value (1 + t)``."""
        if not math.isfinite(self.max_value):
            return Fraction(0)
        return max(
            exact.magnitudes - Fraction(self.max_value) * (1 + Fraction(tolerance)), Fraction(0)
        )

    def nearest(self, units: NDArray[np.float64]) -> NDArray[np.float64]:
        """Lower every magnitude by its unit's threshold, but not below 0."""
        rows = units.reshape(len(units), -1)
        magnitudes = np.abs(rows)
        near = np.minimum(magnitudes, _onto_simplex(magnitudes, self.max_value))
        return np.copysign(near, rows).reshape(units.shape)

    def magnitude_sum(self) -> tuple[float, float]:
        """Up to the bound."""
        return -math.inf, self.max_value

    def unmendable(self, statistics: UnitStatistics) -> NDArray[np.bool_]:
        """Units whose sum is beyond float64."""
        return ~np.isfinite(statistics[Statistic.SUM_ABS])

    def interval(self) -> tuple[float | None, float | None]:
        """Up to the bound."""
        return None, self.max_value if math.isfinite(self.max_value) else None


@dataclass(frozen=True)
class Simplex(WholeUnitConstraint, BuiltIn):
    r"""No negative weight, and the weights of each unit sum to `total`: the probability simplex.

    argmin over y of ‖x - y‖₂² subject to y ≥ 0 and sum(y) = total, which is max(x - θ, 0) with the one
    θ for which the sum is `total`. Held et al. (1974); Duchi et al. (2008), figure 1.

    That no weight is negative is judged exactly: rounding to storage makes none so. The sum is
    judged within the tolerance: rounding each weight by a relative u moves it by at most u · total,
    and in a narrow dtype no numbers may sum to `total`. A projection rounds such weights up and
    down as bring the stored sum nearest to it.

    Raises:
        UsageError: `total` is not positive and finite, or no number.
    """

    total: float = 1.0

    needs: ClassVar[frozenset[Statistic]] = frozenset({Statistic.MIN, Statistic.SUM})
    measures: ClassVar[str] = "sum or negative weight"
    one_sided = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "total", number("total", self.total))
        if not 0 < self.total < math.inf:
            raise UsageError(f"total must be positive and finite, but is {self.total:g}")

    def judge(self, statistics: UnitStatistics) -> Judgement:
        """Compare the smallest weight with 0 where it is negative, and else the sum with `total`."""
        smallest, total = statistics[Statistic.MIN], statistics[Statistic.SUM]
        negative = smallest < 0
        bound = np.where(negative, 0.0, self.total)
        measured = np.where(negative, smallest, total)
        with np.errstate(invalid="ignore"):
            error = np.where(negative, 0.0, _error(statistics, total))
            return Judgement(measured, bound, np.abs(measured - bound), bound, error)

    def overshoot(self, exact: ExactSums, tolerance: float) -> Fraction:
        """Compare the sum, of weights that are not negative, with ``total (1 ± t)``."""
        apart, allowed = (
            exact.total - Fraction(self.total),
            Fraction(tolerance) * Fraction(self.total),
        )
        if abs(apart) <= allowed:
            return Fraction(0)
        return apart - allowed if apart > 0 else apart + allowed

    def nearest(self, units: NDArray[np.float64]) -> NDArray[np.float64]:
        """Lower every weight by its unit's threshold, which may be negative, but not below 0."""
        rows = units.reshape(len(units), -1)
        return _onto_simplex(rows, self.total).reshape(units.shape)

    def magnitude_sum(self) -> tuple[float, float]:
        """`total`."""
        return self.total, self.total

    def unmendable(self, statistics: UnitStatistics) -> NDArray[np.bool_]:
        """Units whose sum is beyond float64."""
        return ~np.isfinite(statistics[Statistic.SUM])

    def interval(self) -> tuple[float | None, float | None]:
        """The one sum that is allowed."""
        return self.total, self.total


def _error(statistics: UnitStatistics, total: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far a sum of numbers of one sign may lie from the truth."""
    with np.errstate(invalid="ignore"):
        return np.asarray(statistics.error * total + _TINY)


def _onto_simplex(rows: NDArray[np.float64], total: float) -> NDArray[np.float64]:
    """Return max(row - θ, 0) for the θ of each row for which that sums to `total`.

    With the weights in falling order, θ is (their sum up to ρ - total) / ρ, where ρ is the last place
    at which a weight is larger than the θ of that place. A running sum loses digits, in long rows and
    beside large weights; so what stays is taken as a weight less that θ, with all that rounding cut
    off, and its sum says how far θ was off.
    """
    largest = rows.max(axis=1, keepdims=True)
    falling = -np.sort(largest - rows, axis=1)
    thresholds = (np.cumsum(falling, axis=1) - total) / np.arange(1, rows.shape[1] + 1)
    last = np.maximum(np.count_nonzero(falling > thresholds, axis=1), 1) - 1
    threshold, rest = two_sum(largest, np.take_along_axis(thresholds, last[:, None], axis=1))
    for _ in range(_REFINEMENTS):
        above, lost = two_sum(rows, -threshold)
        lost -= rest
        stays = above + lost > 0
        above[~stays] = lost[~stays] = 0.0
        high, low = _sum_in_two(above)
        off = ((high - total) + low + lost.sum(axis=1, keepdims=True)) / np.maximum(
            np.count_nonzero(stays, axis=1, keepdims=True), 1
        )
        threshold, more = two_sum(threshold, off)
        rest += more
    above, lost = two_sum(rows, -threshold)
    return np.asarray(np.maximum(above + (lost - rest), 0.0))


_REFINEMENTS = 3
"""The first may find that a weight more or less stays, the next that all is well."""


def _sum_in_two(
    rows: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the sum of each row in twice the digits of float64: two numbers that add up to it."""
    high, low = rows, np.zeros_like(rows)
    while (count := high.shape[1]) > 1:
        if count % 2:
            high, low = (np.pad(array, ((0, 0), (0, 1))) for array in (high, low))
        high, lost = two_sum(high[:, ::2], high[:, 1::2])
        low = low[:, ::2] + low[:, 1::2] + lost
    return high, low
