"""How boxes of tensors are read.

What to read is planned first, from where a description says that the bytes lie (`tensor.plan_runs`);
then it is read with `pread`, which needs no shared position, so that any number of threads may read at
once.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptclamp.checkpoints.tensor import (
    Box,
    Chunked,
    ChunkPart,
    Computed,
    Constant,
    Contiguous,
    Runs,
    Tensor,
    Unreadable,
    View,
    box_shape,
    check_box,
    one_run,
    plan_chunks,
    plan_runs,
)
from ckptclamp.errors import UnreadableError
from ckptclamp.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from ckptclamp.checkpoints.source import Source

Mark = tuple[int, ...]
"""How far a reader is that reads in a known order: what compares as larger comes later."""

_GAP, _REMOTE_GAP = 16 << 10, 1 << 20
"""Reading so many bytes for nothing costs less than one more system call, or one more request."""
_SCRATCH, _REMOTE_SCRATCH = 1 << 20, 4 << 20
"""The most bytes that are read at once where some of them are for nothing."""


def read_box(
    sources: Sequence[Source], tensor: Tensor, box: Box, buffer: memoryview | None = None
) -> NDArray[Any]:
    """Return `box` of `tensor` in its storage dtype, byte order included, and the box's shape.

    The array is a view of `buffer` where one is given, which needs at least the box's bytes, or of what
    was fetched ahead: it is not to be written to, and good until this thread reads again. Chunks are decoded
    one at a time, whole, so memory beside the result is that of one chunk.

    Raises:
        UnreadableError: the tensor cannot be read, the bytes are not there, or are damaged.
    """
    if isinstance(tensor.storage, View):
        return read_view(partial(read_box, sources), tensor, tensor.storage, box, buffer)
    if isinstance(tensor.storage, Unreadable) or tensor.dtype is None:
        reason = tensor.storage.reason if isinstance(tensor.storage, Unreadable) else "no dtype"
        raise UnreadableError(reason, path=_path(sources), tensor=tensor.name)
    run = one_run(tensor.shape, box, tensor.dtype.itemsize)
    if run is None:
        check_box(tensor.shape, box)
    # An `ndarray` on a buffer has its type's alignment only if the buffer has; bytes do not care.
    out: NDArray[Any] = np.ndarray(box_shape(box), tensor.dtype.numpy, buffer=buffer)
    try:
        match tensor.storage:
            case Contiguous(source, offset) if run is not None:
                held = None if buffer is None else sources[source].view(offset + run[0], out.nbytes)
                if held is not None and (block := held.view(out.dtype)).flags.aligned:
                    return block.reshape(out.shape)
                sources[source].read_into(as_bytes(out).data, offset + run[0])
            case Contiguous(source, offset):
                _read_contiguous(sources[source], offset, tensor, box, out)
            case Chunked():
                parts = plan_chunks(box, tensor.storage.chunk_shape)
                _read_chunks(sources[tensor.storage.source], tensor.storage, parts, out)
            case Constant():
                out[...] = _element(tensor.storage.fill, out)
            case Computed():
                tensor.storage.compute(BoxReader(tuple(sources)), tensor, box, out)
    except UnreadableError as error:
        raise type(error)(
            error.message, path=error.path or _path(sources), tensor=tensor.name, hint=error.hint
        ) from error
    return out


def in_file(sources: Sequence[Source], tensor: Tensor) -> tuple[int, int] | None:
    """The descriptor and the offset at which the bytes of `tensor` lie in C order, if they may be read there.

    ``None`` where reading takes more than that: a network, a checksum, a cache that is left as it is.
    """
    if not isinstance(tensor.storage, Contiguous):
        return None
    source = sources[tensor.storage.source]
    return (source.fd, tensor.storage.offset) if source.plain else None


def spans(tensor: Tensor, box: Box) -> Iterator[tuple[int, int, int]]:
    """Yield where the bytes lie that `read_box` reads for `box`: source, start and stop.

    What is computed may read all of its parts for any box; they are named once, for the first one.
    """
    match tensor.storage:
        case View() as view:
            for piece, _ in view.pieces(box):
                yield from spans(view.whole, piece)
        case Contiguous(source, offset) if tensor.dtype is not None:
            for runs in plan_runs(tensor.shape, box, tensor.dtype.itemsize):
                start = offset + runs.offset
                yield source, start, start + (runs.count - 1) * runs.stride + runs.length
        case Chunked() as chunked:
            for part in plan_chunks(box, chunked.chunk_shape):
                chunk = chunked.by_start.get(part.start)
                if chunk is not None:
                    yield chunked.source, chunk.offset, chunk.offset + chunk.stored
        case Computed() as computed if not any(start for start, _ in box):
            for one in computed.parts:
                yield from spans(one, tuple((0, extent) for extent in one.shape))


@frozen
class BoxReader:
    """Reads boxes of what lies in `sources`; equal to another one that reads the same files."""

    sources: tuple[Source, ...]

    def __call__(self, tensor: Tensor, box: Box, buffer: memoryview | None = None) -> NDArray[Any]:
        """See `read_box`."""
        return read_box(self.sources, tensor, box, buffer)


def read_view(
    read: Callable[[Tensor, Box, memoryview | None], NDArray[Any]],
    tensor: Tensor,
    view: View,
    box: Box,
    buffer: memoryview | None = None,
) -> NDArray[Any]:
    """Return `box` of `tensor`, whose storage is `view`; `read` reads boxes of the whole tensor.

    Raises as `read` does.
    """
    check_box(tensor.shape, box)
    pieces = list(view.pieces(box))
    if len(pieces) == 1:
        return read(view.whole, pieces[0][0], buffer).reshape(box_shape(box))
    assert tensor.dtype is not None
    out: NDArray[Any] = np.ndarray(box_shape(box), tensor.dtype.numpy, buffer=buffer)
    for part, place in pieces:
        out[place] = read(view.whole, part, None).reshape(out[place].shape)
    return out


def _path(sources: Sequence[Source]) -> str | None:
    return str(sources[0].path) if len(sources) == 1 else None


def as_bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Return a C-contiguous array's bytes as a flat view."""
    return array.reshape(-1).view(np.uint8)


