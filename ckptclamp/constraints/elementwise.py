"""Constraints on each weight by itself: an interval. The projection is a clip."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ckptclamp.checkpoints.dtypes import Kind
from ckptclamp.constraints.base import Constraint, Judgement, Statistic, Transform, number, ordered
from ckptclamp.errors import UsageError

if TYPE_CHECKING:
    from ckptclamp.checkpoints.dtypes import StorageDType
    from ckptclamp.constraints.base import UnitStatistics


@dataclass(frozen=True)
class NonNeg(Constraint):
    r"""Every weight at least 0: projection onto the non-negative orthant.

    argmin over y of ‖x - y‖₂² subject to y ≥ 0, which is max(x, 0) for each weight. The sign of a
    zero does not matter: -0.0 conforms. Keras' `NonNeg`.
    """

    needs: ClassVar[frozenset[Statistic]] = frozenset({Statistic.MIN})
    elementwise: ClassVar[bool] = True

    def judge(self, statistics: UnitStatistics) -> Judgement:
        """Compare the smallest weight with 0; there is nothing for a tolerance to be relative to."""
        smallest = statistics[Statistic.MIN]
        zero = np.zeros_like(smallest)
        return Judgement(smallest, zero, np.where(smallest >= 0, 0.0, -smallest), zero)

    def project(self, statistics: UnitStatistics) -> Transform:
        """``max(w, 0)``."""
        del statistics
        return Transform(low=0.0)

    def bounds(self) -> tuple[float, float]:
        """From 0 up."""
        return 0.0, math.inf

    def interval(self) -> tuple[float | None, float | None]:
        """From 0 up."""
        return 0.0, None

    def get_config(self) -> dict[str, Any]:
        """No arguments."""
        return {}


@dataclass(frozen=True)
class Clip(Constraint):
    r"""Every weight in [`low`, `high`]: projection onto a box.

    argmin over y of ‖x - y‖₂² subject to low ≤ y ≤ high, which is min(max(x, low), high) for each
    weight. The weight clipping of Arjovsky, Chintala and Bottou, *Wasserstein GAN* (2017).

    Raises:
        UsageError: a bound is NaN or no number, the interval is empty or holds no finite number.
    """

    low: float
    high: float

    needs: ClassVar[frozenset[Statistic]] = frozenset({Statistic.MIN, Statistic.MAX})
    elementwise: ClassVar[bool] = True

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
        return Judgement(np.where(is_low, smallest, largest), bound, distance, scale)

    def project(self, statistics: UnitStatistics) -> Transform:
        """``min(max(w, low), high)``."""
        del statistics
        return Transform(low=self.low, high=self.high)

    def bounds(self) -> tuple[float, float]:
        """The interval."""
        return self.low, self.high

    def interval(self) -> tuple[float | None, float | None]:
        """The interval, ``None`` where it is open."""
        return (
            self.low if math.isfinite(self.low) else None,
            self.high if math.isfinite(self.high) else None,
        )

    def as_stored(self, dtype: StorageDType) -> Clip:
        """The bounds as `dtype` holds them: a float32 weight clipped at 0.1 is float32's 0.1.

        Integers hold the whole numbers inside. A bound that the dtype cannot hold stays as it is.
        """
        if dtype.kind is Kind.INTEGER:
            low, high = _ceil(self.low), _floor(self.high)
            return replace(self, low=low, high=high) if low <= high else self
        return replace(self, low=_held(self.low, dtype), high=_held(self.high, dtype))

    def get_config(self) -> dict[str, Any]:
        """``low`` and ``high``."""
        return {"low": self.low, "high": self.high}


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
