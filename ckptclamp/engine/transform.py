"""Moving the weights of one block, rounding them to storage, and telling how far they moved."""

from __future__ import annotations

import math
from collections.abc import Iterator
from enum import IntEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ckptclamp.engine.blocks import PIECE, Broadcast, contiguous
from ckptclamp.engine.kernels import extremes, merged, reduce, widen

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ckptclamp.constraints.movement import Movement, Step
    from ckptclamp.engine.blocks import Workspace


class Arithmetic(Protocol):
    """What moves the weights of part of a block."""

    def __call__(
        self, part: NDArray[Any], over: Broadcast, out: NDArray[Any], workspace: Workspace
    ) -> None:
        """Put `part` moved into `out`, of the same dtype; `over` spreads numbers of units."""


def exactly(step: Step) -> Arithmetic:
    """Move by `step` in float64, and round once."""
    movement, shrinks, directed = step.movement, step.movement.shrinks, step.rounding.any()

    def move(part: NDArray[Any], over: Broadcast, out: NDArray[Any], workspace: Workspace) -> None:
        wide = widen(part, workspace, "float64")
        # In place where the weights were widened: one buffer less for the cache to hold.
        new = workspace.array("float64", wide.dtype, wide.shape) if wide is part else wide
        movement.apply(wide, over, new)
        rounding = over(step.rounding) if directed else Rounding.NEAREST
        round_into(out, new, rounding, in_range=shrinks)

    return move


def as_keras(movement: Movement) -> Arithmetic:
    """Move as Keras does, in the weights' dtype; integers by the arithmetic of float32, rounded."""

    def move(part: NDArray[Any], over: Broadcast, out: NDArray[Any], workspace: Workspace) -> None:
        del workspace
        native = part.dtype.newbyteorder("=")
        working = np.dtype(np.float32) if native.kind in "iub" else native
        new = movement.apply_as_keras(part.astype(working), over)
        if working == native:
            out[...] = new
        else:
            round_into(out, new.astype(np.float64), Rounding.NEAREST)

    return move


def moved(
    block: NDArray[Any],
    axes: tuple[int, ...],
    units: NDArray[np.bool_],
    arithmetic: Arithmetic,
    workspace: Workspace,
    *,
    into: str = "moved",
) -> NDArray[Any]:
    """Return `block` with the chosen `units` moved, and every other byte as it is.

    The result lies in the buffer `into` of `workspace`.
    """
    out = workspace.array(into, block.dtype, block.shape)
    everything = units.all()
    for place in _pieces(block.shape, axes):
        over, part = Broadcast(block.shape, axes, place), block[place]
        if everything:
            arithmetic(part, over, out[place], workspace)
        else:
            new = workspace.array("piece", block.dtype, part.shape)
            arithmetic(part, over, new, workspace)
            out[place] = part
            np.copyto(out[place], new, where=over(units))
    return out


def as_matrix(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[tuple[int, int], int] | None:
    """The two extents of a block whose units are all its rows or all its columns, and the units' axis.

    ``None`` for any other block.
    """
    extents, rows = merged(shape, axes)
    if len(extents) != 2:
        return None
    return (extents[0], extents[1]), 0 if rows else 1


def moved_few(
    block: NDArray[Any],
    matrix: tuple[tuple[int, int], int],
    places: NDArray[np.intp],
    arithmetic: Arithmetic,
    workspace: Workspace,
) -> NDArray[Any]:
    """Do as `moved` for the units at `places`, without touching the others.

    `matrix` is what `as_matrix` makes of the block; `arithmetic` is that of the units at `places`.
    """
    extents, axis = matrix
    chosen = (slice(None),) * axis + (places,)
    out = workspace.array("moved", block.dtype, extents)
    np.copyto(out, block.reshape(extents))
    part = out[chosen]
    new = np.empty_like(part)
    arithmetic(part, Broadcast.all_of(part.shape, (1 - axis,)), new, workspace)
    out[chosen] = new
    return out.reshape(block.shape)


def _pieces(shape: tuple[int, ...], axes: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Cut a block that is too large for the cache."""
    if math.prod(shape) <= 2 * PIECE:
        yield tuple(slice(0, extent) for extent in shape)
        return
    grid = contiguous(shape, axes, PIECE)
    for index in range(len(grid)):
        yield tuple(slice(*span) for span in grid.box(index))


def distances(
    before: NDArray[Any], after: NDArray[Any], axes: tuple[int, ...], workspace: Workspace
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For each unit the largest change of a weight, and the largest magnitude before it."""
    if before.dtype == np.float32 and before.dtype.isnative:
        change = workspace.array("change", before.dtype, before.shape)
        np.subtract(after, before, out=change)
    else:
        old = widen(before, workspace, "original")
        new = widen(after, workspace, "widened")
        change = workspace.array("change", np.dtype(np.float64), before.shape)
        np.subtract(new, old, out=change)
    np.abs(change, out=change)
    largest = reduce(np.maximum, change, axes).astype(np.float64)
    found = extremes(before, axes)
    if found is None:
        wide = widen(before, workspace, "original")
        found = reduce(np.minimum, wide, axes), reduce(np.maximum, wide, axes)
    return largest, np.maximum(-found[0], found[1])


def relative(largest: NDArray[np.float64], peak: NDArray[np.float64]) -> float:
    """The largest change relative to its unit's peak; infinite where all of the unit was zero."""
    some = largest > 0
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
    *,
    in_range: bool = False,
) -> None:
    """Put finite `values` into `out` in its dtype; `rounding` is one, or broadcasts over them.

    What lies beyond the dtype's range becomes its largest number, never an infinity or NaN:
    `values` are clipped in place, unless the caller knows that they are `in_range`.
    """
    native = out.dtype.newbyteorder("=")
    if native.kind in "iub":
        out[...] = _to_integers(values, native, np.asarray(rounding))
        return
    if native != np.float64 and not in_range:
        np.clip(values, *_limits(native), out=values)
    directed = np.any(rounding)
    stored = np.empty(out.shape, native) if directed and not out.dtype.isnative else out
    with np.errstate(under="ignore"):
        np.copyto(stored, values, casting="unsafe")
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


def inward(
    low: NDArray[np.float64] | float, high: NDArray[np.float64] | float, dtype: np.dtype[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Narrow intervals to the numbers of `dtype` inside, so that rounding cannot leave them."""
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    if not (np.isfinite(low).any() or np.isfinite(high).any()):
        return low, high
    return -_floor(-low, dtype), _floor(high, dtype)


def _floor(values: NDArray[np.float64], dtype: np.dtype[Any]) -> NDArray[np.float64]:
    """The largest number of `dtype` that is no larger; infinities stay."""
    finite = np.where(np.isfinite(values), values, 0.0)
    direction = np.where(finite >= 0, Rounding.TOWARD_ZERO, Rounding.AWAY_FROM_ZERO)
    down = rounded(np.atleast_1d(finite), dtype, np.atleast_1d(direction.astype(np.int8)))
    return np.where(np.isfinite(values), down.astype(np.float64).reshape(values.shape), values)


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
