"""Constraints on the Euclidean norm of each unit: a ball, an annulus, a sphere.

Each projection is one factor per unit, ``target / norm``, where the target is the nearest norm that
is allowed. There is no epsilon in it: a unit inside gets the factor 1 exactly. Keras' formulas
(``keras/src/constraints/constraints.py``) divide by ``norm + 1e-7`` and rewrite every unit; they are
kept apart, in `project_keras`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from ckptclamp.constraints.base import (
    BuiltIn,
    Judgement,
    Statistic,
    Transform,
    norm_bound,
    number,
    ordered,
)
from ckptclamp.constraints.tolerance import epsilon_shortfall
from ckptclamp.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ckptclamp.constraints.base import ExactSums, UnitStatistics

_TINY = 2.0**-1060
"""More than a norm loses where float64 runs out of exponents."""

_INTEGERS = 2.0**53
"""Below it every number of every dtype is a float64."""


class NormConstraint(BuiltIn):
    """What they have in common: an interval in which each unit's norm must lie."""

    needs: ClassVar[frozenset[Statistic]] = frozenset({Statistic.NORM})

    def with_epsilon(self, epsilon: float) -> Self:
        """This constraint as Keras keeps it where `keras.config.set_epsilon` changed its epsilon."""
        changed = replace(self)  # type: ignore[type-var] # each is a dataclass
        object.__setattr__(changed, "epsilon", epsilon)
        return changed

    def shortfall(self) -> float:
        """What `epsilon` takes off a unit at the minimum, if there is one."""
        low, _ = self._allowed()
        return epsilon_shortfall(low, self.epsilon) if low > 0 else 0.0

    def judge(self, statistics: UnitStatistics) -> Judgement:
        """Compare each norm with the interval; the distance is that of the norms."""
        norm = statistics[Statistic.NORM]
        low, high = self._allowed()
        bound = _nearer(norm, low, high)
        with np.errstate(invalid="ignore"):
            distance = np.where(self._inside(norm), 0.0, np.abs(norm - bound))
        scale = np.where(np.isfinite(bound), bound, 0.0)
        error = statistics.error * np.maximum(norm, scale) + _TINY
        if statistics.size == 1:
            error = np.where(norm < _INTEGERS, 0.0, error)  # the weight's own magnitude
        return Judgement(norm, bound, distance, scale, error)

    def overshoot(self, exact: ExactSums, tolerance: float) -> Fraction:
        """Compare the sum of squares with the squares of ``high (1 + t)`` and of ``low (1 - t)``."""
        low, high = self._allowed()
        if math.isfinite(high) and exact.squares > (most := _squared(high, tolerance)):
            return exact.squares - most
        return min(exact.squares - _squared(low, -tolerance), Fraction(0))

    def project(self, statistics: UnitStatistics) -> Transform:
        """Scale each unit to the nearest allowed norm: along the ray, that is the nearest point."""
        scale, _ = self._factors(statistics[Statistic.NORM])
        return Transform(scale=scale)

    def project_keras(self, statistics: UnitStatistics) -> Transform:
        """``w * clip(n, low, high) / (epsilon + n)``, of every unit."""
        norm = statistics[Statistic.NORM]
        with np.errstate(invalid="ignore"):
            return Transform(scale=self._keras_norm(norm) / (self.epsilon + norm))

    def unmendable(self, statistics: UnitStatistics) -> NDArray[np.bool_]:
        """Units without a direction (zero, where the norm must be positive), or beyond float64."""
        return self._factors(statistics[Statistic.NORM])[1]

    def interval(self) -> tuple[float | None, float | None]:
        """The interval of allowed norms."""
        low, high = self._allowed()
        return (low if low > 0 else None, high if np.isfinite(high) else None)

    @abstractmethod
    def _allowed(self) -> tuple[float, float]:
        """The closed interval of allowed norms."""

    def _keras_norm(self, norm: NDArray[np.float64]) -> NDArray[np.float64]:
        """The norm that Keras' formula gives, but for its epsilon."""
        return np.clip(norm, *self._allowed())

    def _inside(self, norm: NDArray[np.float64]) -> NDArray[np.bool_]:
        low, high = self._allowed()
        return (norm >= low) & (norm <= high)

    def _factors(self, norm: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """The factor of each unit, and where there is none (the factor is then 1)."""
        with np.errstate(all="ignore"):
            factor = np.clip(norm, *self._allowed()) / norm
        inside = self._inside(norm)
        lost = ~inside & ~(np.isfinite(factor) & np.isfinite(norm))
        return np.where(inside | lost, 1.0, factor), lost


@dataclass(frozen=True)
class MaxNorm(NormConstraint):
    r"""Norm at most `max_value`: projection onto the L2 ball.

    argmin over y of ‖x - y‖₂² subject to ‖y‖₂ ≤ max_value, which is x · max_value / ‖x‖₂ outside of
    the ball and x inside. Srebro, Rennie and Jaakkola, *Maximum-Margin Matrix Factorization* (2004);
    Srivastava et al., *Dropout* (2014); Keras' `MaxNorm`.

    Raises:
        UsageError: `max_value` is negative, NaN or no number. Infinity is no bound.
    """

    max_value: float = 2.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_value", norm_bound("max_value", self.max_value))

    def _allowed(self) -> tuple[float, float]:
        return 0.0, self.max_value


@dataclass(frozen=True)
class MinMaxNorm(NormConstraint):
    r"""Norm between `min_value` and `max_value`: projection onto an annulus.

    argmin over y of ‖x - y‖₂² subject to min_value ≤ ‖y‖₂ ≤ max_value, which is
    x · clip(‖x‖₂, min_value, max_value) / ‖x‖₂. A zero unit has no nearest point when `min_value` is
    positive (all of the sphere is equally near) and is unmendable. Keras' `MinMaxNorm`.

    `rate` is how far one step of Keras' training moves towards the interval. It is a schedule and
    not a set: judging and the exact projection do not read it.

    Raises:
        UsageError: a bound is negative, NaN or no number, the interval is empty, or `rate` does not
            lie in [0, 1].
    """

    min_value: float = 0.0
    max_value: float = 1.0
    rate: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "min_value", norm_bound("min_value", self.min_value))
        object.__setattr__(self, "max_value", norm_bound("max_value", self.max_value))
        object.__setattr__(self, "rate", number("rate", self.rate))
        ordered("min_value", self.min_value, "max_value", self.max_value)
        if not 0 <= self.rate <= 1:
            raise UsageError(f"rate must lie in [0, 1], but is {self.rate:g}")
        if np.isinf(self.min_value):
            raise UsageError("min_value must be finite: no norm is infinite")
        object.__setattr__(self, "one_sided", self.min_value < self.max_value)

    def _keras_norm(self, norm: NDArray[np.float64]) -> NDArray[np.float64]:
        """``rate * clip(n, min, max) + (1 - rate) * n``."""
        return self.rate * super()._keras_norm(norm) + (1 - self.rate) * norm

    def _allowed(self) -> tuple[float, float]:
        return self.min_value, self.max_value


