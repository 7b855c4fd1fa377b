"""Rounding to the numbers that a stored form has: the nearest one, the next below, the next above."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptclamp.frozen import frozen

if TYPE_CHECKING:
    from numpy.typing import NDArray


@frozen
class Wanted:
    """Numbers that are to be stored, in arrays of one shape.

    `rounding` is -1 for the next number below that can be stored, 1 for the next above and 0 for the
    nearest. What is not `chosen` keeps its bits.
    """

    numbers: NDArray[np.float64]
    rounding: NDArray[np.int8]
    chosen: NDArray[np.bool_]

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the arrays."""
        return self.numbers.shape

    @property
    def usable(self) -> NDArray[np.float64]:
        """The numbers, and 0 for those that are not chosen."""
        return np.where(self.chosen, self.numbers, 0.0)

    def instead(self, numbers: NDArray[np.float64]) -> Wanted:
        """The same of other numbers; those that are not finite are not chosen."""
        return Wanted(numbers, self.rounding, self.chosen & np.isfinite(numbers))

    def part(self, place: tuple[slice, ...], shape: tuple[int, ...]) -> Wanted:
        """Some of them, in another shape."""
        return Wanted(
            self.numbers[place].reshape(shape),
            self.rounding[place].reshape(shape),
            self.chosen[place].reshape(shape),
        )

    def turned(self) -> Wanted:
        """With the last two axes swapped."""
        return Wanted(
            self.numbers.swapaxes(-1, -2),
            self.rounding.swapaxes(-1, -2),
            self.chosen.swapaxes(-1, -2),
        )

    def flat(self) -> Wanted:
        """In one axis."""
        return self.part((), (-1,))


_SAME = 1e-12
"""A number that lies so near to a level, relative to it, is that level: a product was rounded."""


@frozen
class Levels:
    """All numbers that a code may stand for, ascending, and the code of each."""

    values: NDArray[np.float64]
    codes: NDArray[np.uint8]

    def encode(self, wanted: Wanted) -> NDArray[np.uint8]:
        """Return the code for each number, the first or the last where they lie beyond all."""
        numbers, rounding = wanted.usable, wanted.rounding
        last = len(self.values) - 1
        above = np.searchsorted(self.values, numbers)
        high, low = np.minimum(above, last), np.maximum(above - 1, 0)
        below, over = numbers - self.values[low], self.values[high] - numbers
        near = np.where(below <= over, low, high)
        apart = np.abs(numbers - self.values[near]) > _SAME * np.abs(numbers)
        place = np.where(apart & (rounding < 0), low, near)
        return self.codes[np.where(apart & (rounding > 0), high, place)]


@lru_cache(maxsize=32)
def levels_of(table: tuple[float, ...]) -> Levels:
    """The levels of codes whose values are `table`; NaN and infinities are none, and 0 is not -0."""
    values = np.array(table)
    codes = np.flatnonzero(np.isfinite(values))
    found, first = np.unique(values[codes], return_index=True)
    return Levels(found, codes[first].astype(np.uint8))


def round_floats(wanted: Wanted, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return numbers in a float `dtype` of 16 bits and more, at most its largest one."""
    import ml_dtypes

    rounding = wanted.rounding
    largest = float(ml_dtypes.finfo(dtype).max)  # type: ignore[no-untyped-call]
    held = np.clip(wanted.usable, -largest, largest)
    stored = held.astype(dtype)
    wide = stored.astype(np.float64)
    off = np.where(rounding < 0, wide > held, (rounding > 0) & (wide < held))
    if off.any():
        ends = np.where(rounding < 0, -np.inf, np.inf).astype(dtype)
        stored = np.where(off, np.nextafter(stored, ends), stored)
    return stored
