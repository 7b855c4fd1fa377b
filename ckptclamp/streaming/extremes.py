"""The smallest and the largest weight of each unit, found in whatever way the dtype is fast in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ckptclamp.streaming.kernels import reduce

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BY_BITS = frozenset({"float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"})
"""Formats of sign and magnitude, with NaN beyond all numbers: their bit patterns are in order."""


def extremes(
    block: NDArray[Any], axes: tuple[int, ...]
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return the minimum and maximum of each unit, or ``None`` if `block` must be widened first.

    A NaN shows in at least one of the two, and so does an infinity.
    """
    dtype = block.dtype
    if not dtype.isnative:
        return None
    if dtype.kind in "iu" or dtype in (np.float32, np.float64):
        low, high = reduce(np.minimum, block, axes), reduce(np.maximum, block, axes)
        return low.astype(np.float64), high.astype(np.float64)
    return _by_bits(block, axes) if dtype.name in _BY_BITS else None


def _by_bits(
    block: NDArray[Any], axes: tuple[int, ...]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compare small floats as integers: NumPy has no fast loops for them.

    As unsigned integers negative numbers come last, the most negative at the end; as signed ones
    the largest positive number does. Units of one sign need a third look.
    """
    unsigned = block.view(f"u{block.dtype.itemsize}")
    lowest = reduce(np.maximum, unsigned, axes)
    highest = reduce(np.maximum, block.view(f"i{block.dtype.itemsize}"), axes)
    sign = 1 << (8 * block.dtype.itemsize - 1)
    positive, negative = lowest < sign, highest < 0
    if positive.any() or negative.any():
        nearest = reduce(np.minimum, unsigned, axes)
        lowest = np.where(positive, nearest, lowest)
        highest = np.where(negative, nearest, highest.view(unsigned.dtype))
    return (
        lowest.view(block.dtype).astype(np.float64),
        highest.view(block.dtype).astype(np.float64),
    )