def _read_contiguous(
    source: Source, origin: int, tensor: Tensor, box: Box, out: NDArray[Any]
) -> None:
    flat = as_bytes(out)
    done = 0
    for runs in plan_runs(tensor.shape, box, out.itemsize):
        size = runs.length * runs.count
        _read_runs(source, origin, runs, flat[done : done + size])
        done += size


def _read_runs(source: Source, origin: int, runs: Runs, out: NDArray[np.uint8]) -> None:
    """Read `runs` into `out`; several at once where the gaps between them are small."""
    rows = out.reshape(runs.count, runs.length)
    gap, most = (_REMOTE_GAP, _REMOTE_SCRATCH) if source.remote else (_GAP, _SCRATCH)
    batch = 1
    if runs.stride - runs.length <= gap:
        batch = min(runs.count, max(1, (most - runs.length) // runs.stride + 1))
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
    source: Source, chunked: Chunked, parts: Iterable[ChunkPart], out: NDArray[Any]
) -> None:
    from ckptclamp.checkpoints.formats.hdf5.filters import decode_into

    places = np.moveaxis(as_bytes(out).reshape(*out.shape, out.itemsize), -1, 0)
    for part in parts:
        chunk = chunked.by_start.get(part.start)
        if chunk is None:
            out[part.in_box] = _element(chunked.fill, out)
            continue
        raw, target = bytearray(chunk.stored), places[(slice(None), *part.in_box)]
        source.read_into(memoryview(raw), chunk.offset)
        try:
            decode_into(raw, chunked, chunk.filter_mask, part.in_chunk, target)
        except UnreadableError as error:
            place = f"the chunk at {list(chunk.start)}"
            raise UnreadableError(f"{place} is damaged: {error.message}") from error


def _element(fill: bytes, like: NDArray[Any]) -> NDArray[Any]:
    """Return one element of `like`'s dtype, bit by bit what `fill` is."""
    if len(fill) != like.itemsize:
        raise UnreadableError(f"its fill value has {len(fill)} bytes, not {like.itemsize}")
    return np.frombuffer(fill, like.dtype).reshape(())


def read_chunk(source: Source, tensor: Tensor, start: tuple[int, ...]) -> NDArray[Any]:
    """Return all elements of the chunk of `tensor` that begins at `start`, also beyond its edge.

    Raises:
        UnreadableError: the bytes are not there, or cannot be decoded.
    """
    chunked, dtype = tensor.storage, tensor.dtype
    assert isinstance(chunked, Chunked)
    assert dtype is not None
    box = tuple((at, at + length) for at, length in zip(start, chunked.chunk_shape, strict=True))
    out: NDArray[Any] = np.empty(chunked.chunk_shape, dtype.numpy)
    _read_chunks(source, chunked, plan_chunks(box, chunked.chunk_shape), out)
    return out
