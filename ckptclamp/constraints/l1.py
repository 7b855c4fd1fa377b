"""Sets of bounded sums: the L1 ball, and the simplex. Both are reached by one threshold a unit.

The threshold is found by sorting, as in Held, Wolfe and Crowder, *Validation of subgradient
optimization* (1974), and Duchi, Shalev-Shwartz, Singer and Chandra, *Efficient projections onto the
l1-ball for learning in high dimensions* (2008).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ckptclamp.constraints.base import BuiltIn, Judgement, Statistic, norm_bound, number
from ckptclamp.constraints.whole import WholeUnitConstraint
from ckptclamp.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ckptclamp.constraints.base import UnitStatistics

_INSIDE = 1 - 2.0**-46
"""What a projection aims at, relative to the bound: as many weights as memory holds can be summed in
any order, and the sum does not leave the bound."""


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
        return Judgement(total, bound, distance, np.where(np.isfinite(bound), bound, 0.0))

    def nearest(self, units: NDArray[np.float64]) -> NDArray[np.float64]:
        """Lower every magnitude by its unit's threshold, but not below 0."""
        rows = units.reshape(len(units), -1)
        magnitudes = np.abs(rows)
        inside = magnitudes.sum(axis=1, keepdims=True) <= self.max_value
        near = np.where(inside, magnitudes, _onto_simplex(magnitudes, self.max_value * _INSIDE))
        return np.copysign(near, rows).reshape(units.shape)

    def magnitude_sum(self) -> tuple[float, float]:
        """Up to the bound."""
        return -math.inf, self.max_value * _INSIDE

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
            return Judgement(measured, bound, np.abs(measured - bound), bound)

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


_REFINEMENTS = 2


def _onto_simplex(rows: NDArray[np.float64], total: float) -> NDArray[np.float64]:
    """Return max(row - θ, 0) for the θ of each row for which that sums to `total`.

    With the weights in falling order, θ is (their sum up to ρ - total) / ρ, where ρ is the last place
    at which a weight is larger than the θ of that place. All is reckoned from the largest weight, so
    that what stays has all its digits however large the weights are beside `total`. A running sum
    loses digits in long rows, so the sum of those that stay is then taken again.
    """
    below = rows - rows.max(axis=1, keepdims=True)
    falling = -np.sort(-below, axis=1)
    thresholds = (np.cumsum(falling, axis=1) - total) / np.arange(1, rows.shape[1] + 1)
    last = np.maximum(np.count_nonzero(falling > thresholds, axis=1), 1) - 1
    threshold = np.take_along_axis(thresholds, last[:, None], axis=1)
    for _ in range(_REFINEMENTS):
        above = np.maximum(below - threshold, 0.0)
        count = np.count_nonzero(above, axis=1, keepdims=True)
        threshold += (above.sum(axis=1, keepdims=True) - total) / np.maximum(count, 1)
    return np.asarray(np.maximum(below - threshold, 0.0))
