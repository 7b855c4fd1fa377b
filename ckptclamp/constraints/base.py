"""What a constraint is: two small functions over per-unit statistics.

A streaming constraint names the statistics that it needs, judges them, and turns them into one
elementwise movement, mostly ``clip(w * scale + shift, low, high)``. Statistics of parts merge, and
the movement is elementwise, so one engine serves every constraint at any size.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import fields, is_dataclass
from enum import StrEnum
from fractions import Fraction
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from ckptclamp.constraints.movement import Movement, Transform
from ckptclamp.constraints.tolerance import KERAS_EPSILON
from ckptclamp.errors import UsageError
from ckptclamp.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from ckptclamp.checkpoints.dtypes import StorageDType

__all__ = [
    "Constraint",
    "ExactSums",
    "Judgement",
    "Movement",
    "Statistic",
    "Transform",
    "UnitStatistics",
]
"""All that a constraint is written with; the rest are helpers of the built-in ones."""


ROUNDOFF = 2.0**-53
"""The unit roundoff of float64."""


class Statistic(StrEnum):
    """One number per unit, all in float64."""

    NORM = "norm"
    """The Euclidean norm; parts merge by `hypot`."""
    SUM = "sum"
    SUM_ABS = "sum_abs"
    MIN = "min"
    MAX = "max"
    MAX_ABS = "max_abs"
    NONZERO = "nonzero"
    """How many weights are not 0, or the largest such count of any part that a constraint is about."""
    MOVE = "move"
    """How far a constraint on a whole tensor moves the weight that it moves most; no kernel
    measures it, only `engine.whole` does."""
    OWN = "own"
    """What a constraint on matrices measures by itself; no kernel measures this or the next two."""
    LOWER = "lower"
    UPPER = "upper"
    """Bounds of something that a constraint on matrices cannot measure exactly."""
    BASE_NORM = "base_norm"
    """The norm of the same unit of the base checkpoint; `engine.distance` measures it."""

    @property
    def streams(self) -> bool:
        """Whether parts of units tell it."""
        return self not in _NOT_STREAMED


_NOT_STREAMED = frozenset(
    {
        Statistic.MOVE,
        Statistic.OWN,
        Statistic.LOWER,
        Statistic.UPPER,
        Statistic.BASE_NORM,
    }
)


@frozen
class UnitStatistics:
    """Measurements of some units, each an array of shape (units,).

    `size` is how many weights one unit has. `values` holds float64 arrays, one for each statistic
    that was asked for; where a unit has a non-finite weight they mean nothing. `nonfinite` counts
    such weights (int64).
    """

    size: int
    values: Mapping[Statistic, NDArray[np.float64]]
    nonfinite: NDArray[np.int64]

    def __getitem__(self, statistic: Statistic) -> NDArray[np.float64]:
        return self.values[statistic]

    def __len__(self) -> int:
        return len(self.nonfinite)

    @property
    def error(self) -> float:
        """How far a sum of a unit may lie from the truth, relative to its sum of magnitudes.

        Also a norm, relative to itself. Whatever the order in which n terms are added, no term meets
        more than n roundings (Higham, *Accuracy and Stability of Numerical Algorithms*, 2nd ed.,
        section 4.2), nor more than n calls of `hypot`, good to 2 u each; the rest is for the square
        root, and for the few roundings of whoever compares.
        """
        return (2 * self.size + 16) * ROUNDOFF

    @property
    def nbytes(self) -> int:
        """Bytes that the arrays take."""
        return self.nonfinite.nbytes + sum(value.nbytes for value in self.values.values())

    @classmethod
    def joined(cls, parts: Sequence[UnitStatistics]) -> UnitStatistics:
        """Statistics of units that follow each other."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            parts[0].size,
            {key: np.concatenate([part[key] for part in parts]) for key in parts[0].values},
            np.concatenate([part.nonfinite for part in parts]),
        )

    @property
    def zero(self) -> NDArray[np.bool_]:
        """Which units have no weight but zeros; none, where no statistic here can tell."""
        alone = (Statistic.NORM, Statistic.SUM_ABS, Statistic.MAX_ABS)
        pairs = ([Statistic.MIN, Statistic.MAX], [Statistic.MIN, Statistic.SUM])
        known = (pair for pair in pairs if self.values.keys() >= set(pair))
        telling = [s for s in alone if s in self.values][:1] or next(known, [])
        if not telling:
            return np.zeros(len(self), np.bool_)
        zero: NDArray[np.bool_] = self.nonfinite == 0
        for statistic in telling:
            zero &= self.values[statistic] == 0
        return zero

    def part(self, places: slice | NDArray[np.intp]) -> UnitStatistics:
        """Statistics of some of the units."""
        values = {key: value[places] for key, value in self.values.items()}
        return UnitStatistics(self.size, values, self.nonfinite[places])


