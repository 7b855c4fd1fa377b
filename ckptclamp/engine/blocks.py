"""How a tensor is cut into blocks: a pure function of its shape, its storage and the reduced axes.

Block boundaries belong to the tensor, never to the number of workers or the memory at hand, so the
same tensor gives the same bits on every machine.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptclamp.checkpoints.tensor import Box, Chunked, Computed, Tensor
from ckptclamp.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


BLOCK = 1 << 20
"""Elements that are read at once: what is done once for each is then small beside the arithmetic."""

BLOCK_BYTES = 4 << 20
"""What is read at once holds as many bytes: of one or two bytes each, more elements."""

PIECE = 1 << 18
"""Elements that are computed with at once: 2 MiB as float64. Smaller pieces would stay in a
second-level cache but cost more in calls than they save; larger ones fall out of the third level."""

SEGMENT = 2 * BLOCK
"""Elements that one worker reduces before partial results leave it."""

_LONG = 64
"""Weights of a row, at least, of which more than usual are measured at once in codes: of shorter ones their
places and scales would take more memory than codes."""

PENDING = 1 << 18
"""Units that may be incomplete at once before a tensor is read in stripes of whole units."""


@dataclass(frozen=True)
class Grid:
    """A tensor of `shape` in boxes of at most `tile`, visited with `order`'s last axis fastest."""

    shape: tuple[int, ...]
    tile: tuple[int, ...]
    order: tuple[int, ...]

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Boxes along each axis."""
        return tuple(-(-n // t) for n, t in zip(self.shape, self.tile, strict=True))

    def __len__(self) -> int:
        return math.prod(self.counts)

    @property
    def segment(self) -> int:
        """Boxes in a segment: consecutive boxes that one worker reduces."""
        return self.boxes_of(SEGMENT)

    def boxes_of(self, elements: int) -> int:
        """How many boxes hold at most so many elements; one at least."""
        return max(1, elements // max(1, math.prod(self.tile)))

    def box(self, index: int) -> Box:
        """Return the box that is visited as number `index`."""
        places = {}
        for axis in reversed(self.order):
            index, places[axis] = divmod(index, self.counts[axis])
        return self.at(places)

    def at(self, places: Mapping[int, int]) -> Box:
        """Return the box that is so many boxes from the start along each axis."""
        spans = zip(self.shape, self.tile, strict=True)
        return tuple(
            (places[axis] * tile, min((places[axis] + 1) * tile, extent))
            for axis, (extent, tile) in enumerate(spans)
        )

    def completes(self, axes: tuple[int, ...]) -> bool:
        """Whether every unit that spans `axes` lies in one box."""
        return all(self.tile[axis] >= self.shape[axis] for axis in axes)


def block_of(tensor: Tensor) -> int:
    """How many elements of `tensor` are read at once."""
    itemsize = 1 if tensor.dtype is None else tensor.dtype.itemsize
    return max(BLOCK, BLOCK_BYTES // max(1, itemsize))


def grid_of(tensor: Tensor, axes: tuple[int, ...], block: int | None = None) -> Grid:
    """Cut `tensor` for units that span `axes`; its size must not be 0.

    `block` is how many elements a box may hold, `block_of` by default.
    """
    storage, block = tensor.storage, block or block_of(tensor)
    if isinstance(storage, Chunked):
        return _chunked(tensor.shape, axes, storage.chunk_shape, block)
    if isinstance(storage, Computed) and storage.swapped:
        return _swapped(tensor.shape, axes, block)
    return contiguous(tensor.shape, axes, block)


def grid_in_codes(tensor: Tensor, axes: tuple[int, ...]) -> Grid | None:
    """Cut a weight into more than usual at once, ``None`` where it is not to be measured in codes like that.

    Units over `axes` follow each other in C order and are no larger than a usual block, so that a box can
    still be cut between units where its weights are computed after all.
    """
    rank, unit = len(tensor.shape), math.prod(tensor.shape[axis] for axis in axes)
    follow = bool(axes) and axes == tuple(range(rank - len(axes), rank))
    usual = tensor.size <= BLOCK or unit > BLOCK
    if not isinstance(tensor.storage, Computed) or not follow or usual:
        return None
    from ckptclamp.models.effective.weights import Effective

    if not isinstance(tensor.storage, Effective) or not tensor.storage.coarse:
        return None
    grid = grid_of(tensor, axes, BLOCK_BYTES)
    return grid if grid.tile[-1] >= _LONG else None


@lru_cache(maxsize=1024)
def contiguous(shape: tuple[int, ...], axes: tuple[int, ...], block: int = BLOCK) -> Grid:
    """Cut an array in C order: whole trailing axes first, so that a box is one run of bytes.

    Where a trailing kept axis is so long that a box would see fewer than sixteen weights of a unit,
    the box is narrower and taller: its partial sums would otherwise be as large as the data.
    """
    unit = math.prod(shape[axis] for axis in axes)
    kept_limit = max(block // 16, block // unit, 1)
    tile, room, striped = [1] * len(shape), block, False
    for axis in reversed(range(len(shape))):
        narrow = axis not in axes and kept_limit < room
        tile[axis] = _even(shape[axis], kept_limit if narrow else room)
        striped |= narrow and tile[axis] < shape[axis]
        room = max(1, room // tile[axis])
        if axis not in axes:
            kept_limit = max(1, kept_limit // tile[axis])
    return _ordered(shape, tuple(tile), axes, striped)


def _swapped(shape: tuple[int, ...], axes: tuple[int, ...], block: int) -> Grid:
    """Cut an array of which the last two axes are stored the other way round, as it is stored."""
    rank = len(shape)
    other = (*range(rank - 2), rank - 1, rank - 2)
    stored = contiguous(
        tuple(shape[axis] for axis in other), tuple(sorted(other[axis] for axis in axes)), block
    )
    tile = tuple(stored.tile[axis] for axis in other)
    return Grid(shape, tile, tuple(other[axis] for axis in stored.order))


def _chunked(
    shape: tuple[int, ...], axes: tuple[int, ...], chunk: tuple[int, ...], block: int
) -> Grid:
    """Cut along chunk borders, so that no chunk is decoded twice."""
    tile = [min(c, n) for c, n in zip(chunk, shape, strict=True)]
    for axis in reversed(range(len(shape))):
        chunks = max(1, block // math.prod(tile))
        tile[axis] = min(tile[axis] * chunks, shape[axis])
    return _ordered(shape, tuple(tile), axes, striped=False)


def _ordered(
    shape: tuple[int, ...], tile: tuple[int, ...], axes: tuple[int, ...], striped: bool
) -> Grid:
    """Visit boxes in the order of the file, unless too many units would stay incomplete."""
    natural = Grid(shape, tile, tuple(range(len(shape))))
    kept = kept_axes(len(shape), axes)
    units = math.prod(shape[axis] for axis in kept)
    if natural.completes(axes) or (not striped and units <= PENDING):
        return natural
    return Grid(shape, tile, kept + axes)


def kept_axes(rank: int, axes: tuple[int, ...]) -> tuple[int, ...]:
    """The axes along which units that span `axes` are counted."""
    return tuple(axis for axis in range(rank) if axis not in axes)


def count_of(box: Box) -> int:
    """How many elements, or units, a box holds."""
    return math.prod(stop - start for start, stop in box)


def within(box: Box, part: Box) -> tuple[slice, ...]:
    """Where `part` of `box` lies in an array of the box."""
    return tuple(slice(a - start, b - start) for (start, _), (a, b) in zip(box, part, strict=True))


def adjacent(before: Box, after: Box) -> bool:
    """Whether `after` continues `before` so that their elements follow each other in C order."""
    differing = [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
    if len(differing) != 1:
        return False
    axis = differing[0]
    outer = all(stop - start == 1 for start, stop in before[:axis])
    return outer and before[axis][1] == after[axis][0]


def _even(extent: int, limit: int) -> int:
    """The largest part when `extent` is cut into as few parts of nearly equal length as fit."""
    return -(-extent // -(-extent // limit))


_ALIGNMENT = 64


class Workspace(threading.local):
    """Named, aligned byte buffers, one set a thread; each grows to the largest size asked for."""

    def __init__(self) -> None:
        self._buffers: dict[str, NDArray[np.uint8]] = {}

    def bytes(self, name: str, size: int) -> NDArray[np.uint8]:
        """Return `size` bytes of the buffer `name`; what it held is gone or garbage."""
        buffer = self._buffers.get(name)
        if buffer is None or len(buffer) < size:
            raw = np.empty(size + _ALIGNMENT, np.uint8)
            buffer = raw[-raw.ctypes.data % _ALIGNMENT :]
            self._buffers[name] = buffer
        return buffer[:size]

    def array(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """Return the buffer `name` as an array; what it held is gone or garbage."""
        return self.bytes(name, math.prod(shape) * dtype.itemsize).view(dtype).reshape(shape)

    def float64(self, name: str, size: int) -> NDArray[np.float64]:
        """Return `size` float64 elements of the buffer `name`."""
        return self.bytes(name, 8 * size).view(np.float64)


@frozen
class Broadcast:
    """Spreads numbers of the units of a block of `shape` over its part at `place`."""

    shape: tuple[int, ...]
    axes: tuple[int, ...]
    place: tuple[slice, ...]

    @classmethod
    def all_of(cls, shape: tuple[int, ...], axes: tuple[int, ...]) -> Broadcast:
        """Spread over a whole block."""
        return cls(shape, axes, (slice(None),) * len(shape))

    def __call__(self, per_unit: Any) -> NDArray[Any]:  # noqa: ANN401 - a number or an array
        """Return something that broadcasts with the part of the block."""
        value = np.asarray(per_unit)
        if value.ndim == 0:
            return value
        value = value.reshape([1 if i in self.axes else n for i, n in enumerate(self.shape)])
        return value[
            tuple(slice(None) if i in self.axes else part for i, part in enumerate(self.place))
        ]
