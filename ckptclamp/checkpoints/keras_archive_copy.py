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
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptclamp.checkpoints.copying import FileCopy, copy_bytes
from ckptclamp.checkpoints.description import Chunked
from ckptclamp.checkpoints.hdf5 import Hdf5Checkpoint, describe_hdf5
from ckptclamp.checkpoints.keras_archive import inflate_to_file, open_keras_archive
from ckptclamp.checkpoints.scratch import ScratchFile
from ckptclamp.checkpoints.source import Source
from ckptclamp.checkpoints.zip_directory import STORED
from ckptclamp.checkpoints.zip_rewrite import replace_member
from ckptclamp.errors import NotWrittenError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from ckptclamp.checkpoints.checkpoint import Checkpoint, Copy, Target
    from ckptclamp.checkpoints.description import Box, Tensor
    from ckptclamp.checkpoints.keras_archive import KerasArchive

_BLOCK = 1 << 20


def copy_archive(archive: KerasArchive, target: Target) -> Copy:
    """Return a copy of `archive` in `target`, made in one of the two ways."""
    chunked = any(isinstance(tensor.storage, Chunked) for tensor in archive.tensors.values())
    if archive.weights.method == STORED and not chunked:
        return _PatchedArchive(archive, target)
    return _RebuiltArchive(archive, target)


def _reopen(source: Source) -> Checkpoint:
    return open_keras_archive(source)


class _PatchedArchive(FileCopy):
    """A copy whose weights are changed where they lie."""

    def __init__(self, archive: KerasArchive, target: Target) -> None:
        source = archive.sources[0]
        super().__init__([(source.path.name, source)], target, lambda copies: _reopen(copies[0]))
        self._weights = archive.weights

    def finish(self) -> None:
        """See `Copy.finish`; the checksum is written in the places where the archive keeps it."""
        if self.changed:
            member, source = self._weights, self.sources[0]
            crc = 0
            for at in range(member.data, member.data + member.stored, _BLOCK):
                size = min(_BLOCK, member.data + member.stored - at)
                crc = zlib.crc32(source.read_at(at, size), crc)
            for place in member.crc_places:
                self.put(0, place, np.frombuffer(struct.pack("<I", crc), np.uint8))
        super().finish()


class _RebuiltArchive:
    """A copy whose weights are changed in a file of their own, and packed again."""

    def __init__(self, archive: KerasArchive, target: Target) -> None:
        self._archive = archive
        self._target = target
        source = archive.sources[0]
        self._fd = target.create(source.path.name, source.size)
        self._unpacked = (
            archive.sources[1].duplicate()
            if len(archive.sources) > 1
            else inflate_to_file(source, archive.weights)
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

    def finish(self) -> None:
        """See `Copy.finish`; members other than the weights are copied as they are packed.

        Raises:
            NotWrittenError: the archive cannot be written, or would need zip64 fields.
        """
        self._weights.finish()
        try:
            self._write_archive()
            os.fsync(self._fd)
        except OSError as error:
            raise NotWrittenError(
                f"cannot be written: {error.strerror or error}", path=self._target.path
            ) from error

    def _write_archive(self) -> None:
        source = self._archive.sources[0]
        if self._changed:
            directory, member = self._archive.directory, self._archive.weights
            replace_member(source, directory, member, self._blocks(), self._fd)
        else:
            copy_bytes(source, self._fd)

    def _blocks(self) -> Iterator[bytes]:
        weights = Source.from_fd(self._scratch.fd, self._target.path)
        for at in range(0, weights.size, _BLOCK):
            yield weights.read_at(at, min(_BLOCK, weights.size - at))

    def reopen(self) -> Checkpoint:
        """See `Copy.reopen`."""
        return _reopen(Source.from_fd(os.dup(self._fd), self._target.path))