@dataclass(frozen=True)
class UnitNorm(NormConstraint):
    r"""Norm exactly 1: projection onto the unit sphere.

    argmin over y of ‖x - y‖₂² subject to ‖y‖₂ = 1, which is x / ‖x‖₂. A zero unit has no nearest
    point and is unmendable. Keras' `UnitNorm`.
    """

    one_sided = False

    def _allowed(self) -> tuple[float, float]:
        return 1.0, 1.0


@dataclass(frozen=True)
class MinNorm(NormConstraint):
    r"""Norm at least `min_value`: no dead unit.

    argmin over y of ‖x - y‖₂² subject to ‖y‖₂ ≥ min_value, which is x · min_value / ‖x‖₂ inside of the
    ball and x outside. A zero unit has no nearest point (all of the sphere is equally near) and is
    unmendable. The lower half of Keras' `MinMaxNorm`.

    Raises:
        UsageError: `min_value` is not positive and finite, or no number: no norm lies below 0, and
            none is infinite.
    """

    min_value: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "min_value", norm_bound("min_value", self.min_value))
        if not 0 < self.min_value < np.inf:
            raise UsageError("min_value must be positive and finite, or it says nothing")

    def project_keras(self, statistics: UnitStatistics) -> Transform:
        """As `project`: Keras has no formula for it."""
        return self.project(statistics)

    def _allowed(self) -> tuple[float, float]:
        return self.min_value, np.inf


@lru_cache(maxsize=64)
def _squared(bound: float, tolerance: float) -> Fraction:
    """``(bound (1 + tolerance))²``, exactly; 0 where a tolerance of -1 or less takes all of it."""
    return (Fraction(bound) * max(1 + Fraction(tolerance), Fraction(0))) ** 2


def _nearer(norm: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    """Of two bounds the one that each norm is nearer to; a lower bound of 0 binds nothing."""
    if low == 0:
        return np.full_like(norm, high)
    with np.errstate(invalid="ignore"):
        return np.where(np.abs(norm - low) < np.abs(norm - high), low, high)
