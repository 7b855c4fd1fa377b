"""A constraint on the mean of each unit: a hyperplane. The projection is a shift."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ckptclamp.constraints.base import Constraint, Judgement, Statistic, Transform, number
from ckptclamp.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ckptclamp.constraints.base import UnitStatistics


@dataclass(frozen=True)
class CenterAround(Constraint):
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
        return Judgement(mean, bound, distance, np.where(np.isfinite(magnitude), magnitude, 0.0))

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

    def get_config(self) -> dict[str, Any]:
        """``ref_value``."""
        return {"ref_value": self.ref_value}
