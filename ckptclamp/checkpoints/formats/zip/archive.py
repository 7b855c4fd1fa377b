"""Keras' ``.keras`` archive: two JSON documents, an HDF5 file of weights, and assets; zipped or not.

The weights of a stored member are read in place, at their offsets in the archive. A deflated member
is first inflated into a file without a name. Nothing is ever unpacked by name. An archive that was
unpacked is a directory of the same files.
"""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptclamp.checkpoints.checkpoint import Checkpoint, StoredCopy, Target
from ckptclamp.checkpoints.copying import ScratchFile, copy_bytes, writing
from ckptclamp.checkpoints.documents import (
    CONFIG,
    MAX_BYTES,
    METADATA,
    WEIGHTS,
    join_documents,
    parse_document,
    read_document,
)
from ckptclamp.checkpoints.formats.hdf5.file import Hdf5Checkpoint, Place, describe_hdf5
from ckptclamp.checkpoints.formats.zip.checksums import Checksums
from ckptclamp.checkpoints.formats.zip.directory import STORED, Directory, Member, read_directory
from ckptclamp.checkpoints.formats.zip.members import (
    PatchedArchive,
    check_unpacked,
    inflate_to_file,
    member_blocks,
    replace_member,
    verify_members,
)
from ckptclamp.checkpoints.remote.path import RemotePath
from ckptclamp.checkpoints.source import Limits, Source, open_all
from ckptclamp.checkpoints.tensor import Box, Chunked, Tensor
from ckptclamp.errors import NotACheckpointError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from numpy.typing import NDArray


_NPZ = "model.weights.npz"
_CONFIG_FLOOR = 1 << 20
_CONFIG_RATIO = 200


class KerasArchive(Checkpoint):
    """One ``.keras`` archive of Keras 3, TF 2.12 to 2.15, or tf_keras.

    `sources` are the archive and, if its weights are deflated, the file they were inflated into.
    `directory` is the archive's own, `weights` the member that holds the HDF5 file. No member, nor
    all of them together, may unpack to more than `limits` allow.

    Raises:
        NotACheckpointError: the archive is none of Keras.
        RefusedError: the archive, its config or its weights have two readings or cost too much.
        UnreadableError: a member is damaged.
    """

    format = "keras-zip"

    def __init__(self, source: Source, limits: Limits) -> None:
        self.path = source.path
        self.limits = limits
        self.directory = read_directory(source)
        members = {member.name: member for member in self.directory.members}
        _check_members(source, members, limits)
        config = _document(source, members[CONFIG])
        metadata = _document(source, members[METADATA]) if METADATA in members else None
        self.weights = weights = members[WEIGHTS]
        self.sources, place = (source,), Place(0, weights.data, weights.stored)
        if weights.method != STORED:
            inflated = inflate_to_file(source, [weights])
            self.sources, place = (source, inflated), Place(1, 0, weights.size)
        try:
            description = describe_hdf5(self.sources[-1], place)
            self.keras = join_documents(source.path, description.keras, config, metadata)
        except BaseException:
            for inflated in self.sources[1:]:
                inflated.close()
            raise
        self.tensors = description.tensors
        self.notes = (*_unknown_members(self.directory), *description.notes)
        self.isolation = description.isolation
        source.checksums = Checksums()

    @property
    def files(self) -> tuple[Source, ...]:
        """The archive."""
        return self.sources[:1]

    def copy_to(self, target: Target) -> StoredCopy:
        """See `Checkpoint.copy_to`; the checksum of the weights is brought up to date."""
        chunked = any(isinstance(tensor.storage, Chunked) for tensor in self.tensors.values())
        if self.weights.method == STORED and not chunked:
            limits, weights = self.limits, self.weights
            return PatchedArchive(
                self.sources[0],
                target,
                lambda copy: KerasArchive(copy, limits),
                lambda _: weights,
            )
        return _RebuiltArchive(self, target)

    def verify_integrity(self) -> None:
        """Compare the checksum of every member with its bytes."""
        verify_members(self.sources[0], self.directory.members)


def _check_members(source: Source, members: Mapping[str, Member], limits: Limits) -> None:
    if _NPZ in members:
        raise RefusedError(
            f"keeps its weights in {_NPZ}, which Keras itself cannot reload", path=source.path
        )
    missing = [name for name in (CONFIG, WEIGHTS) if name not in members]
    if missing:
        raise NotACheckpointError(
            f"a zip archive without {missing[0]}, so no .keras file", path=source.path
        )
    for name in (CONFIG, METADATA):
        member = members.get(name)
        if member is not None and (
            member.size > MAX_BYTES
            or (member.size > _CONFIG_FLOOR and member.size > _CONFIG_RATIO * member.stored)
        ):
            raise RefusedError(
                f"unpacks from {member.stored} to {member.size} bytes",
                path=source.path,
                tensor=name,
            )
    # Assets, too: their checksums are looked at.
    check_unpacked(source, list(members.values()), limits)


