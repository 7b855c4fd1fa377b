"""Copies of a ``.keras`` archive.

Where the weights are stored and only contiguous tensors lie in them, the archive is copied byte for
byte, patched in place, and the checksum of the weights brought up to date. Else a copy of the HDF5
file is changed on its own, and the archive is put together again: the same members in the same
order under the same headers, of which only those of the weights get new sizes and a new checksum.
"""

from __future__ import annotations

import os
import struct
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptclamp.checkpoints.checksums import crc32_of
from ckptclamp.checkpoints.copying import Extent, FileCopy, copy_bytes, refuse
from ckptclamp.checkpoints.description import Chunked
from ckptclamp.checkpoints.hdf5 import Hdf5Checkpoint, describe_hdf5
from ckptclamp.checkpoints.scratch import ScratchFile
from ckptclamp.checkpoints.source import Source
from ckptclamp.checkpoints.zip_directory import STORED
from ckptclamp.checkpoints.zip_members import inflate_to_file
from ckptclamp.checkpoints.zip_rewrite import replace_member

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from ckptclamp.checkpoints.checkpoint import Checkpoint, Copy, Target
    from ckptclamp.checkpoints.description import Box, Tensor
    from ckptclamp.checkpoints.zip_directory import Directory, Member

_BLOCK = 1 << 20


Reopen = Callable[[Source], "Checkpoint"]
"""Opens the file of a copy as an archive, which then owns it."""


def copy_archive(
    archive: Checkpoint, directory: Directory, weights: Member, target: Target, reopen: Reopen
) -> Copy:
    """Return a copy of `archive` in `target`, made in one of the two ways.

    `directory` is the archive's own, and `weights` the member that holds the HDF5 file. `reopen`
    opens the copy to be audited.
    """
    chunked = any(isinstance(tensor.storage, Chunked) for tensor in archive.tensors.values())
    if weights.method == STORED and not chunked:
        return _PatchedArchive(archive, weights, target, reopen)
    return _RebuiltArchive(archive, directory, weights, target, reopen)


class _PatchedArchive(FileCopy):
    """A copy whose weights are changed where they lie."""

    def __init__(
        self, archive: Checkpoint, weights: Member, target: Target, reopen: Reopen
    ) -> None:
        source = archive.sources[0]
        super().__init__([(source.path.name, source)], target, lambda copies: reopen(copies[0]))
        self._weights = weights

    def finish(self) -> None:
        """See `Copy.finish`; the checksum is written in the places where the archive keeps it."""
        if self.changed:
            member = self._weights
            crc = crc32_of(self.sources[0], member.data, member.stored)
            for place in member.crc_places:
                self.put(0, place, np.frombuffer(struct.pack("<I", crc), np.uint8))

    def may_differ(self, number: int) -> list[Extent]:
        """See `FileCopy.may_differ`; checksums may, too."""
        places = self._weights.crc_places if self.changed else ()
        return [*super().may_differ(number), *((place, place + 4) for place in places)]


class _RebuiltArchive:
    """A copy whose weights are changed in a file of their own, and packed again."""

    def __init__(
        self,
        archive: Checkpoint,
        directory: Directory,
        weights: Member,
        target: Target,
        reopen: Reopen,
    ) -> None:
        self._directory = directory
        self._member = weights
        self._target = target
        self._reopen = reopen
        self._archive = source = archive.sources[0]
        self._fd = target.create(source.path.name, source.size)
        self._unpacked = (
            archive.sources[1].duplicate()
            if len(archive.sources) > 1
            else inflate_to_file(source, weights)
        )
        weakref.finalize(self, self._unpacked.close)
        self._scratch = ScratchFile(target.path)
        description = describe_hdf5(self._unpacked)
        self._tensors = description.tensors
        self._weights = Hdf5Checkpoint(self._unpacked, description).copy_to(self._scratch)
        self._changed = False

    def read(self, tensor: Tensor, box: Box, buffer: memoryview | None = None) -> NDArray[Any]:
        """See `TensorReader.read`."""
        return self._weights.read(self._tensors[tensor.name], box, buffer)

    def write(self, tensor: Tensor, box: Box, values: NDArray[Any]) -> None:
        """See `Copy.write`."""
        self._changed = True
        self._weights.write(self._tensors[tensor.name], box, values)

    @property
    def files(self) -> Sequence[Source]:
        """See `Copy.files`; the target closes it."""
        return (Source.from_fd(self._fd, self._target.path),)

    def finish(self) -> None:
        """See `Copy.finish`; members other than the weights are copied as they are packed.

        Raises:
            NotWrittenError: the archive cannot be written, or would need zip64 fields.
        """
        self._weights.finish()
        self._weights.compare(jobs=1)
        try:
            self._write_archive()
        except OSError as error:
            refuse(error, self._target.path)

    def flush(self) -> None:
        """See `Copy.flush`."""
        try:
            os.fsync(self._fd)
        except OSError as error:
            refuse(error, self._target.path)

    def compare(self, jobs: int) -> None:
        """Nothing is left to compare: the weights were, before they were packed again."""

    def _write_archive(self) -> None:
        if self._changed:
            directory, member = self._directory, self._member
            replace_member(self._archive, directory, member, self._blocks(), self._fd)
        else:
            copy_bytes(self._archive, self._fd)

    def _blocks(self) -> Iterator[bytes]:
        weights = Source.from_fd(self._scratch.fd, self._target.path)
        for at in range(0, weights.size, _BLOCK):
            yield weights.read_at(at, min(_BLOCK, weights.size - at))

    def reopen(self) -> Checkpoint:
        """See `Copy.reopen`."""
        return self._reopen(Source.from_fd(os.dup(self._fd), self._target.path))
