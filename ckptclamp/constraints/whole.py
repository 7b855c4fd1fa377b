"""Constraints that no statistics of units can tell: they need the whole tensor at once."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ckptclamp.constraints.base import Constraint, Judgement, Statistic, Transform

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ckptclamp.constraints.base import UnitStatistics


class WholeTensorConstraint(Constraint):
    """A map from a whole tensor to what it would be after projection.

    What a tensor violates is how far the map would move it.
    """

    needs: ClassVar[frozenset[Statistic]] = frozenset({Statistic.MOVE, Statistic.MAX_ABS})
    one_sided = False
    streaming: ClassVar[bool] = False

    @abstractmethod
    def apply(self, w: NDArray[Any]) -> NDArray[np.float64]:
        """Return the projected tensor in float64 and the shape of `w`.

        Raises:
            UnreadableError: it cannot be projected.
        """

    def apply_keras(self, w: NDArray[Any]) -> NDArray[np.float64]:
        """What Keras' own formula makes of `w`; default: `apply`."""
        return self.apply(w)

    def judge(self, statistics: UnitStatistics) -> Judgement:
        """Compare the largest move with none at all, relative to the largest magnitude."""
        move = statistics[Statistic.MOVE]
        return Judgement(move, np.zeros_like(move), move, statistics[Statistic.MAX_ABS])

    def project(self, statistics: UnitStatistics) -> Transform:
        """Not possible: statistics do not say what the map does; see `apply`."""
        raise NotImplementedError(f"{self} projects whole tensors")

    def interval(self) -> tuple[float | None, float | None]:
        """No weight may move at all."""
        return None, 0.0
