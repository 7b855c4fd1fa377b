"""Moving the weights of one block, and telling how far they moved and what must be written."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ckptclamp.engine.blocks import PIECE, Spread, contiguous
from ckptclamp.engine.kernels import extremes, merged, reduce, widen
from ckptclamp.engine.rounding import Rounding, round_into

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ckptclamp.constraints.movement import Movement, Step
    from ckptclamp.engine.blocks import Workspace


class Arithmetic(Protocol):
    """What moves the weights of part of a block."""

    def __call__(
        self, part: NDArray[Any], over: Spread, out: NDArray[Any], workspace: Workspace
    ) -> None:
        """Put `part` moved into `out`, of the same dtype; `over` spreads numbers of units."""


def exactly(step: Step) -> Arithmetic:
    """Move by `step` in float64, and round once."""
    movement, shrinks, directed = step.movement, step.movement.shrinks, step.rounding.any()

    def move(part: NDArray[Any], over: Spread, out: NDArray[Any], workspace: Workspace) -> None:
        wide = widen(part, workspace, "float64")
        # In place where the weights were widened: one buffer less for the cache to hold.
        new = workspace.array("float64", wide.dtype, wide.shape) if wide is part else wide
        movement.apply(wide, over, new)
        rounding = over(step.rounding) if directed else Rounding.NEAREST
        round_into(out, new, rounding, in_range=shrinks)

    return move


def as_keras(movement: Movement) -> Arithmetic:
    """Move as Keras does, in the weights' dtype; integers by the arithmetic of float32, rounded."""

    def move(part: NDArray[Any], over: Spread, out: NDArray[Any], workspace: Workspace) -> None:
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
        over, part = Spread(block.shape, axes, place), block[place]
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
    everything = tuple(slice(None) for _ in part.shape)
    arithmetic(part, Spread(part.shape, (1 - axis,), everything), new, workspace)
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
