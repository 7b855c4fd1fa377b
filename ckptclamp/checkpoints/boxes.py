"""Where the bytes of a box lie: in an array in C order, and in a grid of chunks.

What to read or write is planned here, by pure functions over small frozen dataclasses; nothing in
this module opens a file.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptclamp.checkpoints.description import Box


@dataclass(frozen=True, slots=True)
class Runs:
    """`count` runs of `length` bytes, the first at `offset`, each `stride` bytes after the last."""

    offset: int
    length: int
    count: int
    stride: int


def box_shape(box: Box) -> tuple[int, ...]:
    """Return the shape of an array that holds `box`."""
    return tuple(stop - start for start, stop in box)


def check_box(shape: tuple[int, ...], box: Box) -> None:
    """Raise `ValueError` unless `box` lies inside an array of `shape`."""
    if len(box) != len(shape) or not all(
        0 <= start <= stop <= extent for (start, stop), extent in zip(box, shape, strict=True)
    ):
        raise ValueError(f"{box} is no box of an array of shape {shape}")


def one_run(shape: tuple[int, ...], box: Box, itemsize: int) -> tuple[int, int] | None:
    """Return the offset and the length of `box` in bytes if it is one run of a C-ordered array.

    ``None`` where it is several runs, or lies outside an array of `shape`. It is what `plan_runs`
    says, at a small part of the cost: most blocks of most tensors are one run.
    """
    if len(box) != len(shape):
        return None
    offset, count = 0, 1
    for (start, stop), extent in zip(box, shape, strict=True):
        length = stop - start
        if not 0 <= start < stop <= extent or (count > 1 and length != extent):
            return None
        offset = offset * extent + start
        count *= length
    return offset * itemsize, count * itemsize


def plan_runs(shape: tuple[int, ...], box: Box, itemsize: int) -> Iterator[Runs]:
    """Yield where the bytes of `box` lie in a C-ordered array of `shape`, in the box's own order.

    Offsets are in bytes from the start of the array. A box that is one extent gives one run.
    """
    check_box(shape, box)
    if any(start == stop for start, stop in box):
        return
    strides = [itemsize * math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    origin = sum(start * stride for (start, _), stride in zip(box, strides, strict=True))
    extents = box_shape(box)
    # Axes that are read whole join the axis before them: first into runs, then into their count.
    inner = _join_whole(shape, extents, len(shape))
    length = math.prod(extents[inner:]) * itemsize
    middle = _join_whole(shape, extents, inner)
    count = math.prod(extents[middle:inner])
    stride = strides[inner - 1] if inner else length
    for index in itertools.product(*(range(extent) for extent in extents[:middle])):
        shift = sum(i * step for i, step in zip(index, strides, strict=False))
        yield Runs(origin + shift, length, count, stride)


def _join_whole(shape: tuple[int, ...], extents: tuple[int, ...], end: int) -> int:
    """Return the first axis of a group that ends before `end` and is whole but for that axis."""
    axis = max(end - 1, 0)
    while axis > 0 and extents[axis] == shape[axis]:
        axis -= 1
    return axis


@dataclass(frozen=True, slots=True)
class ChunkPart:
    """The part of a box that one chunk holds: where it lies in the chunk, and where in the box."""

    start: tuple[int, ...]
    in_chunk: tuple[slice, ...]
    in_box: tuple[slice, ...]


def plan_chunks(box: Box, chunk_shape: tuple[int, ...]) -> Iterator[ChunkPart]:
    """Yield the part of `box` that each chunk of a regular grid holds; `start` names the chunk."""
    grid = (
        range(start // extent * extent, stop, extent) if start < stop else range(0)
        for (start, stop), extent in zip(box, chunk_shape, strict=True)
    )
    for corner in itertools.product(*grid):
        bounds = [
            (max(start, at), min(stop, at + extent), at, start)
            for (start, stop), at, extent in zip(box, corner, chunk_shape, strict=True)
        ]
        yield ChunkPart(
            corner,
            tuple(slice(low - at, high - at) for low, high, at, _ in bounds),
            tuple(slice(low - start, high - start) for low, high, _, start in bounds),
        )
