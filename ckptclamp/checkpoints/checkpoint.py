"""The small interface that every format stands behind, and how boxes of tensors are read.

What to read is planned first, from where a description says that the bytes lie (`tensor.plan_runs`);
then it is read with `pread`, which needs no shared position, so that any number of threads may read at
once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from ckptclamp.checkpoints.tensor import (
    Box,
    Chunked,
    ChunkPart,
    Computed,
    Constant,
    Contiguous,
    KerasModel,
    Producer,
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
from ckptclamp.errors import UnreadableError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from collections.abc import Set as AbstractSet
    from pathlib import Path

    from numpy.typing import NDArray

    from ckptclamp.checkpoints.array import StoredArray
    from ckptclamp.checkpoints.source import Source

_GAP = 16 << 10
"""Reading so many bytes for nothing costs less than one more system call."""
_SCRATCH = 1 << 20
"""The most bytes that are read at once where some of them are for nothing."""


class TensorReader(Protocol):
    """Whatever weights can be read from: a checkpoint, or a copy that is being made."""

    def read(self, tensor: Tensor, box: Box, buffer: memoryview | None = None) -> NDArray[Any]:
        """Return `box` of `tensor`, in its storage dtype and the shape of the box.

        The array may be a view of `buffer` (at least the box's bytes long), so it is good only
        until the buffer is used again.

        Raises:
            UnreadableError: the bytes are not there, or cannot be decoded.
        """


class Target(Protocol):
    """Where a copy is put while it has no final name yet; `publication.staged` makes one.

    Attributes:
        path: the name that the copy will have, for messages.
        directory: the directory in which `create` makes files, or ``None`` where the target is one
            file (which may have no name at all, only a descriptor).
    """

    path: Path
    directory: Path | None

    def create(self, name: str, size: int) -> int:
        """Return a read-write descriptor of a new file with room for `size` bytes.

        `name` is the file's place inside the checkpoint's directory (``assets/a.txt``; folders are
        made), or anything where the target is one file: it can then be asked for once. The target
        owns the descriptor and closes it.

        Raises:
            NotWrittenError: the file cannot be made, or there is no room for it.
        """

    def keeps(self, name: str) -> bool:
        """Whether the original of the file `name` stays there, so that no copy of it is made."""


class Copy(TensorReader, Protocol):
    """Weights that are being changed: those of a stored copy, or of a preview of one."""

    def write(self, tensor: Tensor, box: Box, values: NDArray[Any]) -> None:
        """Put `values` (storage dtype, the shape of the box) where `box` of `tensor` lies.

        Raises:
            NotWrittenError: the tensor is stored in a way that cannot be overwritten.
        """


class StoredCopy(Copy, Protocol):
    """A byte-for-byte copy of a checkpoint that is being changed and is not yet published."""

    def finish(self) -> None:
        """Bring the container up to date (checksums, chunks that moved); nothing is written after.

        Raises:
            NotWrittenError: it cannot be written.
        """

    def flush(self) -> None:
        """Wait until everything that was written is on disk.

        Raises:
            NotWrittenError: the system cannot confirm it; that is not tried twice, because a second
                flush may report success for what the first one lost.
        """

    def compare(self, jobs: int) -> None:
        """Compare what was not to change with the original, byte for byte, in `jobs` threads.

        Raises:
            NotWrittenError: the copy differs where it must not.
            ChangedError: the original is no longer what was copied.
        """

    @property
    def files(self) -> Sequence[Source]:
        """Everything that was made, in the order of the checkpoint's own files."""

    @property
    def written(self) -> AbstractSet[int]:
        """The numbers of the sources in whose copies something was overwritten."""

    def reopen(self) -> Checkpoint:
        """Open what was written as a checkpoint of its own, to be audited before it has a name."""


class Checkpoint(ABC):
    """An opened checkpoint: described, but with no weights in memory. A context manager.

    Attributes:
        path: what the user named.
        format: the name of the format, such as ``safetensors`` or ``keras-zip``.
        sources: the regular files that hold the weights; `Contiguous.source` indexes them.
        tensors: every tensor by name, in the order of the file.
        notes: sentences that a reader must know (a name that disagrees with the content, aliases).
        metadata: free text that the file carries about itself, as it stands there.
        keras: what a Keras file says of its model, if it is one.
        quantisation: what the config in a safetensors checkpoint's directory says of quantised
            weights, if anything, or why that cannot be known.
        config: reads the model's own config beside a safetensors checkpoint: a mapping, why it cannot
            be read, or ``None`` where there is none.
        adapter: the ``adapter_config.json`` in the directory of an adapter, or why it cannot be read.
        configs: the sha256 of each config in the directory that was read, by its name.
        unlisted: the tensors that the index of a sharded set leaves out.
        base: the checkpoint that this one was made from, if one was given.
        companions: files that are watched, and closed, with those of this checkpoint.
        merged: whether this is an adapter that is seen together with its base, as one model.
        several_files: whether a copy is a directory of files, so that its target must be one.
        folder: the directory by which the user named it, if that is how: all that lies in it belongs
            to the model.
        isolation: what the parser's sandbox was made of (``landlock``, ``seccomp``, ``rlimits``).
    """

    path: Path
    format: str
    sources: tuple[Source, ...]
    tensors: Mapping[str, Tensor]
    notes: tuple[str, ...] = ()
    metadata: Mapping[str, str] = {}
    keras: KerasModel | None = None
    quantisation: Mapping[str, Any] | Unreadable | None = None
    config: Callable[[], Mapping[str, Any] | Unreadable | None] = staticmethod(lambda: None)
    adapter: Mapping[str, Any] | Unreadable | None = None
    configs: Mapping[str, str] = {}
    unlisted: tuple[str, ...] = ()
    base: Checkpoint | None = None
    companions: tuple[Source, ...] = ()
    merged: bool = False
    several_files: bool = False
    folder: Path | None = None
    isolation: tuple[str, ...] = ()

    def read(self, tensor: Tensor, box: Box, buffer: memoryview | None = None) -> NDArray[Any]:
        """See `TensorReader.read`. Safe to call from several threads with a buffer each."""
        return read_box(self.sources, tensor, box, buffer)

    def __getitem__(self, name: str) -> StoredArray:
        """The tensor called `name`, to be read by indexing; see `stored_array`."""
        from ckptclamp.checkpoints.array import stored_array

        return stored_array(self, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def __repr__(self) -> str:
        return f"<Checkpoint {str(self.path)!r}: {self.format}, {len(self.tensors):,} tensors>"

    def check_copyable(self) -> None:  # noqa: B027 - of most containers a copy can be made
        """Raise `NotWrittenError` where `copy_to` would, whatever were to be changed."""

    @abstractmethod
    def copy_to(self, target: Target) -> StoredCopy:
        """Copy every byte of every file to `target` and return the copy for changes.

        Formats hand their files to `copying.FileCopy`, or to a subclass of it where writing takes
        more than bytes at an offset.

        Raises:
            NotWrittenError: the copy cannot be made, for want of space or otherwise.
            ChangedError: a source changed while it was copied.
        """

    @property
    def files(self) -> tuple[Source, ...]:
        """The files that the user would call the checkpoint; by default the sources."""
        return self.sources

    @property
    def producer(self) -> Producer | None:
        """Who wrote it, as far as it says."""
        if self.keras is None:
            return None
        return Producer("keras", self.keras.version, self.keras.backend)

    def assume_config(self, config: Mapping[str, Any]) -> None:
        """Take `config` for the model config that a weights-only Keras file lacks.

        Raises:
            UsageError: the file has a config of its own, or is no Keras file.
        """
        if self.keras is None:
            raise UsageError("only a Keras file takes a model config", path=self.path)
        if self.keras.config is not None:
            raise UsageError("has a model config of its own", path=self.path)
        self.keras = replace(self.keras, config=config, config_given=True)

    def verify_integrity(self) -> None:  # noqa: B027 - most containers promise nothing
        """Check what the container itself promises of its bytes (a zip's checksums).

        Raises:
            UnreadableError: the bytes are not what the container says.
        """

    def verify_unchanged(self) -> None:
        """Raise `ChangedError` if a file is no longer the one that was opened."""
        for source in self._every_file():
            source.verify_unchanged()

    def leave_cache(self) -> None:
        """Read without filling the page cache, or note that this system cannot."""
        able = [source.leave_cache() for source in self.sources]
        if not all(able):
            self.notes += ("this system cannot read without filling the page cache",)

    def close(self) -> None:
        """Close every file."""
        for source in self._every_file():
            source.close()

    def _every_file(self) -> Iterable[Source]:
        return dict.fromkeys((*self.files, *self.sources, *self.companions))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_box(
    sources: Sequence[Source], tensor: Tensor, box: Box, buffer: memoryview | None = None
) -> NDArray[Any]:
    """Return `box` of `tensor` in its storage dtype, byte order included, and the box's shape.

    The array is a view of `buffer` where one is given; it needs at least the box's bytes. Chunks
    are decoded one at a time, whole, so memory beside the result is that of one chunk.

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
                sources[source].read_into(as_bytes(out).data, offset + run[0])
            case Contiguous(source, offset):
                _read_contiguous(sources[source], offset, tensor, box, out)
            case Chunked():
                parts = plan_chunks(box, tensor.storage.chunk_shape)
                _read_chunks(sources[tensor.storage.source], tensor.storage, parts, out)
            case Constant():
                out[...] = _element(tensor.storage.fill, out)
            case Computed():
                tensor.storage.compute(partial(read_box, sources), tensor, box, out)
    except UnreadableError as error:
        raise type(error)(
            error.message, path=error.path or _path(sources), tensor=tensor.name, hint=error.hint
        ) from error
    return out


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
    source: Source, chunked: Chunked, parts: Iterable[ChunkPart], out: NDArray[Any]
) -> None:
    from ckptclamp.checkpoints.hdf5.filters import decode_into

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
