"""A byte-for-byte copy of a checkpoint's files, in which boxes of tensors are then overwritten."""

from __future__ import annotations

import os
import tempfile
import weakref
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from ckptclamp import system
from ckptclamp.checkpoints.reading import as_bytes, read_box, read_view
from ckptclamp.checkpoints.source import Source
from ckptclamp.checkpoints.tensor import (
    Box,
    Chunked,
    ChunkPart,
    Constant,
    Contiguous,
    Extent,
    Tensor,
    View,
    box_shape,
    plan_chunks,
    plan_runs,
)
from ckptclamp.errors import ChangedError, NotWrittenError, UnreadableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from collections.abc import Set as AbstractSet
    from pathlib import Path

    from numpy.typing import NDArray

    from ckptclamp.checkpoints.checkpoint import Checkpoint, Target


_BLOCK = 1 << 20
_AT_ONCE = 64 << 20
_COMPARED = 256 << 10
"""Bytes that are compared at once: the cache holds both sides."""
_COMPARED_BY_ONE = 16 << 20
"""Bytes that one thread compares before it asks for more."""
_NO_BYTES = "it has no bytes of its own to overwrite"


class FileCopy:
    """A `StoredCopy` of one regular file, or of several in a directory.

    `files` are the name inside the target and the source of each file: first those that hold
    weights, in the order that `Contiguous.source` and `Chunked.source` count them, then the others.
    What the target keeps as it is, is not copied.
    `reopen` makes a checkpoint of the files' copies, given in the same order, and owns them.

    Where it is to be made `empty`, the bytes of each file are copied by `fill`, before any of its
    tensors is read or written.

    Weights are overwritten in place, where they lie contiguously or in chunks that went through no
    filter. A format that can do more overrides `write_chunk`, or `finish` where its container keeps
    checksums; `changed` names the tensors that were written to, `may_differ` where their bytes lie.

    Raises:
        NotWrittenError: there is no room, or the system cannot write.
        ChangedError: a source became shorter while it was copied.
    """

    def __init__(
        self,
        files: Sequence[tuple[str, Source]],
        target: Target,
        reopen: Callable[[Sequence[Source]], Checkpoint],
        *,
        empty: bool = False,
    ) -> None:
        self.target = target
        self.changed: dict[str, Tensor] = {}
        self._reopen = reopen
        self.originals = [source for _, source in files]
        kept = [self.target.keeps(name) for name, _ in files]
        # All have room before the first byte is copied.
        self.sources = [
            self._kept_as(name, source) if keep else self._created(name, source)
            for keep, (name, source) in zip(kept, files, strict=True)
        ]
        self._kept = {number for number, keep in enumerate(kept) if keep}
        self._filled = set(self._kept)
        if not empty:
            self.fill(range(len(files)))

    def fill(self, numbers: Iterable[int]) -> None:
        """Copy the bytes of the files of these numbers, unless they are there.

        Raises:
            NotWrittenError: they cannot be written.
            ChangedError: a source became shorter.
        """
        for number in numbers:
            if number not in self._filled:
                with writing(self.sources[number].path):
                    copy_bytes(self.originals[number], self.sources[number].fd)
                self.adopt(number)

    def adopt(self, number: int, written: Iterable[Tensor] = ()) -> None:
        """Take the file of this number as it is now for a copy in which tensors were `written`."""
        made = self.sources[number]
        self.sources[number] = Source.from_fd(made.fd, made.path)
        self.sources[number].told = self.originals[number].told
        self._filled.add(number)
        self.changed |= {tensor.name: tensor for tensor in written}

    def _kept_as(self, name: str, source: Source) -> Source:
        """A source of its own for a file that the target keeps."""
        path = self.target.path / name if self.target.directory else source.path
        kept = Source.from_fd(os.dup(source.fd), path)
        kept.told = source.told
        weakref.finalize(self, kept.close)
        return kept

    def _created(self, name: str, source: Source) -> Source:
        path = self.target.path / name if self.target.directory else self.target.path
        return Source.from_fd(self.target.create(name, source.size), path)

    def read(self, tensor: Tensor, box: Box, buffer: memoryview | None = None) -> NDArray[Any]:
        """See `TensorReader.read`."""
        if isinstance(tensor.storage, View):
            return read_view(self.read, tensor, tensor.storage, box, buffer)
        return read_box(self.sources, tensor, box, buffer)

    def write(self, tensor: Tensor, box: Box, values: NDArray[Any]) -> None:
        """Overwrite `box` of `tensor`, and nothing else, with `values`.

        Raises:
            NotWrittenError: the tensor is stored in a way that cannot be overwritten.
            ValueError: `values` have another dtype or shape than the box.
        """
        if tensor.dtype is None or values.dtype != tensor.dtype.numpy:
            raise ValueError(f"{tensor.name} holds {tensor.dtype}, not {values.dtype}")
        if values.shape != box_shape(box):
            raise ValueError(f"values of shape {values.shape} for a box of {box_shape(box)}")
        if isinstance(tensor.storage, View):
            for piece, place in tensor.storage.pieces(box):
                self.write(tensor.whole, piece, values[place].reshape(box_shape(piece)))
            return
        self.changed[tensor.name] = tensor
        match tensor.storage:
            case Contiguous(source, offset):
                self.put_box(source, offset, tensor.shape, box, values)
            case Chunked() as chunked:
                for part in plan_chunks(box, chunked.chunk_shape):
                    self.write_chunk(tensor, chunked, part, values[part.in_box])
            case _:
                self.refuse(_NO_BYTES, tensor)

    def write_chunk(
        self, tensor: Tensor, chunked: Chunked, part: ChunkPart, values: NDArray[Any]
    ) -> None:
        """Overwrite the part of one chunk that `values` fill; raises as `write` does."""
        chunk = chunked.by_start.get(part.start)
        if chunk is None or chunked.filters:
            what = "was never written" if chunk is None else "is compressed or checksummed"
            self.refuse(
                f"its chunk at {list(part.start)} {what}: it has no bytes of its own", tensor
            )
        box = tuple((piece.start, piece.stop) for piece in part.in_chunk)
        self.put_box(chunked.source, chunk.offset, chunked.chunk_shape, box, values)

    def put_box(
        self, source: int, origin: int, shape: tuple[int, ...], box: Box, values: NDArray[Any]
    ) -> None:
        """Overwrite `box` of a C-ordered array of `shape` that begins at byte `origin`."""
        copy, flat = self.sources[source], as_bytes(np.ascontiguousarray(values)).data
        done = 0
        with writing(copy.path):
            for runs in plan_runs(shape, box, values.itemsize):
                for number in range(runs.count):
                    offset = origin + runs.offset + number * runs.stride
                    system.write_at(copy.fd, flat[done : done + runs.length], offset)
                    done += runs.length

    def refuse(self, reason: str, tensor: Tensor) -> NoReturn:
        """Raise `NotWrittenError` for one tensor."""
        raise NotWrittenError(reason, path=self.target.path, tensor=tensor.name)

    def may_differ(self, number: int) -> list[Extent]:
        """Where the copy of one source may differ from it: where the written tensors lie."""
        tensors = [t for t in self.changed.values() if getattr(t.storage, "source", None) == number]
        return [extent for tensor in tensors for extent in tensor.extents]

    @property
    def files(self) -> Sequence[Source]:
        """See `StoredCopy.files`."""
        return self.sources

    @property
    def written(self) -> AbstractSet[int]:
        """See `StoredCopy.written`."""
        numbers = {getattr(t.storage, "source", None) for t in self.changed.values()}
        return {number for number in numbers if number is not None}

    def finish(self) -> None:
        """See `StoredCopy.finish`; a container that keeps nothing beside the weights has nothing to do."""

    def begin_write_back(self, tensor: Tensor) -> None:
        """Have the system begin to write `tensor` to disk: it is done with, while others are not.

        Small ones are left to the flush: they share pages, which would be written once for each.
        """
        number = getattr(tensor.storage, "source", None)
        if number is not None and tensor.name in self.changed:
            for start, stop in (e for e in tensor.extents if e[1] - e[0] >= _BLOCK):
                system.begin_write_back(self.sources[number].fd, start, stop - start)

    def flush(self, numbers: Iterable[int] | None = None) -> None:
        """See `StoredCopy.flush`; of the files of these `numbers` alone, if they are given."""
        for number in self._made(numbers):
            source = self.sources[number]
            source.tell("flushing", 0)
            with writing(source.path):
                os.fsync(source.fd)
            source.tell("flushing", source.size)

    def compare(self, jobs: int, numbers: Iterable[int] | None = None) -> None:
        """See `StoredCopy.compare`; of the files of these `numbers` alone, if they are given."""
        for number in self._made(numbers):
            original, copy = self.originals[number], self.sources[number]
            compare_bytes(original, copy, self.may_differ(number), jobs)

    def _made(self, numbers: Iterable[int] | None) -> list[int]:
        """Those of `numbers`, or of all files, that the target does not keep."""
        chosen = range(len(self.originals)) if numbers is None else numbers
        return [number for number in chosen if number not in self._kept]

    def reopen(self) -> Checkpoint:
        """See `StoredCopy.reopen`."""
        return self._reopen([source.duplicate() for source in self.sources])


