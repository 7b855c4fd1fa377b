"""The kernels in NumPy: what is used where no compiler was, and what compiled ones are compared with.

Sums are taken in one order (`docs/numbers.md`), the same bits as `native` gives on any processor:
NumPy adds up an outer axis term by term, so lanes and columns lie along the last one. A square that
float64 holds exactly may be fused with its sum, others may not; `einsum` fuses where the processor can.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptclamp.engine.blocks import PIECE
from ckptclamp.engine.kernels.numpy_widening import widen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from ckptclamp.engine.blocks import Workspace

LANES = 16
"""Lanes of a run: weight i is added up in lane i % LANES."""

RUN = 2048
"""Weights of a run; the runs of a row follow each other."""

WIDE = 256
"""Columns: rows of fewer are folded, a power of two of them taken as one, until they are as wide."""

Values = dict[str, "NDArray[np.float64]"]

_EXTREMES: Mapping[str, np.ufunc] = {"min": np.minimum, "max": np.maximum}


def rows(x: NDArray[Any], wanted: Sequence[str], workspace: Workspace) -> Values:
    """Measure each row of `x`, shape (rows, length); returns arrays of shape (rows,) by name."""
    count, length = x.shape
    found, wanted = _begun(x, wanted, (count,))
    if wanted == ["squares"] and x.dtype.kind in "iu" and x.itemsize == 1:
        for part in _parts(count, PIECE // length):
            found["squares"][part] = _byte_squares(x[part], workspace)
        return found
    if length > PIECE:
        for i in range(count):
            runs = [
                _row_terms(x[i : i + 1, part], wanted, workspace) for part in _parts(length, PIECE)
            ]
            for name in wanted:
                joined = np.concatenate([run[name] for run in runs], axis=1)
                found[name][i] = _joined(name, joined)[0]
        return found
    for part in _parts(count, PIECE // length):
        for name, terms in _row_terms(x[part], wanted, workspace).items():
            found[name][part] = _joined(name, terms)
    return found


_BYTES = 256
"""So many squares of bytes float32 adds up exactly, in any order."""


def _byte_squares(x: NDArray[Any], workspace: Workspace) -> NDArray[np.float64]:
    """The sum of squares of each row of bytes; no order of sums has other bits."""
    count, length = x.shape
    wide = workspace.array("bytes", np.dtype(np.float32), x.shape)
    np.copyto(wide, x)
    whole = length // _BYTES * _BYTES
    runs, rest = wide[:, :whole].reshape(count, -1, _BYTES), wide[:, whole:]
    sums = np.matmul(runs[:, :, None, :], runs[:, :, :, None])
    total = sums.sum(axis=(1, 2, 3), dtype=np.float64)
    return np.asarray(total + np.einsum("rk,rk->r", rest, rest, dtype=np.float64))


def columns(x: NDArray[Any], wanted: Sequence[str], workspace: Workspace) -> Values:
    """Measure each column of matrices `x`, shape (batch, rows, length); arrays (batch, length)."""
    batch, count, length = x.shape
    fold = _fold_of(count, length)
    group = max(1, PIECE // (fold * length)) * fold
    found, wanted = _begun(x, wanted, (batch, length))
    for part in _parts(batch, PIECE // (min(count, group) * length)):
        total: Values = {}
        for start in range(0, count, group):
            wide = widen(x[part, start : start + group], workspace)
            for name in wanted:
                sums = _added_columns(name, wide, fold, x.dtype)
                total[name] = _joining(name)(total[name], sums) if name in total else sums
        for name in wanted:
            found[name][part] = _folded(
                _joining(name), total[name].reshape(len(wide), fold, length)
            )
    return found


def _begun(
    x: NDArray[Any], wanted: Sequence[str], shape: tuple[int, ...]
) -> tuple[Values, Sequence[str]]:
    """Make room for what is `wanted`, answer what needs no float64, and say what does."""
    found = {name: np.empty(shape) for name in wanted}
    both = extremes(x, (1,)) if "min" in found else None
    if both is None:
        return found, wanted
    for name, value in zip(("min", "max"), both, strict=True):
        found[name] = value.reshape(shape) + 0.0
    return found, [name for name in wanted if name not in _EXTREMES]


def _parts(count: int, step: int) -> Iterator[slice]:
    step = max(1, step)
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def _joining(name: str) -> np.ufunc:
    return _EXTREMES.get(name, np.add)


def _joined(name: str, terms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Join the runs of rows, shape (rows, runs), one after another."""
    joining, total = _joining(name), terms[:, 0] + 0.0
    for run in range(1, terms.shape[1]):
        joining(total, terms[:, run], out=total)
    return total


