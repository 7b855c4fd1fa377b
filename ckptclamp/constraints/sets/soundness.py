"""What the health preset asks of whole tensors: open sets, in which no point is nearest.

So what lies outside can be shown and not fixed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ckptclamp.constraints.base import BuiltIn, Judgement, Statistic, Transform

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ckptclamp.constraints.base import UnitStatistics


class OpenSet(BuiltIn):
    """Needs the extremes of a unit, and projects nothing."""

    needs: ClassVar[frozenset[Statistic]] = frozenset({Statistic.MIN, Statistic.MAX})

    def project(self, statistics: UnitStatistics) -> Transform:
        """Leave every weight as it is."""
        del statistics
        return Transform()

    def unmendable(self, statistics: UnitStatistics) -> NDArray[np.bool_]:
        """All units that violate."""
        return self.judge(statistics).violates(0.0)

    def interval(self) -> tuple[float | None, float | None]:
        """No interval says it."""
        return None, None


@dataclass(frozen=True)
class Sound(OpenSet):
    """Every weight finite and of a magnitude up to `max_value`, and, if `varied`, not all one value."""

    max_value: float = math.inf
    varied: bool = True

    def __str__(self) -> str:
        bound = f", up to {self.max_value:g}" if math.isfinite(self.max_value) else ""
        return f"Sound (finite{bound}{', not all one value' if self.varied else ''})"

    def judge(self, statistics: UnitStatistics) -> Judgement:
        """Compare the weight of the largest magnitude with the bound, and both extremes."""
        low, high = statistics[Statistic.MIN], statistics[Statistic.MAX]
        extreme = np.where(-low > high, low, high)
        bound = np.copysign(self.max_value, extreme)
        with np.errstate(invalid="ignore"):
            beyond = np.maximum(np.abs(extreme) - self.max_value, 0.0)
        alike = (low == high) & (beyond == 0) & (self.varied and statistics.size > 1)
        distance = np.where(alike, 1.0, beyond)
        scale = np.where(np.isfinite(bound) & ~alike, np.abs(bound), 0.0)
        return Judgement(extreme, np.where(alike, extreme, bound), distance, scale)


@dataclass(frozen=True)
class Varied(OpenSet):
    """Not all weights of a unit one value."""

    def __str__(self) -> str:
        return "Varied (not all one value)"

    def judge(self, statistics: UnitStatistics) -> Judgement:
        """Compare both extremes; the bound of those that are alike is their value."""
        return Sound().judge(statistics)


@dataclass(frozen=True)
class Positive(OpenSet):
    """Every weight a finite number greater than 0."""

    def __str__(self) -> str:
        return "Positive (finite, above 0)"

    def judge(self, statistics: UnitStatistics) -> Judgement:
        """Compare the smallest weight with 0, which lies outside too."""
        low = statistics[Statistic.MIN]
        zero = np.zeros_like(low)
        distance = np.where(low > 0, 0.0, np.maximum(-low, math.ulp(0.0)))
        return Judgement(low, zero, distance, zero)
