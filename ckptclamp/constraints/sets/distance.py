"""How far a unit may lie from the same unit of a base checkpoint: a ball around each of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ckptclamp.constraints.base import BuiltIn, Judgement, Statistic, norm_bound
from ckptclamp.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ckptclamp.constraints.base import ExactSums, UnitStatistics
    from ckptclamp.constraints.movement import Movement

_TINY = 2.0**-1060
"""More than a norm loses where float64 runs out of exponents."""


@dataclass(frozen=True)
class Distance(BuiltIn):
    r"""At most `max_value` away from a base: projection onto a ball around each unit w₀ of it.

    argmin over y of ‖x - y‖₂² subject to ‖y - w₀‖₂ ≤ c, which is w₀ + (x - w₀) · c / ‖x - w₀‖₂ outside
    of the ball and x inside; c is `max_value`, or with `relative` `max_value` · ‖w₀‖₂. What is measured
    is ‖x - w₀‖₂, with `relative` ‖x - w₀‖₂ / ‖w₀‖₂. Gouk, Hospedales and Pontil, *Distance-Based
    Regularisation of Deep Networks for Fine-Tuning* (2021), section 4.

    Differences are those of the weights in float64, which are exact but for weights of float64 that
    lie far apart.

    Raises:
        UsageError: `max_value` is negative, infinite or no number, or `relative` is no truth value.
    """

    max_value: float
    relative: bool = False

    needs: ClassVar[frozenset[Statistic]] = frozenset({Statistic.NORM})
    streaming: ClassVar[bool] = False
    measures: ClassVar[str] = "distance to the base"

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_value", norm_bound("max_value", self.max_value))
        if math.isinf(self.max_value):
            raise UsageError("max_value must be finite: no distance is infinite")
        if not isinstance(self.relative, bool):
            raise UsageError(f"relative is true or false, not {self.relative!r}")

    def judge(self, statistics: UnitStatistics) -> Judgement:
        """Compare each distance, or its share of the base's norm, with `max_value`."""
        measured, error = statistics[Statistic.NORM], statistics.error
        bound = np.full_like(measured, self.max_value)
        lost = np.full_like(measured, _TINY)
        if self.relative:
            base = statistics[Statistic.BASE_NORM]
            with np.errstate(all="ignore"):
                measured = np.where(measured == 0, 0.0, measured / base)
                lost, error = lost * (1 + measured) / base, 2 * error
        with np.errstate(all="ignore"):
            error_of = error * np.maximum(measured, bound) + lost
        error_of = np.where(np.isfinite(error_of), error_of, np.where(measured > 0, np.inf, 0.0))
        return Judgement(measured, bound, np.maximum(measured - bound, 0.0), bound, error_of)

    def overshoot(self, exact: ExactSums, tolerance: float) -> Fraction:
        """Compare the sum of squared differences with the square of the radius."""
        allowed = (Fraction(self.max_value) * (1 + Fraction(tolerance))) ** 2
        if self.relative:
            allowed *= exact.base_squares
        return max(exact.squares - allowed, Fraction(0))

    def radius(self, statistics: UnitStatistics) -> NDArray[np.float64]:
        """How far each unit may lie away."""
        if self.relative:
            return self.max_value * statistics[Statistic.BASE_NORM]
        return np.full(len(statistics), self.max_value)

    def project(self, statistics: UnitStatistics) -> Movement:
        """Not possible: it takes the base's weights as well; see `engine.stored`."""
        raise NotImplementedError(f"{self} projects towards another checkpoint")

    def __str__(self) -> str:
        """As a person would write it."""
        return super().__str__().replace(", relative=False", "")

    def interval(self) -> tuple[float | None, float | None]:
        """Up to the bound."""
        return None, self.max_value
