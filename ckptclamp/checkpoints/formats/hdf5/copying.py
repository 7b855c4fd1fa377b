"""Copies of HDF5 files in which chunks that went through filters can be changed as well.

Contiguous tensors and plain chunks are overwritten in place. A compressed chunk has another size
afterwards, and a chunk that was never written has no bytes at all: these are kept decoded in a file
without a name, until `finish` encodes them and has a worker put them in. The HDF5 library may then
move chunks and their index; everything that was not to change is compared afterwards.
"""

from __future__ import annotations

import json
from contextlib import ExitStack, closing
from dataclasses import replace
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptclamp.checkpoints.copying import FileCopy, ScratchFile
from ckptclamp.checkpoints.formats.hdf5 import sandbox
from ckptclamp.checkpoints.formats.hdf5.filters import encode_chunk
from ckptclamp.checkpoints.reading import as_bytes, read_chunk
from ckptclamp.checkpoints.source import Source
from ckptclamp.checkpoints.tensor import (
    Box,
    Chunked,
    ChunkPart,
    Contiguous,
    Extent,
    Tensor,
    plan_chunks,
)
from ckptclamp.errors import NotWrittenError, UnreadableError
from ckptclamp.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from ckptclamp.checkpoints.checkpoint import Checkpoint, Target
    from ckptclamp.checkpoints.dtypes import StorageDType

_SECONDS = 60.0
_SECONDS_PER_MIB = 1.0
_INDEX_ROOM = 16 << 20
"""Bytes by which a file may grow beyond its new chunks: the index of chunks may be rewritten."""


@frozen
class _Pending:
    """A changed chunk: of which tensor, where it starts, where its elements lie in the spool."""

    name: str
    chunked: Chunked
    dtype: StorageDType
    start: tuple[int, ...]
    offset: int


