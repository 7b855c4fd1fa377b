"""Finding, for each violating unit, a transform whose rounded result lies inside the constraint.

The first trial is the projection itself. Rounding to storage moves a norm by about u/√n relative,
so every other unit lands a little outside. What is outside is tried again, from the original
weights, with the constraint's own correction of the stored result, exaggerated more each time; in
the end rounding is directed inward, which cannot fail but for a norm's last bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ckptclamp.engine.transform import inward

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import NDArray

    from ckptclamp.checkpoints.dtypes import StorageDType
    from ckptclamp.constraints.base import Constraint, Transform, UnitStatistics

_NEAREST_TRIALS = 4
_TRIALS = 10
_TWO_SIDED_TRIALS = 5

_LEAST = 2.0**-50
"""The least relative correction: a few units in the last place of a float64 norm."""


@dataclass(slots=True)
class Step:
    """``round(clip(w * scale + shift, low, high))``, one number a unit (`low`, `high`: or one)."""

    scale: NDArray[np.float64]
    shift: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    rounding: NDArray[np.int8]

    @classmethod
    def first(cls, transform: Transform, units: int, dtype: StorageDType) -> Self:
        """The projection as float64 computes it, its interval narrowed to what `dtype` holds."""
        low, high = inward(transform.low, transform.high, dtype.numpy)
        return cls(
            np.broadcast_to(np.float64(transform.scale), units).copy(),
            np.broadcast_to(np.float64(transform.shift), units).copy(),
            low,
            high,
            np.zeros(units, np.int8),
        )

    def part(self, place: slice | NDArray[np.intp]) -> Step:
        """The step of some of the units."""
        low, high = (b[place] if b.ndim else b for b in (self.low, self.high))
        return Step(self.scale[place], self.shift[place], low, high, self.rounding[place])

    def copy(self) -> Step:
        """A step that can be changed apart."""
        return Step(self.scale.copy(), self.shift.copy(), self.low, self.high, self.rounding.copy())


class Search:
    """The search over some units at once, all of which are to be mended.

    Attributes:
        active: units for which the current `step` is yet to be tried.
        step: what to try next; means nothing for units that are not active.
        best: the best step so far.
        accepted: units whose weights become what `best` makes of them; known when none is active.
        left: units that violate the tolerance even then.
        trials: how many were observed.
    """

    def __init__(
        self,
        constraint: Constraint,
        statistics: UnitStatistics,
        tolerance: float,
        dtype: StorageDType,
        *,
        active: NDArray[np.bool_],
        margin: float = 0.0,
    ) -> None:
        units = len(statistics)
        self.constraint = constraint
        self.tolerance = tolerance
        self.active = active.copy()
        self.step = Step.first(constraint.project(statistics), units, dtype)
        self._direction = np.sign(self.step.scale - 1).astype(np.int8)
        self._projection = self.step.scale.copy()
        if constraint.one_sided:
            self.step.scale *= 1 + self._direction * margin
            if dtype.unit_roundoff == 0:
                self.step.rounding[:] = self._direction
        self.best = self.step.copy()
        self.accepted = np.zeros(units, np.bool_)
        self.left = active.copy()
        self._before = constraint.judge(statistics).distance
        self._distance = np.full(units, np.inf)
        self._low = np.zeros(units)
        self._high = np.full(units, np.inf)
        self.trials = 0

    def observe(self, stored: UnitStatistics) -> NDArray[np.bool_]:
        """Take in what the trial of `step` gave, as stored, and set up the next.

        Statistics of units that are not active are not read. Returns which units' `best` is now
        this trial.
        """
        judgement = self.constraint.judge(stored)
        one_sided = self.constraint.one_sided
        reached = self.active & ~judgement.violates(0.0 if one_sided else self.tolerance)
        better = reached | (self.active & (judgement.distance < self._distance))
        self._distance = np.where(better, judgement.distance, self._distance)
        for name in ("scale", "shift", "rounding"):
            np.copyto(getattr(self.best, name), getattr(self.step, name), where=better)
        conforming = better & ~judgement.violates(self.tolerance)
        improved = better & (self._distance < 0.5 * self._before)
        improved &= ~self.constraint.unmendable(stored)
        self.accepted |= reached | conforming | improved
        self.left &= ~conforming
        self.active &= ~reached
        self.trials += 1
        if self.trials == (_TRIALS if one_sided else _TWO_SIDED_TRIALS):
            self.active[:] = False
        if self.active.any():
            self._correct(self.constraint.project(stored))
        return better

    def pure_scale(self) -> NDArray[np.float64] | None:
        """The factor of each unit's best step, if that is all there is to it.

        A weight then changes by ``|factor - 1|`` of itself, up to the rounding.
        """
        bounded = np.isfinite(self.best.low).any() or np.isfinite(self.best.high).any()
        return None if bounded or self.best.shift.any() else self.best.scale

    def _correct(self, correction: Transform) -> None:
        """Compose the last step with the constraint's correction of its result."""
        factor = np.broadcast_to(np.float64(correction.scale), self.active.shape)
        shift = np.float64(correction.shift)
        if self.constraint.one_sided:
            factor, shift = self._exaggerated(factor - 1), shift * 2.0**self.trials
        scale = self.step.scale * factor
        if not self.constraint.one_sided:
            scale = self._bracketed(scale, factor)
        self.step.shift = self.step.shift * factor + shift
        self.step.scale = scale

    def _exaggerated(self, amount: NDArray[np.float64]) -> NDArray[np.float64]:
        """A factor that steps further inward with each trial; at last, directed rounding."""
        if self.trials == _NEAREST_TRIALS:
            self.step.scale = self._projection.copy()
            self.step.rounding = self._direction.copy()
            return 1.0 + self._direction.astype(np.float64) * _LEAST
        eager = 2.0**self.trials
        amount = np.where(amount < -0.25, amount, np.maximum(amount * eager, -0.5))
        least = self._direction * _LEAST * eager
        return np.asarray(np.where(np.abs(amount) < np.abs(least), least, amount) + 1.0, np.float64)

    def _bracketed(
        self, scale: NDArray[np.float64], factor: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Keep to where the answer must be: a stored norm never falls as the scale grows."""
        tried = self.step.scale
        self._low = np.where(factor > 1, np.maximum(self._low, tried), self._low)
        self._high = np.where(factor < 1, np.minimum(self._high, tried), self._high)
        halved = (scale <= self._low) | (scale >= self._high)
        halved &= np.isfinite(self._high) & (self._low > 0)
        return np.where(halved, np.sqrt(self._low * self._high), scale)


def mendable(
    constraint: Constraint, statistics: UnitStatistics, tolerance: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which units lie outside (non-finite ones do), and which of these a projection can mend."""
    broken = statistics.nonfinite > 0
    outside = constraint.judge(statistics).violates(tolerance) | broken
    return outside, outside & ~broken & ~constraint.unmendable(statistics)
