"""How the weights of a unit move: what `Constraint.project` answers and the engine carries out.

A `Movement` is elementwise. It holds numbers for each unit and applies them to weights. The engine
asks it and knows no formula, so another kind of movement is another subclass; `Transform` is the
usual one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Number: TypeAlias = "NDArray[np.float64] | float"
"""One number for all units, or an array of shape (units,)."""

Over = Callable[[Any], "NDArray[Any]"]
"""Makes a `Number` broadcast with the weights that are moved."""

Narrow = Callable[[Number, Number], "tuple[NDArray[np.float64], NDArray[np.float64]]"]
"""Cuts intervals down to the numbers that storage holds."""


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

    def lost(
        self, w: NDArray[np.float64], over: Over, moved: NDArray[np.float64]
    ) -> NDArray[np.float64] | float:
        """What is still to be added to `moved`, which `apply` made of `w`; default: unknown, 0.

        Only asked where storage holds as many digits as float64.
        """
        del w, over, moved
        return 0.0

    def narrowed(self, narrow: Narrow) -> Self:
        """This movement, but with nothing that rounding could take across a bound; default: itself."""
        del narrow
        return self

    def part(self, places: slice | NDArray[np.intp]) -> Self:
        """The movement of some of the units."""
        return type(self)(*(v[places] if np.ndim(v) else v for _, v in self.numbers()))

    def numbers(self) -> list[tuple[str, Any]]:
        """The name and the value of each `Number`."""
        return [(item.name, getattr(self, item.name)) for item in fields(self)]


@dataclass(frozen=True)
class Transform(Movement):
    """``clip(w * scale + shift, low, high)``, each a number or an array of shape (units,)."""

    scale: NDArray[np.float64] | float = 1.0
    shift: NDArray[np.float64] | float = 0.0
    low: NDArray[np.float64] | float = field(default=-np.inf)
    high: NDArray[np.float64] | float = field(default=np.inf)

    @cached_property
    def shifts(self) -> bool:
        """Whether anything is added."""
        return bool(np.any(self.shift))

    @cached_property
    def bounded(self) -> bool:
        """Whether anything is clipped."""
        return bool(np.isfinite(self.low).any() or np.isfinite(self.high).any())

    def apply(self, w: NDArray[np.float64], over: Over, out: NDArray[np.float64]) -> None:
        """See `Movement.apply`."""
        np.multiply(w, over(self.scale), out=out)
        if self.shifts:  # minus zero stays where nothing is added
            np.add(out, over(self.shift), out=out, where=over(np.not_equal(self.shift, 0)))
        if self.bounded:
            # Which zero `np.clip` takes of two is the processor's affair.
            np.copyto(out, over(self.low), where=out < over(self.low))
            np.copyto(out, over(self.high), where=out > over(self.high))

    def apply_as_keras(self, w: NDArray[Any], over: Over) -> NDArray[Any]:
        """See `Movement.apply_as_keras`."""
        new: NDArray[Any] = w * over(self.scale).astype(w.dtype)
        if self.shifts:
            np.add(
                new,
                over(self.shift).astype(w.dtype),
                out=new,
                where=over(np.not_equal(self.shift, 0)),
            )
        if self.bounded:
            low, high = over(self.low).astype(w.dtype), over(self.high).astype(w.dtype)
            new = np.minimum(np.maximum(new, low), high)
        return new

    def lost(
        self, w: NDArray[np.float64], over: Over, moved: NDArray[np.float64]
    ) -> NDArray[np.float64] | float:
        """What rounding took from ``w * scale`` (Dekker 1971), where that is all; see `Movement`."""
        if self.shifts or self.bounded:
            return 0.0
        (w_high, w_low), (high, low) = _halved(w), _halved(over(self.scale))
        error = ((w_high * high - moved) + w_high * low + w_low * high) + w_low * low
        return np.where(np.isfinite(error), error, 0.0)

    def narrowed(self, narrow: Narrow) -> Self:
        """See `Movement.narrowed`."""
        low, high = narrow(self.low, self.high)
        return replace(self, low=low, high=high)


def _halved(x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cut float64 numbers into two of half as many digits (Veltkamp)."""
    scaled = x * (2.0**27 + 1)
    high = scaled - (scaled - x)
    return high, x - high
