"""Finding, for each violating unit, a step whose rounded result lies inside the constraint.

The first trial is the projection itself. Rounding to storage moves a norm by about u/√n relative,
so every other unit lands a little outside. What is outside is tried again, from the original
weights, by the `Steps` of the constraint's movement, which are told how the constraint would
correct what was stored.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ckptclamp.constraints.movement import Aim
from ckptclamp.engine.rounding import inward

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ckptclamp.checkpoints.dtypes import StorageDType
    from ckptclamp.constraints.base import Constraint, UnitStatistics
    from ckptclamp.constraints.movement import Step


class Search:
    """The search over some units at once, all of which are to be mended.

    Attributes:
        active: units for which the current `step` is yet to be tried.
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
        narrow = partial(inward, dtype=dtype.numpy)
        aim = Aim(units, constraint.one_sided, margin, dtype.unit_roundoff == 0, narrow)
        self._steps = constraint.project(statistics).steps(aim)
        self.best = self.step
        self.accepted = np.zeros(units, np.bool_)
        self.left = active.copy()
        self._before = constraint.judge(statistics).distance
        self._distance = np.full(units, np.inf)
        self.trials = 0

    @property
    def step(self) -> Step:
        """What to try next; means nothing for units that are not active."""
        return self._steps.step

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
        self.best = self.step.where(better, self.best)
        conforming = better & ~judgement.violates(self.tolerance)
        improved = better & (self._distance < 0.5 * self._before)
        improved &= ~self.constraint.unmendable(stored)
        self.accepted |= reached | conforming | improved
        self.left &= ~conforming
        self.active &= ~reached
        self.trials += 1
        if self.trials == self._steps.most:
            self.active[:] = False
        if self.active.any():
            self._steps.correct(self.constraint.project(stored), self.trials)
        return better
