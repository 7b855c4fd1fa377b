"""Sets between hyperplanes: an interval for each weight (a clip), a mean for each unit (a shift)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ckptclamp.checkpoints.dtypes import Kind
from ckptclamp.constraints.base import (
    ROUNDOFF,
    BuiltIn,
    Judgement,
    Statistic,
    Transform,
    norm_bound,
    number,
    ordered,
)
from ckptclamp.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ckptclamp.checkpoints.dtypes import StorageDType
    from ckptclamp.constraints.base import ExactSums, UnitStatistics

_TINY = 2.0**-1060
"""More than a mean loses where float64 runs out of exponents."""


def _error(weight: NDArray[np.float64], bound: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far a difference of the two, rounded once, may lie from the truth."""
    with np.errstate(over="ignore", invalid="ignore"):
        return 2 * ROUNDOFF * (np.abs(weight) + np.abs(bound))


def _farther(bound: float, tolerance: float) -> Fraction:
    """A bound and what the tolerance adds outward, exactly."""
    return Fraction(bound) + Fraction(tolerance) * abs(Fraction(bound))


class _Interval(BuiltIn):
    """What constraints on each weight by itself have in common."""

    elementwise: ClassVar[bool] = True

    def project(self, statistics: UnitStatistics) -> Transform:
        """``min(max(w, low), high)``."""
        del statistics
        low, high = self.bounds()
        return Transform(low=low, high=high)

    def interval(self) -> tuple[float | None, float | None]:
        """The bounds, ``None`` where they are open."""
        low, high = self.bounds()
        return (low if math.isfinite(low) else None, high if math.isfinite(high) else None)


@dataclass(frozen=True)
class NonNeg(_Interval):
    r"""Every weight at least 0: projection onto the non-negative orthant.

    argmin over y of ‖x - y‖₂² subject to y ≥ 0, which is max(x, 0) for each weight. The sign of a
    zero does not matter: -0.0 conforms. Keras' `NonNeg`.
    """

    needs: ClassVar[frozenset[Statistic]] = frozenset({Statistic.MIN})

    def judge(self, statistics: UnitStatistics) -> Judgement:
        """Compare the smallest weight with 0; there is nothing for a tolerance to be relative to."""
        smallest = statistics[Statistic.MIN]
        zero = np.zeros_like(smallest)
        return Judgement(smallest, zero, np.where(smallest >= 0, 0.0, -smallest), zero)

    def bounds(self) -> tuple[float, float]:
        """From 0 up."""
        return 0.0, math.inf


@dataclass(frozen=True)
class Clip(_Interval):
    r"""Every weight in [`low`, `high`]: projection onto a box.

    argmin over y of ‖x - y‖₂² subject to low ≤ y ≤ high, which is min(max(x, low), high) for each
    weight. The weight clipping of Arjovsky, Chintala and Bottou, *Wasserstein GAN* (2017).

    Raises:
        UsageError: a bound is NaN or no number, the interval is empty or holds no finite number.
    """

    low: float
    high: float

    needs: ClassVar[frozenset[Statistic]] = frozenset({Statistic.MIN, Statistic.MAX})
    exact_measure: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "low", number("low", self.low))
        object.__setattr__(self, "high", number("high", self.high))
        ordered("low", self.low, "high", self.high)
        if math.isinf(self.low) and self.low == self.high:
            raise UsageError(f"low and high are both {self.low:g}: no weight can lie there")

    def judge(self, statistics: UnitStatistics) -> Judgement:
        """Compare the weight that is farther out with the bound that it is nearer to."""
        smallest, largest = statistics[Statistic.MIN], statistics[Statistic.MAX]
        below, above = self.low - smallest, largest - self.high
        is_low = below > above
        bound = np.where(is_low, self.low, self.high)
        distance = np.where((below <= 0) & (above <= 0), 0.0, np.maximum(below, above))
        scale = np.where(np.isfinite(bound), np.abs(bound), 0.0)
        weight = np.where(is_low, smallest, largest)
        return Judgement(weight, bound, distance, scale, _error(weight, bound))

    def overshoot(self, exact: ExactSums, tolerance: float) -> Fraction:
        """Compare the weight with ``low - t |low|`` and ``high + t |high|``."""
        if math.isfinite(self.high) and (over := exact.total - _farther(self.high, tolerance)) > 0:
            return over
        if math.isfinite(self.low) and (under := exact.total + _farther(-self.low, tolerance)) < 0:
            return under
        return Fraction(0)

    def bounds(self) -> tuple[float, float]:
        """The interval."""
        return self.low, self.high

    def as_stored(self, dtype: StorageDType) -> Clip:
        """The bounds as `dtype` holds them: a float32 weight clipped at 0.1 is float32's 0.1.

        Integers hold the whole numbers inside. A bound that the dtype cannot hold stays as it is.
        """
        if dtype.kind is Kind.INTEGER:
            low, high = _ceil(self.low), _floor(self.high)
            return replace(self, low=low, high=high) if low <= high else self
        return replace(self, low=_held(self.low, dtype), high=_held(self.high, dtype))


@dataclass(frozen=True)
class Finite(_Interval):
    r"""Every weight a finite number: no NaN, no infinity, and nothing else is asked.

    There is nothing to project onto: no finite number is nearest to NaN or to an infinity, so a
    violation can be shown and not fixed.
    """

    needs: ClassVar[frozenset[Statistic]] = frozenset({Statistic.MIN, Statistic.MAX})

    def judge(self, statistics: UnitStatistics) -> Judgement:
        """Show the weight of the largest magnitude; only one that is not finite lies outside."""
        smallest, largest = statistics[Statistic.MIN], statistics[Statistic.MAX]
        finite = np.isfinite(smallest) & np.isfinite(largest)
        return Judgement(
            np.where(-smallest > largest, smallest, largest),
            np.full_like(largest, np.inf),
            np.where(finite, 0.0, np.nan),
            np.zeros_like(largest),
        )

    def bounds(self) -> tuple[float, float]:
        """The whole line."""
        return -math.inf, math.inf


