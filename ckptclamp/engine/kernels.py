"""The arithmetic over weights, each function a few calls of NumPy on a buffer that a cache holds.

These are all the functions that touch every weight of an audit, and compiled kernels would replace:

- `widen`: any storage dtype to float64;
- `extremes`: minimum and maximum of each unit, of weights as they are stored;
- `reduce`: sum, minimum, maximum or or (logical) of each unit;
- `sum_of_magnitudes`, `count_nonzero`, and `sum_of_squares` of float64, or `sum_of_squares_in_pieces` of any dtype;
- `all_finite` and `count_nonfinite`.

A block has the shape of a box and some reduced axes. Size-1 axes are dropped and neighbours of the
same status merged, so that every case is one of a few: rows (the last axis is reduced), columns
(the last is kept), and these with more axes in front. No call here reaches a BLAS routine that
starts threads of its own, so results do not depend on how many there would be.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from ckptclamp.engine.blocks import Workspace


_NARROW_ROW = 32
"""Below this length a row is cheaper to reduce as strided columns."""

_NARROW_SQUARES = 8
"""The same for sums of squares, which have a fast loop for rows."""

_WIDE = 256
"""Rows of kept weights are folded up to this length, so that inner loops stay long."""

_RUN = 256
"""Weights in one dot product, about. NumPy lets other threads work only during calls with more than
500 of them, and a block has more than that in runs of this length; sums of runs also lose less."""


@lru_cache(maxsize=4096)
def merged(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[tuple[int, ...], bool]:
    """Merge neighbouring axes of the same status and drop those of length 1.

    Returns:
        The extents, whose status alternates, and whether the last is reduced. Without any extent
        left the shape is ``(1,)``, kept.
    """
    extents: list[int] = []
    status: list[bool] = []
    for axis, extent in enumerate(shape):
        if extent == 1:
            continue
        if status and status[-1] == (axis in axes):
            extents[-1] *= extent
        else:
            extents.append(extent)
            status.append(axis in axes)
    return (tuple(extents), status[-1]) if extents else ((1,), False)


def sum_of_squares(
    block: NDArray[np.float64], axes: tuple[int, ...], scratch: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Sum the squares of each unit of a C-contiguous float64 `block`.

    `scratch` has room for the block. Returns shape (units,), in C order of the kept axes.
    """
    extents, rows = merged(block.shape, axes)
    x = block.reshape(extents)
    if rows:
        return _over_the_rest(np.add, _square_rows(np.atleast_2d(x), scratch), innermost=-2)
    if x.ndim == 1:
        return np.multiply(x, x)
    return _over_the_rest(np.add, _square_columns(x), innermost=-3)


def _square_columns(x: NDArray[np.float64]) -> NDArray[np.float64]:
    folded = _fold(x)
    if folded is None:
        return np.asarray(np.einsum("...rk,...rk->...k", x, x))
    head, tail = folded
    sums = np.einsum("rk,rk->k", head, head).reshape(-1, x.shape[1]).sum(axis=0)
    sums += np.einsum("rk,rk->k", tail, tail)
    return np.asarray(sums)


