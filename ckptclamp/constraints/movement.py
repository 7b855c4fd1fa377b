"""How the weights of a unit move: what `Constraint.project` answers and the engine carries out.

A `Movement` is elementwise. It holds numbers for each unit, applies them to weights, and says by
which `Steps` a result that storage rounded to outside of the set is tried again. The engine asks it
and nothing else, so another kind of movement is another subclass; `Transform` is the usual one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Number: TypeAlias = "NDArray[np.float64] | float"
"""One number for all units, or an array of shape (units,)."""

Over = Callable[[Any], "NDArray[Any]"]
"""Makes a `Number` broadcast with the weights that are moved."""


@dataclass(frozen=True)
class Movement(ABC):
    """How the weights of some units move. Subclasses are frozen dataclasses of `Number` fields."""

    @abstractmethod
    def apply(self, w: NDArray[np.float64], over: Over, out: NDArray[np.float64]) -> None:
        """Put `w` moved into `out`, which may be `w` itself. All is float64."""

    def apply_as_keras(self, w: NDArray[Any], over: Over) -> NDArray[Any]:
        """Return `w` moved as Keras does, in the dtype of `w`; default: in float64, rounded to it."""
        wide = w.astype(np.float64)
        self.apply(wide, over, wide)
        return wide.astype(w.dtype)

    @abstractmethod
    def steps(self, aim: Aim) -> Steps:
        """Begin a search for what, rounded, lies in the set; this movement is the projection."""

    @property
    def shrinks(self) -> bool:
        """Whether each result lies between its weight and zero: storage holds such numbers."""
        return False

    @property
    def change(self) -> NDArray[np.float64] | None:
        """How far all weights of each unit move relative to themselves, if it is one number."""
        return None

    def part(self, places: slice | NDArray[np.intp]) -> Self:
        """The movement of some of the units."""
        return type(self)(*(v[places] if np.ndim(v) else v for _, v in self.numbers()))

    def where(self, chosen: NDArray[np.bool_], other: Self) -> Self:
        """This movement for the `chosen` units, and the `other` for the rest."""
        both = zip(self.numbers(), other.numbers(), strict=True)
        return type(self)(*(a if a is b else np.where(chosen, a, b) for (_, a), (_, b) in both))

    def numbers(self) -> list[tuple[str, Any]]:
        """The name and the value of each `Number`."""
        return [(item.name, getattr(self, item.name)) for item in fields(self)]


@dataclass(frozen=True, slots=True)
class Aim:
    """What a search over `units` units aims at.

    `one_sided`: rounding inward can always reach the set. `margin`: how far inside, relatively, the
    first trial of a one-sided search aims. `whole`: storage holds whole numbers only. `narrow` cuts
    intervals down to the numbers that storage holds.
    """

    units: int
    one_sided: bool
    margin: float
    whole: bool
    narrow: Callable[[Number, Number], tuple[NDArray[np.float64], NDArray[np.float64]]]


@dataclass(frozen=True, slots=True)
class Step:
    """A movement to try, and how its results are rounded: int8, shape (units,).

    -1 is toward zero, 1 away from it, and 0 to the nearest.
    """

    movement: Movement
    rounding: NDArray[np.int8]

    def part(self, places: slice | NDArray[np.intp]) -> Step:
        """The step of some of the units."""
        return Step(self.movement.part(places), self.rounding[places])

    def where(self, chosen: NDArray[np.bool_], other: Step) -> Step:
        """This step for the `chosen` units, and the `other` for the rest."""
        if other is self:
            return self
        movement = self.movement.where(chosen, other.movement)
        return Step(movement, np.where(chosen, self.rounding, other.rounding))


class Steps(ABC):
    """What a search tries, one `step` after the other, always from the original weights.

    At most `most` are tried: each is a pass over the weights of units that no block holds whole.
    """

    step: Step
    most: int

    @abstractmethod
    def correct(self, correction: Any, trials: int) -> None:  # noqa: ANN401 - the same kind's
        """Set the next `step`: the last, after `trials` of them, left `correction` to be done.

        `correction` is the constraint's projection of what was stored.
        """


@dataclass(frozen=True)
class Transform(Movement):
    """``clip(w * scale + shift, low, high)``, each a number or an array of shape (units,)."""

    scale: NDArray[np.float64] | float = 1.0
    shift: NDArray[np.float64] | float = 0.0
    low: NDArray[np.float64] | float = field(default=-np.inf)
    high: NDArray[np.float64] | float = field(default=np.inf)

    @cached_property
    def _shifts(self) -> bool:
        return bool(np.any(self.shift))

    @cached_property
    def _bounded(self) -> bool:
        return bool(np.isfinite(self.low).any() or np.isfinite(self.high).any())

    def apply(self, w: NDArray[np.float64], over: Over, out: NDArray[np.float64]) -> None:
        """See `Movement.apply`."""
        np.multiply(w, over(self.scale), out=out)
        if self._shifts:
            out += over(self.shift)
        if self._bounded:
            np.clip(out, over(self.low), over(self.high), out=out)

    def apply_as_keras(self, w: NDArray[Any], over: Over) -> NDArray[Any]:
        """See `Movement.apply_as_keras`."""
        new: NDArray[Any] = w * over(self.scale).astype(w.dtype)
        if self._shifts:
            new = new + over(self.shift).astype(w.dtype)
        if self._bounded:
            low, high = over(self.low).astype(w.dtype), over(self.high).astype(w.dtype)
            new = np.minimum(np.maximum(new, low), high)
        return new

    def steps(self, aim: Aim) -> Steps:
        """See `Movement.steps`."""
        return _AffineSteps(self, aim)

    @property
    def shrinks(self) -> bool:
        """A factor in [-1, 1], and nothing else."""
        return self._scales and bool((np.abs(self.scale) <= 1).all())

    @property
    def change(self) -> NDArray[np.float64] | None:
        """``|factor - 1|``, up to the rounding."""
        return np.abs(np.asarray(self.scale) - 1) if self._scales else None

    @property
    def _scales(self) -> bool:
        return not (self._shifts or self._bounded)


_TRIALS = 10
_TWO_SIDED_TRIALS = 5

_NEAREST_TRIALS = 4
"""Trials that round to the nearest number; then rounding is directed inward."""

_LEAST = 2.0**-50
"""The least relative correction: a few units in the last place of a float64 norm."""


class _AffineSteps(Steps):
    """Composes the last trial with the correction of its result, exaggerated more each time.

    In the end rounding is directed inward, which cannot fail but for a norm's last bits. Where
    overshooting is no better than falling short, the answer is bracketed instead.
    """

    def __init__(self, projection: Transform, aim: Aim) -> None:
        self._interval = aim.narrow(projection.low, projection.high)
        self._scale = scale = np.broadcast_to(np.float64(projection.scale), aim.units)
        self._shift = np.broadcast_to(np.float64(projection.shift), aim.units)
        self._direction = np.sign(scale - 1).astype(np.int8)
        self._projection = scale
        self._low, self._high = np.zeros(aim.units), np.full(aim.units, np.inf)
        self._one_sided = aim.one_sided
        self.most = _TRIALS if aim.one_sided else _TWO_SIDED_TRIALS
        rounding = np.zeros(aim.units, np.int8)
        if aim.one_sided:
            self._scale = scale * (1 + self._direction * aim.margin)
            rounding = self._direction if aim.whole else rounding
        self.step = Step(Transform(self._scale, self._shift, *self._interval), rounding)

    def correct(self, correction: Transform, trials: int) -> None:
        """See `Steps.correct`."""
        factor = np.broadcast_to(np.float64(correction.scale), self._scale.shape)
        shift, rounding = np.float64(correction.shift), self.step.rounding
        if not self._one_sided:
            scale = self._bracketed(self._scale * factor, factor)
        elif trials == _NEAREST_TRIALS:
            factor = 1.0 + self._direction.astype(np.float64) * _LEAST
            scale, rounding = self._projection * factor, self._direction
        else:
            factor = self._exaggerated(factor - 1, 2.0**trials)
            scale = self._scale * factor
        if self._one_sided:
            shift = shift * 2.0**trials
        self._scale, self._shift = scale, self._shift * factor + shift
        self.step = Step(Transform(self._scale, self._shift, *self._interval), rounding)

    def _exaggerated(self, amount: NDArray[np.float64], eager: float) -> NDArray[np.float64]:
        """A factor that steps further inward with each trial."""
        amount = np.where(amount < -0.25, amount, np.maximum(amount * eager, -0.5))
        least = self._direction * _LEAST * eager
        return np.asarray(np.where(np.abs(amount) < np.abs(least), least, amount) + 1.0, np.float64)

    def _bracketed(
        self, scale: NDArray[np.float64], factor: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Keep to where the answer must be: a stored norm never falls as the scale grows."""
        tried = self._scale
        self._low = np.where(factor > 1, np.maximum(self._low, tried), self._low)
        self._high = np.where(factor < 1, np.minimum(self._high, tried), self._high)
        halved = (scale <= self._low) | (scale >= self._high)
        halved &= np.isfinite(self._high) & (self._low > 0)
        return np.where(halved, np.sqrt(self._low * self._high), scale)