@frozen
class ExactSums:
    """What the `size` weights of one unit add up to, as stored, without any rounding.

    `squares` is the sum of their squares, `total` their sum, `magnitudes` the sum of their magnitudes,
    `base_squares` the sum of the squares of the base checkpoint's; what the constraint does not need
    is 0.
    """

    size: int
    squares: Fraction = Fraction(0)
    total: Fraction = Fraction(0)
    magnitudes: Fraction = Fraction(0)
    base_squares: Fraction = Fraction(0)


@frozen
class Judgement:
    """How some units stand to a constraint, each an array of shape (units,), float64.

    `measured` is what is compared (a norm, a smallest weight), `bound` the nearest bound that it is
    compared with, `distance` how far outside it lies (0 inside, never negative), `scale` what a
    relative tolerance is relative to: a unit conforms if ``distance <= tolerance * scale``. Where a
    bound is 0 the scale is 0, since nothing but the bound itself is near it in relative terms.

    `error` is how far ``|measured - bound|`` may lie from the truth at most; nearer to a limit than
    that, `Constraint.overshoot` decides. ``None`` where the judgement itself is exact.
    """

    measured: NDArray[np.float64]
    bound: NDArray[np.float64]
    distance: NDArray[np.float64]
    scale: NDArray[np.float64]
    error: NDArray[np.float64] | None = None

    def violates(self, tolerance: float, shortfall: float = 0.0) -> NDArray[np.bool_]:
        """Which units lie outside by more than `tolerance`; NaN counts as outside.

        Below their bound units may lie farther out, by `shortfall`.
        """
        with np.errstate(invalid="ignore"):
            if not shortfall:
                return ~(self.distance <= tolerance * self.scale)
            forgiven = np.where(self.measured < self.bound, tolerance + shortfall, tolerance)
            return ~(self.distance <= forgiven * self.scale)

    def doubtful(self, tolerance: float) -> NDArray[np.bool_]:
        """Of which units float64 cannot tell whether they lie outside by more than `tolerance`."""
        if self.error is None:
            return np.zeros(len(self.distance), np.bool_)
        with np.errstate(all="ignore"):
            limit = tolerance * self.scale
            apart = np.abs(np.abs(self.measured - self.bound) - limit)
            return np.asarray(apart < self.error + 4 * ROUNDOFF * limit)

    @property
    def excess(self) -> NDArray[np.float64]:
        """The distance relative to the bound; infinite outside a bound of 0."""
        with np.errstate(all="ignore"):
            return np.where(self.distance == 0, 0.0, self.distance / self.scale)


