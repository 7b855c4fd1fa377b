"""Moving the weights of one block, and telling which of its bytes changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ckptclamp.checkpoints.description import Chunked
from ckptclamp.streaming.grid import BLOCK, contiguous
from ckptclamp.streaming.kernels import reduce
from ckptclamp.streaming.rounding import Rounding, rounded
from ckptclamp.streaming.spread import Spread
from ckptclamp.streaming.widening import widen

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ckptclamp.checkpoints.description import Box, Tensor
    from ckptclamp.constraints.base import Transform
    from ckptclamp.streaming.search import Step
    from ckptclamp.streaming.workspace import Workspace

_GAP = 16 << 10
"""Writing so many bytes again costs less than one more system call."""


class Arithmetic(Protocol):
    """What moves the weights of part of a block."""

    def __call__(self, part: NDArray[Any], over: Spread, workspace: Workspace) -> NDArray[Any]:
        """Return `part` moved, in its dtype; `over` spreads numbers of units over it."""


def exactly(step: Step) -> Arithmetic:
    """Move by `step` in float64, and round once."""

    def move(part: NDArray[Any], over: Spread, workspace: Workspace) -> NDArray[Any]:
        wide = widen(part, workspace, "original")
        new = workspace.float64("float64", part.size).reshape(part.shape)
        np.multiply(wide, over(step.scale), out=new)
        if step.shift.any():
            new += over(step.shift)
        if np.isfinite(step.low).any() or np.isfinite(step.high).any():
            np.clip(new, over(step.low), over(step.high), out=new)
        return rounded(new, part.dtype, _direction(step.rounding, over))

    return move


def _direction(rounding: NDArray[np.int8], over: Spread) -> NDArray[np.int8] | Rounding:
    return over(rounding) if rounding.any() else Rounding.NEAREST


def as_keras(transform: Transform) -> Arithmetic:
    """Move as Keras does: the factor rounded to the weights' dtype, the product taken in it.

    Integers have no such arithmetic: theirs is that of float32, rounded.
    """

    def move(part: NDArray[Any], over: Spread, workspace: Workspace) -> NDArray[Any]:
        del workspace
        native = part.dtype.newbyteorder("=")
        working = np.dtype(np.float32) if native.kind in "iub" else native
        new = part.astype(working) * over(transform.scale).astype(working)
        if np.any(transform.shift):
            new = new + over(transform.shift).astype(working)
        if np.isfinite(transform.low).any() or np.isfinite(transform.high).any():
            low, high = over(transform.low).astype(working), over(transform.high).astype(working)
            new = np.minimum(np.maximum(new, low), high)
        if working != native:
            return rounded(new.astype(np.float64), part.dtype, Rounding.NEAREST)
        return new.astype(part.dtype, copy=False)

    return move


def moved(
    block: NDArray[Any],
    axes: tuple[int, ...],
    units: NDArray[np.bool_],
    arithmetic: Arithmetic,
    workspace: Workspace,
) -> NDArray[Any]:
    """Return `block` with the chosen `units` moved, and every other byte as it is.

    The result lies in a buffer of `workspace`.
    """
    out = workspace.bytes("moved", block.nbytes).view(block.dtype).reshape(block.shape)
    everything = units.all()
    for place in _pieces(block.shape, axes):
        over = Spread(block.shape, axes, place)
        new = arithmetic(block[place], over, workspace)
        if not everything:
            new = np.where(over(units), new, block[place])
        out[place] = new
    return out


def _pieces(shape: tuple[int, ...], axes: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Cut a block that is too large for the cache."""
    if int(np.prod(shape, dtype=np.int64)) <= 2 * BLOCK:
        yield tuple(slice(0, extent) for extent in shape)
        return
    grid = contiguous(shape, axes)
    for index in range(len(grid)):
        yield tuple(slice(*span) for span in grid.box(index))


@dataclass(frozen=True, slots=True)
class Difference:
    """How a block changed: which `weights` (bool, its shape), and for each unit by how much.

    `largest` is the largest change of a weight of the unit, `peak` its largest magnitude before.
    """

    weights: NDArray[np.bool_]
    units: NDArray[np.bool_]
    largest: NDArray[np.float64]
    peak: NDArray[np.float64]


def difference(
    before: NDArray[Any], after: NDArray[Any], axes: tuple[int, ...], workspace: Workspace
) -> Difference:
    """Compare two blocks byte by byte."""
    unsigned = np.dtype(f"u{before.dtype.itemsize}")
    weights = before.view(unsigned) != after.view(unsigned)
    old = widen(before, workspace, "original")
    new = widen(after, workspace, "widened")
    change = workspace.float64("float64", old.size).reshape(old.shape)
    np.abs(np.subtract(new, old, out=change), out=change)
    largest = reduce(np.maximum, change, axes)
    np.abs(old, out=change)
    return Difference(
        weights, reduce(np.logical_or, weights, axes), largest, reduce(np.maximum, change, axes)
    )


def boxes_to_write(tensor: Tensor, box: Box, weights: NDArray[np.bool_]) -> Iterator[Box]:
    """Cut `box` into parts that hold every changed weight, and little else.

    A chunk without a change is in none of them; rows between changes are left out where they are
    worth a system call.
    """
    if isinstance(tensor.storage, Chunked):
        yield from _changed_chunks(box, tensor.storage.chunk_shape, weights)
        return
    axis = next((i for i, extent in enumerate(weights.shape) if extent > 1), None)
    if axis is None:
        yield box
        return
    rows = np.flatnonzero(weights.any(axis=tuple(i for i in range(weights.ndim) if i != axis)))
    assert tensor.dtype is not None
    row_bytes = weights.size // weights.shape[axis] * tensor.dtype.itemsize
    breaks = np.flatnonzero(np.diff(rows) > 1 + _GAP // row_bytes) + 1
    for run in np.split(rows, breaks):
        start = box[axis][0]
        yield (*box[:axis], (start + int(run[0]), start + int(run[-1]) + 1), *box[axis + 1 :])


def _changed_chunks(box: Box, chunk: tuple[int, ...], weights: NDArray[np.bool_]) -> Iterator[Box]:
    for index in np.ndindex(
        *(-(-stop // c) - start // c for (start, stop), c in zip(box, chunk, strict=True))
    ):
        part = tuple(
            (max(start, (start // c + i) * c), min(stop, (start // c + i + 1) * c))
            for (start, stop), c, i in zip(box, chunk, index, strict=True)
        )
        if weights[within(box, part)].any():
            yield part


def within(box: Box, part: Box) -> tuple[slice, ...]:
    """Where `part` of `box` lies in an array of the box."""
    return tuple(slice(a - start, b - start) for (start, _), (a, b) in zip(box, part, strict=True))