def sum_of_squares_in_pieces(
    block: NDArray[Any], axes: tuple[int, ...], workspace: Workspace, piece: int
) -> NDArray[np.float64] | None:
    """Do as `sum_of_squares` for a C-contiguous block that is larger than the cache.

    About `piece` elements at a time are made float64 and summed. Rows come out, bit for
    bit, as in `sum_of_squares`. ``None`` where units are neither the rows nor the columns of one
    matrix, or have no runs of equal length.
    """
    extents, rows = merged(block.shape, axes)
    if len(extents) > 2:
        return None
    if rows:
        run = _run(extents[-1])
        if extents[-1] % run or run < _NARROW_SQUARES:
            return None
        runs = block.reshape(-1, run)
        sums = np.empty(len(runs))
        for part in _parts(len(runs), piece // run):
            wide = widen(runs[part], workspace)
            np.vecdot(wide, wide, out=sums[part])
        return np.asarray(sums.reshape(*extents[:-1], -1).sum(axis=-1)).reshape(-1)
    if len(extents) < 2:
        return None
    columns = block.reshape(extents)
    total = np.zeros(extents[1])
    for part in _parts(extents[0], piece // extents[1]):
        total += _square_columns(widen(columns[part], workspace))
    return total


def _parts(count: int, step: int) -> Iterator[slice]:
    step = max(1, step)
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def reduce(ufunc: np.ufunc, block: NDArray[Any], axes: tuple[int, ...]) -> NDArray[Any]:
    """Reduce each unit of a C-contiguous `block` with `ufunc` (add, minimum or maximum).

    Returns shape (units,), in C order of the kept axes and in the block's dtype.
    """
    extents, rows = merged(block.shape, axes)
    x = block.reshape(extents)
    if rows:
        return _over_the_rest(ufunc, _reduce_rows(ufunc, np.atleast_2d(x)), innermost=-2)
    if x.ndim == 1:
        return x.copy()
    folded = _fold(x)
    if folded is None:
        return _over_the_rest(ufunc, ufunc.reduce(x, axis=-2), innermost=-3)
    head, tail = folded
    result = ufunc.reduce(ufunc.reduce(head, axis=0).reshape(-1, x.shape[1]), axis=0)
    return np.asarray(ufunc(result, ufunc.reduce(tail, axis=0)) if len(tail) else result)


def sum_of_magnitudes(
    block: NDArray[np.float64], axes: tuple[int, ...], scratch: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Sum the magnitudes of each unit of a C-contiguous float64 `block`, as `sum_of_squares` does."""
    return reduce(np.add, np.abs(block, out=scratch.reshape(block.shape)), axes)


def count_nonzero(
    block: NDArray[np.float64], axes: tuple[int, ...], scratch: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Count the weights of each unit that are not 0 (NaN is none), as `sum_of_squares` sums."""
    return reduce(np.add, np.not_equal(block, 0.0, out=scratch.reshape(block.shape)), axes)


def all_finite(values: NDArray[Any]) -> bool:
    """Whether no value is NaN or infinite."""
    return bool(np.isfinite(values).all())


def count_nonfinite(block: NDArray[Any], axes: tuple[int, ...]) -> NDArray[np.int64] | None:
    """Count the NaN and infinities of each unit; ``None`` if there are none at all."""
    count = reduce(np.add, (~np.isfinite(block)).astype(np.int64), axes)
    return count if count.any() else None


def _square_rows(x: NDArray[np.float64], scratch: NDArray[np.float64]) -> NDArray[np.float64]:
    length = x.shape[-1]
    if length < _NARROW_SQUARES:
        squares = np.multiply(x, x, out=scratch[: x.size].reshape(x.shape))
        return _reduce_rows(np.add, squares)
    run = _run(length)
    if run == length:
        return np.asarray(np.vecdot(x, x))
    whole = length - length % run
    runs = x[..., :whole].reshape(*x.shape[:-1], -1, run)
    sums = np.vecdot(runs, runs).sum(axis=-1)
    if whole < length:
        sums += np.vecdot(x[..., whole:], x[..., whole:])
    return np.asarray(sums)


@lru_cache(maxsize=4096)
def _run(length: int) -> int:
    """How long the runs are that rows of `length` are cut into: of one length, where that can be."""
    if length < 2 * _RUN:
        return length
    even = (run for run in range(2 * _RUN - 1, _RUN // 2, -1) if length % run == 0)
    return min(even, key=lambda run: abs(run - _RUN), default=_RUN)


def _reduce_rows(ufunc: np.ufunc, x: NDArray[Any]) -> NDArray[Any]:
    if x.shape[-1] >= _NARROW_ROW:
        return np.asarray(ufunc.reduce(x, axis=-1))
    result = ufunc(x[..., 0], x[..., 1])
    for i in range(2, x.shape[-1]):
        ufunc(result, x[..., i], out=result)
    return np.asarray(result)


def _fold(x: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Lay several short rows of a matrix side by side; the rows that are left over come apart."""
    rows, kept = x.shape[-2:]
    times = _WIDE // kept
    if x.ndim != 2 or times < 2 or rows < 2 * times:
        return None
    whole = rows - rows % times
    return x[:whole].reshape(-1, times * kept), x[whole:]


def _over_the_rest(ufunc: np.ufunc, x: NDArray[Any], innermost: int) -> NDArray[Any]:
    """Reduce every second axis from `innermost` (negative) outward, and flatten."""
    reduced = tuple(range(x.ndim + innermost, -1, -2))
    return np.asarray(ufunc.reduce(x, axis=reduced) if reduced else x).reshape(-1)


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


_HALF_INFINITY, _HALF_SIGN = 0x7C00, 0x8000
_HALF_BITS = np.int32(-0x70002000)
"""What remains of float16's bits after the shift: all but the copies of the sign bit."""


def widen(block: NDArray[Any], workspace: Workspace, name: str = "widened") -> NDArray[np.float64]:
    """Return `block` as C-contiguous native float64, in a buffer of `workspace` unless it is one.

    Every value but integers beyond 2**53 is exact.
    """
    if _is_wide(block.dtype) and block.flags.c_contiguous:
        return block
    wide = workspace.float64(name, block.size).reshape(block.shape)
    if not block.flags.c_contiguous:
        np.copyto(wide, block, casting="unsafe")
    elif (table := _table(block.dtype)) is not None:
        _look_up(table, block.reshape(-1).view(np.uint8), wide.reshape(-1))
    elif not (_is_half(block.dtype) and _widen_half(block, wide, workspace)):
        np.copyto(wide, block, casting="unsafe")
    return wide


@lru_cache(maxsize=64)
def _is_wide(dtype: np.dtype[Any]) -> bool:
    return dtype.isnative and dtype == np.float64


@lru_cache(maxsize=64)
def _table(dtype: np.dtype[Any]) -> NDArray[np.complex128] | None:
    """The values of all pairs of bytes, for float8; two float64 are looked up as one complex number.

    That is ten times as fast as a conversion, and three times as fast as a look-up byte by byte.
    """
    if not dtype.name.startswith("float8"):
        return None
    pairs = np.arange(1 << 16, dtype=np.uint16).view(np.uint8)
    with np.errstate(all="ignore"):
        return pairs.view(dtype).astype(np.float64).view(np.complex128)


def _look_up(
    table: NDArray[np.complex128], codes: NDArray[np.uint8], wide: NDArray[np.float64]
) -> None:
    even = codes.size - codes.size % 2
    np.take(table, codes[:even].view(np.uint16), out=wide[:even].view(np.complex128), mode="clip")
    if even < codes.size:
        last = np.array([codes[-1], 0], np.uint8).view(np.uint16)
        wide[-1] = table[last[0]].real


@lru_cache(maxsize=64)
def _is_half(dtype: np.dtype[Any]) -> bool:
    return dtype.isnative and dtype == np.float16


def _widen_half(
    block: NDArray[np.float16], wide: NDArray[np.float64], workspace: Workspace
) -> bool:
    """Widen float16 by its bits, twice as fast as NumPy does; false where a number is not finite.

    Moved to where float32 has them, exponent and mantissa stand for the same number but for the
    biases of the exponents, which differ by 112.
    """
    bits = block.view(np.int16)
    if bits.max(initial=0) >= _HALF_INFINITY or bits.view(np.uint16).max(initial=0) >= (
        _HALF_INFINITY | _HALF_SIGN
    ):
        return False
    moved = workspace.array("half", np.dtype(np.int32), block.shape)
    np.copyto(moved, bits)
    np.left_shift(moved, 13, out=moved)
    np.bitwise_and(moved, _HALF_BITS, out=moved)
    np.multiply(moved.view(np.float32), np.float32(2.0**112), out=moved.view(np.float32))
    np.copyto(wide, moved.view(np.float32))
    return True