class Constraint(ABC):
    """A set that each unit must lie in, and the projection onto it. Subclasses are immutable.

    Keras' protocol for saving holds here too: `get_config` returns the arguments of the
    constructor, `from_config` makes an equal constraint of them. Which axes a unit spans is not the
    constraint's affair but the rule's.

    Class attributes:
        needs: the statistics that `judge` and `project` read.
        elementwise: each weight is a unit of its own; `bounds` then tells the interval.
        one_sided: rounding inward can always reach the set exactly (false for ``norm = 1``).
        streaming: judged from statistics; false for those that need the whole tensor.
        whole_by_default: where no axis is stated, the whole tensor is one unit.
        epsilon: what Keras adds to a norm before it divides by it.
        exact_measure: what `judge` compares is a weight itself, not a sum, so that at tolerance 0 it has
            the last word; `overshoot` is then given that weight as the total.
        measures: what is compared with the bound, for reports, where the name does not say it.
    """

    needs: ClassVar[frozenset[Statistic]]
    elementwise: ClassVar[bool] = False
    one_sided: bool = True
    streaming: ClassVar[bool] = True
    epsilon: float = KERAS_EPSILON
    whole_by_default: ClassVar[bool] = False
    measures: ClassVar[str] = ""
    exact_measure: ClassVar[bool] = False

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Refuse tensors of a shape that the constraint cannot be about; default: none.

        Raises:
            UsageError: a tensor of `shape` cannot be under this constraint.
        """
        del shape

    @abstractmethod
    def judge(self, statistics: UnitStatistics) -> Judgement:
        """Compare each unit with the constraint. Non-finite units need no care here."""

    @abstractmethod
    def project(self, statistics: UnitStatistics) -> Movement:
        """The movement that takes each unit to the nearest point of the set (identity inside)."""

    def project_keras(self, statistics: UnitStatistics) -> Movement:
        """What Keras' own formula does to each unit, conforming ones too; default: `project`."""
        return self.project(statistics)

    def unmendable(self, statistics: UnitStatistics) -> NDArray[np.bool_]:
        """Which units no projection can fix, beside those with non-finite weights."""
        return np.zeros(len(statistics), dtype=np.bool_)

    def overshoot(self, exact: ExactSums, tolerance: float) -> Fraction | None:
        """How far a unit lies outside by more than `tolerance`, in exact arithmetic.

        Numbers of type float stand for their exact values. The answer is in what the unit's weights
        add up to (squares, where a norm is bounded): positive above the limit, negative below it, 0
        inside. Default: ``None``, for constraints whose `judge` has the last word.
        """
        del exact, tolerance
        return None

    def bounds(self) -> tuple[float, float]:
        """The closed interval that every weight must lie in; only for elementwise constraints."""
        raise NotImplementedError

    def interval(self) -> tuple[float | None, float | None]:
        """The closed interval that the measured value must lie in, for reports; ``None`` is open."""
        return (None, None)

    def with_epsilon(self, epsilon: float) -> Constraint:
        """This constraint as Keras keeps it with another epsilon; only norms are divided by it."""
        del epsilon
        return self

    def shortfall(self) -> float:
        """How far below its bound, relatively, Keras' own projection may leave a unit by its epsilon."""
        return 0.0

    def as_stored(self, dtype: StorageDType) -> Constraint:
        """This constraint with its bounds as `dtype` holds them; only elementwise bounds change."""
        del dtype
        return self

    @abstractmethod
    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, ready for JSON."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Make the constraint that `get_config` described."""
        return cls(**config)

    def __str__(self) -> str:
        """As a person would write it: ``MaxNorm(max_value=2)``."""
        arguments = ", ".join(f"{key}={_number(v)}" for key, v in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


class BuiltIn(Constraint):
    """A constraint that is a frozen dataclass of its arguments."""

    def get_config(self) -> dict[str, Any]:
        """The fields, by name."""
        assert is_dataclass(self)
        return {field.name: getattr(self, field.name) for field in fields(self)}


def _number(value: object) -> str:
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)


def number(name: str, value: object) -> float:
    """Return `value` as a float; infinities are numbers, NaN, booleans and text are not.

    Raises:
        UsageError: it is no number that can be compared with.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise UsageError(f"{name} must be a number, not {value!r}")
    try:
        result = float(value)
    except OverflowError:
        raise UsageError(f"{name} is too large for a float64") from None
    if math.isnan(result):
        raise UsageError(f"{name} must be a number, not NaN")
    return result


def norm_bound(name: str, value: object) -> float:
    """Return `value` as a bound of a norm: a number that is not negative.

    Raises:
        UsageError: it is no number, or negative.
    """
    result = number(name, value)
    if result < 0:
        raise UsageError(f"{name} bounds a norm and cannot be negative, but is {value!r}")
    return result


def ordered(low_name: str, low: float, high_name: str, high: float) -> None:
    """Check that ``low <= high``.

    Raises:
        UsageError: no number lies in the interval.
    """
    if low > high:
        raise UsageError(f"{low_name} ({low:g}) is greater than {high_name} ({high:g})")


def two_sum(
    a: NDArray[np.float64], b: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return ``a + b``, rounded, and what rounding took from it (Knuth)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)