def copy_bytes(source: Source, fd: int) -> None:
    """Copy all of `source` to the start of `fd`, inside the kernel where it can.

    Raises:
        OSError: the copy cannot be written.
        ChangedError: the source became shorter.
    """
    done = 0
    while done < source.size and not source.remote:
        count = system.copy_range(source.fd, fd, min(source.size - done, _AT_ONCE), done)
        if not count:
            break
        done += count
        source.tell("copying", count)
    try:
        for block in source.buffered(done, source.size - done):
            system.write_at(fd, block, done)
            done += len(block)
            source.tell("copying", len(block))
    except UnreadableError as error:
        if source.length_now() < source.size:
            raise ChangedError("became shorter while it was copied", path=source.path) from error
        raise


def compare_bytes(
    original: Source, copy: Source, may_differ: Sequence[Extent], jobs: int = 1
) -> None:
    """Compare a copy with its original, but for the extents that may differ, in `jobs` threads.

    Raises:
        ChangedError: the original is no longer what was copied.
        NotWrittenError: they differ elsewhere.
    """
    sizes = (original.size, os.fstat(copy.fd).st_size)
    extents = list(_between(may_differ, max(sizes)))
    if extents and extents[-1][1] > min(sizes):
        _differ(original, min(sizes), copy.path)
    parts = [
        (at, min(at + _COMPARED_BY_ONE, stop))
        for start, stop in extents
        for at in range(start, stop, _COMPARED_BY_ONE)
    ]
    original.tell("comparing", original.size - sum(stop - start for start, stop in parts))
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(jobs, thread_name_prefix="compare") as pool:
        for difference in pool.map(partial(_first_difference, original, copy), parts):
            if difference is not None:
                _differ(original, difference, copy.path)


