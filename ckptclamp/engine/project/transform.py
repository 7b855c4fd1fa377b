"""Rounding weights to storage, and telling how far they moved."""

from __future__ import annotations

from enum import IntEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from ckptclamp.constraints.movement import Transform
from ckptclamp.engine.blocks import Broadcast
from ckptclamp.engine.kernels import all_finite, native, reduce, widen
from ckptclamp.engine.kernels.native.moving import RowMovement
from ckptclamp.engine.measure.statistics import Partial, kernel_names, measure_box

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from ckptclamp.constraints.base import Statistic
    from ckptclamp.constraints.movement import Movement
    from ckptclamp.engine.blocks import Workspace


def as_keras(movement: Movement, rows: NDArray[Any]) -> NDArray[Any]:
    """Move `rows` as Keras does, in their dtype; integers by the arithmetic of float32, rounded."""
    over = Broadcast.all_of(rows.shape, (1,))
    native = rows.dtype.newbyteorder("=")
    working = np.dtype(np.float32) if native.kind in "iub" else native
    new = movement.apply_as_keras(rows.astype(working), over)
    if working == native:
        return new.astype(rows.dtype)
    return rounded(new.astype(np.float64), rows.dtype, Rounding.NEAREST)


def moved(
    movement: Movement,
    rows: NDArray[Any],
    offsets: NDArray[np.float64],
    workspace: Workspace,
    *,
    adds: bool,
    into: str = "stored",
) -> NDArray[Any]:
    """Move `rows` of units past their projection, and round them to the nearest in their dtype.

    `offsets`, shape (rows,), are added where it `adds`; otherwise 1 + offset is a factor. In float64
    what rounding took from the projection is put back first. The result lies in the buffer `into`.
    """
    further = offsets if offsets.any() else None
    library = native.loaded()
    out = workspace.array(into, rows.dtype, rows.shape)
    if library is not None and moves(movement, rows):
        library.move(rows, row_movement(movement, further, rows.dtype, adds=adds), out)
        return out
    over = Broadcast.all_of(rows.shape, (1,))
    precise = rows.dtype.kind == "f" and rows.dtype.itemsize == 8
    wide = widen(rows, workspace, "float64")
    kept = wide is rows or precise
    new = workspace.array("moved", wide.dtype, wide.shape) if kept else wide
    movement.apply(wide, over, new)
    if precise:
        new += movement.lost(wide, over, new) + over(offsets) * (1.0 if adds else new)
    elif further is not None and adds:
        np.add(new, over(further), out=new, where=over(further != 0))  # minus zero stays
    elif further is not None:
        new += new * over(further)
    round_into(out, new, Rounding.NEAREST)
    return out


def measure_moved(
    movement: Movement,
    rows: NDArray[Any],
    offsets: NDArray[np.float64],
    needs: frozenset[Statistic],
    workspace: Workspace,
    *,
    adds: bool,
) -> Partial:
    """Measure what `needs`, which comes from `measured`, names of `rows` as `moved` makes them."""
    library = native.loaded()
    if library is not None and moves(movement, rows):
        further = offsets if offsets.any() else None
        by = row_movement(movement, further, rows.dtype, adds=adds)
        values = library.moved_rows(rows, by, kernel_names(needs), workspace)
        if all(map(all_finite, values.values())):
            return Partial(values)
    return measure_box(moved(movement, rows, offsets, workspace, adds=adds), (1,), needs, workspace)


def moves(movement: Movement, rows: NDArray[Any]) -> TypeGuard[Transform]:
    """Whether compiled kernels, if there are any, can move `rows` so."""
    return type(movement) is Transform and native.writes(rows)


def compiled(movement: Movement, dtype: np.dtype[Any]) -> bool:
    """Whether compiled kernels are there and can move weights of a dtype so."""
    known = type(movement) is Transform and native.rounds(dtype)
    return known and native.loaded() is not None


def row_movement(
    movement: Transform, offsets: NDArray[np.float64] | None, dtype: np.dtype[Any], *, adds: bool
) -> RowMovement:
    """Say it as the compiled kernels take it."""
    low, high = (movement.low, movement.high) if movement.bounded else (None, None)
    shift = movement.shift if movement.shifts else None
    return RowMovement(movement.scale, shift, low, high, offsets, adds, _limits(dtype))


