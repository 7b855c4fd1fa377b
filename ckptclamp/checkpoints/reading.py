"""Boxes of tensors, fetched from where a description says their bytes lie.

What to read is planned first, by pure functions over small frozen dataclasses; then it is read with
`pread`, which needs no shared position, so any number of threads may read at once.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptclamp.checkpoints.description import (
    Chunked,
    Constant,
    Contiguous,
    Dequantised,
    Unreadable,
)
from ckptclamp.checkpoints.filters import decode_chunk
from ckptclamp.errors import UnreadableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from ckptclamp.checkpoints.description import Box, Chunk, Tensor
    from ckptclamp.checkpoints.source import Source

_GAP = 16 << 10
"""Reading so many bytes for nothing costs less than one more system call."""
_SCRATCH = 1 << 20
"""The most bytes that are read at once where some of them are for nothing."""


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


def read_box(
    sources: Sequence[Source], tensor: Tensor, box: Box, buffer: memoryview | None = None
) -> NDArray[Any]:
    """Return `box` of `tensor` in its storage dtype, byte order included, and the box's shape.

    The array is a view of `buffer` where one is given; it needs at least the box's bytes. Chunks
    are decoded one at a time, whole, so memory beside the result is that of one chunk.

    Raises:
        UnreadableError: the tensor cannot be read, the bytes are not there, or are damaged.
    """
    if isinstance(tensor.storage, Unreadable) or tensor.dtype is None:
        reason = tensor.storage.reason if isinstance(tensor.storage, Unreadable) else "no dtype"
        raise UnreadableError(reason, path=_path(sources), tensor=tensor.name)
    check_box(tensor.shape, box)
    # An `ndarray` on a buffer has its type's alignment only if the buffer has; bytes do not care.
    out: NDArray[Any] = np.ndarray(box_shape(box), tensor.dtype.numpy, buffer=buffer)
    try:
        match tensor.storage:
            case Contiguous():
                _read_contiguous(sources[tensor.storage.source], tensor, box, out)
            case Chunked():
                _read_chunks(sources[tensor.storage.source], tensor, tensor.storage, box, out)
            case Constant():
                out[...] = _element(tensor.storage.fill, out)
            case Dequantised():
                from ckptclamp.checkpoints.dequantising import dequantise

                dequantise(partial(read_box, sources), tensor, box, out)
    except UnreadableError as error:
        raise type(error)(
            error.message, path=error.path or _path(sources), tensor=tensor.name, hint=error.hint
        ) from error
    return out


def _path(sources: Sequence[Source]) -> str | None:
    return str(sources[0].path) if len(sources) == 1 else None


def as_bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Return a C-contiguous array's bytes as a flat view."""
    return array.reshape(-1).view(np.uint8)


def _read_contiguous(source: Source, tensor: Tensor, box: Box, out: NDArray[Any]) -> None:
    assert isinstance(tensor.storage, Contiguous)
    flat = as_bytes(out)
    done = 0
    for runs in plan_runs(tensor.shape, box, out.itemsize):
        size = runs.length * runs.count
        _read_runs(source, tensor.storage.offset, runs, flat[done : done + size])
        done += size


def _read_runs(source: Source, origin: int, runs: Runs, out: NDArray[np.uint8]) -> None:
    """Read `runs` into `out`; several at once where the gaps between them are small."""
    rows = out.reshape(runs.count, runs.length)
    batch = 1
    if runs.stride - runs.length <= _GAP:
        batch = min(runs.count, max(1, (_SCRATCH - runs.length) // runs.stride + 1))
    scratch = np.empty((batch - 1) * runs.stride + runs.length if batch > 1 else 0, np.uint8)
    for first in range(0, runs.count, batch):
        offset = origin + runs.offset + first * runs.stride
        part = rows[first : first + batch]
        if len(part) == 1:
            source.read_into(part[0].data, offset)
            continue
        span = scratch[: (len(part) - 1) * runs.stride + runs.length]
        source.read_into(span.data, offset)
        part[:] = np.ndarray(part.shape, np.uint8, buffer=span, strides=(runs.stride, 1))


def _read_chunks(
    source: Source, tensor: Tensor, chunked: Chunked, box: Box, out: NDArray[Any]
) -> None:
    for part in plan_chunks(box, chunked.chunk_shape):
        chunk = chunked.by_start.get(part.start)
        if chunk is None:
            out[part.in_box] = _element(chunked.fill, out)
        else:
            out[part.in_box] = read_chunk(source, tensor, chunk)[part.in_chunk]


def _element(fill: bytes, like: NDArray[Any]) -> NDArray[Any]:
    """Return one element of `like`'s dtype, bit by bit what `fill` is."""
    if len(fill) != like.itemsize:
        raise UnreadableError(f"its fill value has {len(fill)} bytes, not {like.itemsize}")
    return np.frombuffer(fill, like.dtype).reshape(())


def read_chunk(source: Source, tensor: Tensor, chunk: Chunk) -> NDArray[Any]:
    """Return all elements of one chunk of a chunked `tensor`, those beyond its edge too.

    Raises:
        UnreadableError: the bytes are not there, or cannot be decoded.
    """
    chunked, dtype = tensor.storage, tensor.dtype
    assert isinstance(chunked, Chunked)
    assert dtype is not None
    expected = math.prod(chunked.chunk_shape) * dtype.itemsize
    raw = source.read_at(chunk.offset, chunk.stored)
    try:
        data = decode_chunk(raw, chunked, chunk.filter_mask, dtype.itemsize, expected)
    except UnreadableError as error:
        place = list(chunk.start)
        raise UnreadableError(f"the chunk at {place} is damaged: {error.message}") from error
    return np.frombuffer(data, dtype.numpy).reshape(chunked.chunk_shape)