@dataclass(frozen=True)
class MaxLInfNorm(BuiltIn):
    r"""Largest magnitude in each unit at most `max_value`: projection onto the L∞ ball.

    argmin over y of ‖x - y‖₂² subject to max |y| ≤ max_value, which is
    min(max(x, -max_value), max_value) for each weight. It moves weights as `Clip` does, and judges
    and reports units. Parikh and Boyd, *Proximal Algorithms* (2014), section 6.2.

    Raises:
        UsageError: `max_value` is negative, NaN or no number. Infinity is no bound.
    """

    max_value: float

    needs: ClassVar[frozenset[Statistic]] = frozenset({Statistic.MAX_ABS})
    measures: ClassVar[str] = "largest magnitude"
    exact_measure: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_value", norm_bound("max_value", self.max_value))

    def judge(self, statistics: UnitStatistics) -> Judgement:
        """Compare each unit's largest magnitude with the bound."""
        peak = statistics[Statistic.MAX_ABS]
        bound = np.full_like(peak, self.max_value)
        with np.errstate(invalid="ignore"):
            distance = np.where(peak <= bound, 0.0, peak - bound)
        scale = np.where(np.isfinite(bound), bound, 0.0)
        return Judgement(peak, bound, distance, scale, _error(peak, bound))

    def overshoot(self, exact: ExactSums, tolerance: float) -> Fraction:
        """Compare the largest magnitude with ``max_value (1 + t)``."""
        if not math.isfinite(self.max_value):
            return Fraction(0)
        return max(exact.total - _farther(self.max_value, tolerance), Fraction(0))

    def project(self, statistics: UnitStatistics) -> Transform:
        """``min(max(w, -max_value), max_value)``."""
        del statistics
        return Transform(low=-self.max_value, high=self.max_value)

    def interval(self) -> tuple[float | None, float | None]:
        """Up to the bound."""
        return None, self.max_value if math.isfinite(self.max_value) else None

    def as_stored(self, dtype: StorageDType) -> MaxLInfNorm:
        """The bound as `dtype` holds it, as for `Clip`."""
        if dtype.kind is Kind.INTEGER:
            return replace(self, max_value=_floor(self.max_value))
        return replace(self, max_value=_held(self.max_value, dtype))


@dataclass(frozen=True)
class CenterAround(BuiltIn):
    r"""Mean of each unit equal to `ref_value`: projection onto a hyperplane.

    argmin over y of ‖x - y‖₂² subject to mean(y) = ref_value, which is x - mean(x) + ref_value. The
    example of a custom constraint in Keras' documentation.

    Raises:
        UsageError: `ref_value` is not a finite number.
    """

    ref_value: float = 0.0

    needs: ClassVar[frozenset[Statistic]] = frozenset({Statistic.SUM, Statistic.SUM_ABS})
    one_sided = False
    whole_by_default: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "ref_value", number("ref_value", self.ref_value))
        if math.isinf(self.ref_value):
            raise UsageError("ref_value must be finite")

    def judge(self, statistics: UnitStatistics) -> Judgement:
        """Compare each mean with `ref_value`.

        A tolerance is relative to the mean magnitude: rounding every weight by a relative error of u
        moves their mean by at most u · mean(|w|), even where the mean itself is 0.
        """
        mean = statistics[Statistic.SUM] / statistics.size
        magnitude = statistics[Statistic.SUM_ABS] / statistics.size
        bound = np.full_like(mean, self.ref_value)
        with np.errstate(invalid="ignore"):
            distance = np.abs(mean - bound)
        scale = np.where(np.isfinite(magnitude), magnitude, 0.0)
        error = statistics.error * (magnitude + np.abs(bound)) + _TINY
        return Judgement(mean, bound, distance, scale, error)

    def overshoot(self, exact: ExactSums, tolerance: float) -> Fraction:
        """Compare the sum with ``n * ref_value``, give or take ``t`` times the magnitudes' sum."""
        apart = exact.total - exact.size * Fraction(self.ref_value)
        allowed = Fraction(tolerance) * exact.magnitudes
        if abs(apart) <= allowed:
            return Fraction(0)
        return apart - allowed if apart > 0 else apart + allowed

    def project(self, statistics: UnitStatistics) -> Transform:
        """``w - mean(w) + ref_value``; nothing where the mean is beyond float64."""
        shift = self.ref_value - statistics[Statistic.SUM] / statistics.size
        return Transform(shift=np.where(np.isfinite(shift), shift, 0.0))

    def unmendable(self, statistics: UnitStatistics) -> NDArray[np.bool_]:
        """Units whose sum is beyond float64."""
        return ~np.isfinite(statistics[Statistic.SUM])

    def interval(self) -> tuple[float | None, float | None]:
        """The one mean that is allowed."""
        return self.ref_value, self.ref_value


def _held(bound: float, dtype: StorageDType) -> float:
    """`bound` rounded to a float dtype, or itself where that is not finite."""
    if dtype.kind is not Kind.FLOAT or math.isinf(bound):
        return bound
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        held = float(np.float64(bound).astype(dtype.numpy))
    return held if math.isfinite(held) else bound


def _ceil(bound: float) -> float:
    return bound if math.isinf(bound) else float(math.ceil(bound))


def _floor(bound: float) -> float:
    return bound if math.isinf(bound) else float(math.floor(bound))