def _first_difference(original: Source, copy: Source, extent: Extent) -> int | None:
    """Where, or a little before where, two files begin to differ in an extent."""
    start, stop = extent
    one, other = bytearray(_COMPARED), bytearray(_COMPARED)
    for at in range(start, stop, _COMPARED):
        length = min(_COMPARED, stop - at)
        if length < _COMPARED:
            one, other = bytearray(length), bytearray(length)
        original.read_into(memoryview(one), at)
        copy.read_into(memoryview(other), at)
        if one != other:
            return at
        original.tell("comparing", length)
    return None


def _between(extents: Sequence[Extent], size: int) -> Iterator[Extent]:
    """Yield what lies outside of `extents` in a file of `size` bytes."""
    done = 0
    for start, stop in sorted(extents):
        if start > done:
            yield done, start
        done = max(done, stop)
    if done < size:
        yield done, size


def _differ(original: Source, offset: int, path: Path) -> NoReturn:
    original.verify_unchanged()
    raise NotWrittenError(
        f"the copy differs from its original at byte {offset} or soon after, where it must not",
        path=path,
    )


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise `NotWrittenError` where the system cannot write to `path`."""
    try:
        yield
    except OSError as error:
        raise NotWrittenError(f"cannot be written: {error.strerror or error}", path=path) from error


class ScratchFile:
    """An empty file that no directory lists; also a `Target` for a copy that is one file.

    `path` is shown in messages. The file is gone once `close` was called, or nothing uses it.

    Raises:
        NotWrittenError: the system has no place for it.
    """

    directory: Path | None = None

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with tempfile.TemporaryFile(prefix="ckptclamp-") as file:
                self.fd = os.dup(file.fileno())
        except OSError as error:
            raise self._no_room(error) from error
        self.close = weakref.finalize(self, _close, self.fd)

    def create(self, name: str, size: int) -> int:
        """See `Target.create`."""
        return self.fd

    def keeps(self, name: str) -> bool:
        """See `Target.keeps`: the file is empty."""
        return False

    def put(self, data: bytes, offset: int) -> None:
        """Write `data` at `offset`; raises `NotWrittenError`."""
        try:
            system.write_at(self.fd, memoryview(data), offset)
        except OSError as error:
            raise self._no_room(error) from error

    def _no_room(self, error: OSError) -> NotWrittenError:
        reason, hint = error.strerror or error, "set TMPDIR to a directory with room"
        return NotWrittenError(f"no scratch file: {reason}", path=self.path, hint=hint)


def _close(fd: int) -> None:
    with suppress(OSError):  # whatever could not be written, nobody will read
        os.close(fd)


class Preview:
    """A `Copy` of nothing: reads from the checkpoint, and forgets what is written."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    def read(self, tensor: Tensor, box: Box, buffer: memoryview | None = None) -> NDArray[Any]:
        """Return the box as the checkpoint has it."""
        return self._checkpoint.read(tensor, box, buffer)

    def write(self, tensor: Tensor, box: Box, values: NDArray[Any]) -> None:
        """Forget `values`; raises where a copy could not hold them either."""
        if isinstance(tensor.whole.storage, Constant):
            raise NotWrittenError(_NO_BYTES, path=self._checkpoint.path, tensor=tensor.name)