def _document(source: Source, member: Member) -> dict[str, Any]:
    data = b"".join(member_blocks(source, member))
    return parse_document(data, member.name, source.path)


def _unknown_members(directory: Directory) -> tuple[str, ...]:
    known = {CONFIG, METADATA, WEIGHTS}
    unknown = [
        member.name
        for member in directory.members
        if member.name not in known and not member.name.startswith("assets/")
    ]
    if not unknown:
        return ()
    return (f"{len(unknown)} members that Keras does not write, the first {unknown[0]!r}",)


class _RebuiltArchive:
    """A copy whose weights are changed in a file of their own, and packed again."""

    def __init__(self, archive: KerasArchive, target: Target) -> None:
        self._archive = archive
        self._target = target
        self._fd = target.create(archive.path.name, archive.sources[0].size)
        self._unpacked = (
            archive.sources[1].duplicate()
            if len(archive.sources) > 1
            else inflate_to_file(archive.sources[0], [archive.weights])
        )
        weakref.finalize(self, self._unpacked.close)
        self._scratch = ScratchFile(target.path)
        weights = Hdf5Checkpoint(self._unpacked)
        self._tensors = weights.tensors
        self._weights = weights.copy_to(self._scratch)
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
        """See `StoredCopy.files`; the target closes it."""
        return (Source.from_fd(self._fd, self._target.path),)

    @property
    def written(self) -> AbstractSet[int]:
        """See `StoredCopy.written`."""
        return {0} if self._changed else set()

    def finish(self) -> None:
        """See `StoredCopy.finish`; members other than the weights are copied as they are packed.

        Raises:
            NotWrittenError: the archive cannot be written, or would need zip64 fields.
        """
        self._weights.finish()
        self._weights.compare(jobs=1)
        with writing(self._target.path):
            self._write_archive()

    def flush(self) -> None:
        """See `StoredCopy.flush`."""
        size = os.fstat(self._fd).st_size
        self._archive.sources[0].tell("flushing", 0)
        with writing(self._target.path):
            os.fsync(self._fd)
        self._archive.sources[0].tell("flushing", size)

    def compare(self, jobs: int) -> None:
        """Nothing is left to compare: the weights were, before they were packed again."""

    def _write_archive(self) -> None:
        source = self._archive.sources[0]
        if self._changed:
            weights = Source.from_fd(self._scratch.fd, self._target.path)
            blocks = weights.blocks(0, weights.size)
            replace_member(source, self._archive.directory, self._archive.weights, blocks, self._fd)
        else:
            copy_bytes(source, self._fd)

    def reopen(self) -> Checkpoint:
        """See `StoredCopy.reopen`."""
        source = Source.from_fd(os.dup(self._fd), self._target.path)
        return KerasArchive(source, self._archive.limits)


def open_keras_directory(path: Path, *, follow_symlinks: bool = False) -> Checkpoint:
    """Open a directory with ``config.json``, ``model.weights.h5`` and perhaps ``metadata.json``.

    Raises:
        RefusedError: a file is a symbolic link (unless those are followed), or has two readings.
        UnreadableError: a file is missing or damaged.
    """
    names = [WEIGHTS, CONFIG]
    listed = path.files() if isinstance(path, RemotePath) else None
    there = os.path.lexists(path / METADATA) if listed is None else METADATA in listed
    names += [METADATA] if there else []
    with open_all((path / n for n in names), follow_symlinks=follow_symlinks) as files:
        return KerasDirectory(path, files)


class KerasDirectory(Checkpoint):
    """A directory.

    `files` are the weights, the config and, where there is one, the metadata.
    """

    format = "keras-directory"
    several_files = True

    def __init__(self, path: Path, files: Sequence[Source]) -> None:
        self.path = path
        self.folder = path
        self.sources = (files[0],)
        self._documents = tuple(files[1:])
        config = read_document(files[1], CONFIG)
        metadata = read_document(files[2], METADATA) if len(files) > 2 else None
        description = describe_hdf5(files[0])
        self.keras = join_documents(path, description.keras, config, metadata)
        self.tensors = description.tensors
        self.notes = description.notes
        self.isolation = description.isolation

    @property
    def files(self) -> tuple[Source, ...]:
        """The weights, the config and the metadata."""
        return (*self.sources, *self._documents)

    def copy_to(self, target: Target) -> StoredCopy:
        """Copy the weights and the documents; see `Checkpoint.copy_to`."""
        from ckptclamp.checkpoints.formats.hdf5.copying import Hdf5Copy

        known = list(zip((WEIGHTS, CONFIG, METADATA), self.files, strict=False))
        return Hdf5Copy(known, target, reopen=lambda files: KerasDirectory(target.path, files))