def compare(
    before: NDArray[Any], after: NDArray[Any], workspace: Workspace
) -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.float64]]:
    """Tell of each row whether a byte differs, the largest change of a weight, and the largest before.

    `before` and `after` have the shape (rows, length) and one dtype.
    """
    library = native.loaded()
    if library is not None and native.takes(before) and native.takes(after):
        return library.compare(before, after)
    return changed_units(before, after, (1,)), *distances(before, after, (1,), workspace)


def distances(
    before: NDArray[Any], after: NDArray[Any], axes: tuple[int, ...], workspace: Workspace
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For each unit the largest change of a weight, and the largest magnitude before it."""
    change = workspace.array("change", np.dtype(np.float64), before.shape)
    with np.errstate(invalid="ignore"):  # a NaN that signals, an infinity that stays where it is
        old = widen(before, workspace, "original")
        new = widen(after, workspace, "widened")
        np.subtract(new, old, out=change)
    np.abs(change, out=change)
    largest = reduce(np.maximum, change, axes)
    return largest, reduce(np.maximum, np.abs(old, out=change), axes)


def relative(largest: NDArray[np.float64], peak: NDArray[np.float64]) -> float:
    """The largest change relative to its unit's peak; infinite where all of the unit was zero."""
    some = largest > 0
    with np.errstate(divide="ignore"):
        return float((largest[some] / peak[some]).max(initial=0.0))


def changed_units(
    before: NDArray[Any], after: NDArray[Any], axes: tuple[int, ...]
) -> NDArray[np.bool_]:
    """Which units have a byte that is another."""
    unsigned = np.dtype(f"u{before.dtype.itemsize}")
    return reduce(np.logical_or, before.view(unsigned) != after.view(unsigned), axes)


class Rounding(IntEnum):
    """Which neighbour a value between two numbers of the dtype becomes."""

    TOWARD_ZERO = -1
    NEAREST = 0
    AWAY_FROM_ZERO = 1


def round_into(
    out: NDArray[Any],
    values: NDArray[np.float64],
    rounding: NDArray[np.int8] | Rounding,
) -> None:
    """Put finite `values` into `out` in its dtype; `rounding` is one, or broadcasts over them.

    What lies beyond the dtype's range becomes its largest number, never an infinity or NaN:
    `values` are clipped in place.
    """
    dtype = out.dtype.newbyteorder("=")
    if dtype.kind in "iub":
        out[...] = _to_integers(values, dtype, np.asarray(rounding))
        return
    np.clip(values, *_limits(dtype), out=values)
    near = _rounded_once(values, dtype) if dtype.name in _ROUNDED_BEFORE else values
    directed = np.any(rounding)
    stored = np.empty(out.shape, dtype) if directed and not out.dtype.isnative else out
    with np.errstate(under="ignore"):
        np.copyto(stored, near, casting="unsafe")
    if directed:
        _direct(stored, values, np.asarray(rounding))
    if stored is not out:
        out[...] = stored


def rounded(
    values: NDArray[np.float64], dtype: np.dtype[Any], rounding: NDArray[np.int8] | Rounding
) -> NDArray[Any]:
    """Return what `round_into` makes of `values`, which stay as they are."""
    out = np.empty(values.shape, dtype)
    round_into(out, values.copy(), rounding)
    return out


def one_step(stored: NDArray[Any], way: Rounding) -> NDArray[Any]:
    """Return the next number of the dtype for each of `stored`, `way` of zero; itself at the end."""
    native = stored.dtype.newbyteorder("=")
    wide = stored.astype(np.float64)
    if native.kind in "iub":
        return _to_integers(wide + np.where(wide < 0, -1, 1) * int(way), native, np.asarray(0))
    aim = np.where(wide == 0, np.copysign(1.0, wide), 2 * wide) if way > 0 else wide / 2
    out = stored.astype(native)
    _direct(out, np.clip(aim, *_limits(native)), np.asarray(way))
    return out.astype(stored.dtype)


def inward(
    low: NDArray[np.float64] | float, high: NDArray[np.float64] | float, dtype: np.dtype[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Narrow intervals to the numbers of `dtype` inside, so that rounding cannot leave them."""
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    if not (np.isfinite(low).any() or np.isfinite(high).any()):
        return low, high
    return _neighbour(low, dtype, above=True), _neighbour(high, dtype, above=False)


def _neighbour(
    values: NDArray[np.float64], dtype: np.dtype[Any], *, above: bool
) -> NDArray[np.float64]:
    """The nearest number of `dtype` that is no smaller, or no larger; infinities stay."""
    finite = np.where(np.isfinite(values), values, 0.0)
    outward = Rounding.AWAY_FROM_ZERO if above else Rounding.TOWARD_ZERO
    direction = np.where(finite >= 0, outward, -outward)
    near = rounded(np.atleast_1d(finite), dtype, np.atleast_1d(direction.astype(np.int8)))
    return np.where(np.isfinite(values), near.astype(np.float64).reshape(values.shape), values)


_ROUNDED_BEFORE: Mapping[str, tuple[int, int]] = {
    "bfloat16": (7, -126),
    "float8_e4m3fn": (3, -6),
    "float8_e4m3fnuz": (3, -7),
    "float8_e5m2": (2, -14),
    "float8_e5m2fnuz": (2, -15),
}
"""Bits of the mantissa, and the exponent of the least normal number, of dtypes that ml_dtypes makes
of float64 by way of float32: that would round twice."""


def _rounded_once(values: NDArray[np.float64], dtype: np.dtype[Any]) -> NDArray[np.float64]:
    """Round `values` to the nearest numbers of `dtype`, ties to even.

    Adding 1.5 · 2**52 times what the last bit of the mantissa is worth makes float64 round there.
    """
    mantissa, least = _ROUNDED_BEFORE[dtype.name]
    exponent = values.view(np.int64) >> 52 & 0x7FF
    np.maximum(exponent, 1023 + least, out=exponent)
    magic = (((exponent + (52 - mantissa)) << 52) | 1 << 51).view(np.float64)
    rounded_there = values + magic
    rounded_there -= magic
    return np.asarray(np.copysign(rounded_there, values))


@lru_cache(maxsize=32)
def _limits(dtype: np.dtype[Any]) -> tuple[float, float]:
    """The smallest and the largest finite number."""
    if dtype.kind == "b":
        return 0.0, 1.0
    if dtype.kind in "iu":
        integer = np.iinfo(dtype)
        largest = float(integer.max)
        # float64 may have rounded the largest integer up to one that the dtype lacks.
        return float(integer.min), largest if int(largest) == integer.max else np.nextafter(
            largest, 0.0
        )
    if dtype.type in (np.float16, np.float32, np.float64):
        return float(np.finfo(dtype).min), float(np.finfo(dtype).max)
    import ml_dtypes

    info: Any = ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    return float(info.min), float(info.max)


def _to_integers(
    values: NDArray[np.float64], dtype: np.dtype[Any], rounding: NDArray[Any]
) -> NDArray[Any]:
    magnitudes = np.abs(values)
    inner, outer = np.floor(magnitudes), np.ceil(magnitudes)
    whole = np.where(rounding < 0, inner, np.where(rounding > 0, outer, np.rint(magnitudes)))
    return np.clip(np.copysign(whole, values), *_limits(dtype)).astype(dtype)


def _direct(stored: NDArray[Any], values: NDArray[np.float64], rounding: NDArray[Any]) -> None:
    """Move `stored`, the nearest numbers, one step where they lie on the wrong side of `values`.

    In every floating-point format the next magnitude is the next bit pattern.
    """
    bits = stored.view(np.dtype(f"u{stored.dtype.itemsize}"))
    one = bits.dtype.type(1)
    wide = np.abs(stored.astype(np.float64))
    magnitudes = np.abs(values)
    np.subtract(bits, one, out=bits, where=(wide > magnitudes) & (rounding < 0))
    short = (wide < magnitudes) & (rounding > 0) & (wide < _limits(stored.dtype)[1])
    np.add(bits, one, out=bits, where=short)
    sign = one << bits.dtype.type(8 * stored.dtype.itemsize - 1)
    # A step up from zero takes the sign of the value: not every format has a negative zero.
    risen = short & (wide == 0)
    bits[risen] = np.where(np.signbit(values[risen]), sign | one, one)
    if stored.dtype.name.endswith("fnuz"):
        bits[bits == sign] = 0  # in these formats the bits of -0 mean NaN