def _row_terms(x: NDArray[Any], wanted: Sequence[str], workspace: Workspace) -> Values:
    """What is known of each run of some rows: arrays of shape (rows, runs)."""
    wide = widen(x, workspace)
    whole = wide.shape[1] // RUN * RUN
    found: Values = {}
    for name in wanted:
        parts = []
        if whole:
            runs = wide[:, :whole].reshape(len(wide), -1, RUN)
            parts.append(_run_sums(name, runs, x.dtype))
        if whole < wide.shape[1]:
            parts.append(_run_sums(name, wide[:, None, whole:], x.dtype))
        found[name] = np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]
    return found


def _run_sums(name: str, runs: NDArray[np.float64], dtype: np.dtype[Any]) -> NDArray[np.float64]:
    """Join each run of `runs`, shape (rows, runs, weights), by lanes; shape (rows, runs)."""
    length = runs.shape[2]
    if name in _EXTREMES:
        return np.asarray(_EXTREMES[name].reduce(runs, axis=2))
    if length < LANES:
        return _folded(np.add, _terms(name, runs)[..., None])[..., 0]
    whole = length // LANES * LANES
    lanes = _added(name, runs[..., :whole].reshape(*runs.shape[:2], -1, LANES), dtype)
    lanes[..., : length - whole] += _terms(name, runs[..., whole:])
    return _folded(np.add, lanes[..., None])[..., 0]


def _added_columns(
    name: str, wide: NDArray[np.float64], fold: int, dtype: np.dtype[Any]
) -> NDArray[np.float64]:
    """Join the columns of `wide`, `fold` rows taken as one: shape (batch, fold · length)."""
    batch, count, length = wide.shape
    whole = count // fold * fold
    rest = wide[:, whole:].reshape(batch, -1)
    if not whole:
        sums = np.full((batch, fold * length), _START.get(name, 0.0))
    else:
        head = wide[:, :whole].reshape(batch, -1, fold * length)
        joining = _EXTREMES.get(name)
        sums = _added(name, head, dtype) if joining is None else joining.reduce(head, axis=1)
    if rest.shape[1]:
        some = sums[:, : rest.shape[1]]
        _joining(name)(some, _terms(name, rest), out=some)
    return np.asarray(sums)


_START = {"min": np.inf, "max": -np.inf}


def _added(name: str, x: NDArray[np.float64], dtype: np.dtype[Any]) -> NDArray[np.float64]:
    """Add up the terms of `x` over its last axis but one, term by term."""
    if name == "squares" and _squares_are_exact(dtype):
        return np.asarray(np.einsum("...rk,...rk->...k", x, x))
    return np.asarray(np.add.reduce(_terms(name, x), axis=-2))


def _terms(name: str, x: NDArray[np.float64]) -> NDArray[np.float64]:
    return _TERMS[name](x)


_TERMS: Mapping[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "squares": np.square,
    "sum": np.asarray,
    "sum_abs": np.abs,
    "min": np.asarray,
    "max": np.asarray,
    "nonzero": lambda x: np.not_equal(x, 0.0).astype(np.float64),
    "nonfinite": lambda x: (~np.isfinite(x)).astype(np.float64),
}


def _fold_of(count: int, length: int) -> int:
    fold = 1
    while fold * length < WIDE and 2 * fold <= count:
        fold *= 2
    return fold


def _folded(joining: np.ufunc, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Join the last axis but one in halves of a power of two: ``x[i] + x[i + half]``."""
    count = x.shape[-2]
    total = x + 0.0  # a copy, in which zeros are positive
    half = 1 << max(0, count - 1).bit_length() >> 1
    while half:
        upper = total[..., half : min(2 * half, count), :]
        lower = total[..., : upper.shape[-2], :]
        joining(lower, upper, out=lower)
        half //= 2
    return total[..., 0, :]


@lru_cache(maxsize=64)
def _squares_are_exact(dtype: np.dtype[Any]) -> bool:
    """Whether float64 holds the square of every weight of `dtype`."""
    return dtype.itemsize <= 2 or (dtype.kind == "f" and dtype.itemsize == 4)


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
    folded = _side_by_side(x)
    if folded is None:
        return _over_the_rest(ufunc, ufunc.reduce(x, axis=-2), innermost=-3)
    head, tail = folded
    result = ufunc.reduce(ufunc.reduce(head, axis=0).reshape(-1, x.shape[1]), axis=0)
    return np.asarray(ufunc(result, ufunc.reduce(tail, axis=0)) if len(tail) else result)


_NARROW_ROW = 32
"""Below this length a row is cheaper to reduce as strided columns."""


def _reduce_rows(ufunc: np.ufunc, x: NDArray[Any]) -> NDArray[Any]:
    if x.shape[-1] >= _NARROW_ROW:
        return np.asarray(ufunc.reduce(x, axis=-1))
    result = ufunc(x[..., 0], x[..., 1])
    for i in range(2, x.shape[-1]):
        ufunc(result, x[..., i], out=result)
    return np.asarray(result)


def _side_by_side(x: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Lay several short rows of a matrix side by side; the rows that are left over come apart."""
    rows, kept = x.shape[-2:]
    times = WIDE // kept
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