class Hdf5Copy(FileCopy):
    """A copy of HDF5 files, with others after them; see `FileCopy` for the arguments.

    `reopen` may also be given the original files.
    """

    def __init__(
        self,
        files: Sequence[tuple[str, Source]],
        target: Target,
        reopen: Callable[[Sequence[Source]], Checkpoint],
    ) -> None:
        super().__init__(files, target, reopen)
        self._pending: dict[tuple[str, tuple[int, ...]], _Pending] = {}
        self._rewritten: set[int] = set()
        self._spool = ScratchFile(target.path)
        self._spooled = 0
        self._lock = Lock()
        self._moved: Mapping[str, Tensor] = {}

    def read(self, tensor: Tensor, box: Box, buffer: memoryview | None = None) -> NDArray[Any]:
        """See `TensorReader.read`; chunks that wait to be written are read as they will be."""
        if tensor.whole is tensor:
            tensor = self._moved.get(tensor.name, tensor)
        values = super().read(tensor, box, buffer)
        if isinstance(tensor.storage, Chunked) and self._pending:
            for part in plan_chunks(box, tensor.storage.chunk_shape):
                pending = self._pending.get((tensor.name, part.start))
                if pending is not None:
                    values[part.in_box] = self._decoded(pending)[part.in_chunk]
        return values

    def write_chunk(
        self, tensor: Tensor, chunked: Chunked, part: ChunkPart, values: NDArray[Any]
    ) -> None:
        """See `FileCopy.write_chunk`; what cannot be overwritten in place waits for `finish`."""
        chunk = chunked.by_start.get(part.start)
        if chunk is not None and not chunked.filters:
            super().write_chunk(tensor, chunked, part, values)
            return
        assert tensor.dtype is not None
        with self._lock:
            key = (tensor.name, part.start)
            pending = self._pending.get(key)
            if pending is None:
                elements = read_chunk(self.sources[chunked.source], tensor, part.start)
                pending = _Pending(tensor.name, chunked, tensor.dtype, part.start, self._spooled)
                self._spooled += elements.nbytes
            else:
                elements = self._decoded(pending)
            elements[part.in_chunk] = values
            self._spool.put(elements.tobytes(), pending.offset)
            self._pending[key] = pending

    def _decoded(self, pending: _Pending) -> NDArray[Any]:
        elements: NDArray[Any] = np.empty(pending.chunked.chunk_shape, pending.dtype.numpy)
        spool = Source.from_fd(self._spool.fd, self.target.path)
        spool.read_into(as_bytes(elements).data, pending.offset)
        return elements

    def finish(self) -> None:
        """See `StoredCopy.finish`.

        Raises:
            NotWrittenError: the chunks could not be put in, or something else moved with them.
        """
        if self._pending:
            self._rewritten = {pending.chunked.source for pending in self._pending.values()}
            try:
                for number in self._rewritten:
                    self._put_in(number)
                self._verify(self._rewritten)
            except UnreadableError as error:
                raise NotWrittenError(
                    f"its compressed chunks could not be rewritten: {error.message}",
                    path=self.target.path,
                    tensor=error.tensor,
                ) from error
            self._pending = {}
        self._spool.close()

    def may_differ(self, number: int) -> list[Extent]:
        """See `FileCopy.may_differ`; where the library was at work, `finish` compared tensors."""
        if number in self._rewritten:
            return [(0, max(self.originals[number].size, self.sources[number].size))]
        return super().may_differ(number)

    def _put_in(self, number: int) -> None:
        """Let a worker write the waiting chunks of one file."""
        source = self.sources[number]
        task = sandbox.Task(
            name="write-chunks",
            fd=source.fd,
            path=self.target.path,
            offset=0,
            length=source.size,
            seconds=_SECONDS + _SECONDS_PER_MIB * (self._spooled >> 20),
            longest=source.size + 2 * self._spooled + _INDEX_ROOM,
            records=self._records(number),
        )
        sandbox.run(task)
        self.sources[number] = Source.from_fd(source.fd, source.path)

    def _records(self, number: int) -> Iterator[bytes]:
        for pending in self._pending.values():
            if pending.chunked.source == number:
                elements = self._decoded(pending).tobytes()
                data = encode_chunk(elements, pending.chunked, pending.dtype.itemsize)
                chunk = {"name": pending.name, "start": pending.start, "size": len(data)}
                yield json.dumps(chunk).encode("ascii") + b"\n" + data

    def _verify(self, files: set[int]) -> None:
        """Compare files as they are described now with what they were and what was put in."""
        before, self._moved = self._tensors(self.originals), self._tensors(self.sources)
        if before.keys() != self._moved.keys():
            raise UnreadableError("the names in the copy are not those of the file")
        for name, tensor in before.items():
            if getattr(tensor.storage, "source", None) in files:
                self._verify_tensor(tensor, self._moved[name])

    def _tensors(self, files: Sequence[Source]) -> Mapping[str, Tensor]:
        """Describe the tensors in `files` as they are now."""
        with ExitStack() as opened:
            again = [opened.enter_context(closing(f.duplicate())) for f in files]
            return self._reopen(again).tensors

    def _verify_tensor(self, old: Tensor, new: Tensor) -> None:
        if replace(new, storage=old.storage) != old or type(new.storage) is not type(old.storage):
            raise UnreadableError("is described in another way", tensor=old.name)
        if isinstance(old.storage, Chunked) and isinstance(new.storage, Chunked):
            self._verify_chunks(old, old.storage, new, new.storage)
        elif new.storage != old.storage:
            raise UnreadableError("moved", tensor=old.name)
        elif isinstance(old.storage, Contiguous) and old.name not in self.changed:
            place = old.storage
            self._same_bytes(old.name, place.source, place.offset, place.offset, old.nbytes)

    def _verify_chunks(self, old: Tensor, was: Chunked, new: Tensor, now: Chunked) -> None:
        starts = {start for name, start in self._pending if name == old.name}
        if set(now.by_start) != set(was.by_start) | starts:
            raise UnreadableError("has other chunks", tensor=old.name)
        for start, chunk in now.by_start.items():
            pending = self._pending.get((old.name, start))
            if pending is not None:
                put_in = read_chunk(self.sources[now.source], new, start)
                if put_in.tobytes() != self._decoded(pending).tobytes():
                    raise UnreadableError("a chunk reads back differently", tensor=old.name)
            elif was.filters or old.name not in self.changed:
                same = was.by_start[start]
                if (same.stored, same.filter_mask) != (chunk.stored, chunk.filter_mask):
                    raise UnreadableError("a chunk changed", tensor=old.name)
                self._same_bytes(old.name, now.source, same.offset, chunk.offset, chunk.stored)

    def _same_bytes(self, name: str, number: int, was: int, now: int, length: int) -> None:
        before = self.originals[number].blocks(was, length)
        after = self.sources[number].blocks(now, length)
        if any(one != other for one, other in zip(before, after, strict=True)):
            raise UnreadableError("its bytes changed", tensor=name)
