"""Keras' ``.keras`` archive: a zip of two JSON documents, an HDF5 file of weights, and assets.

The weights of a stored member are read in place, at their offsets in the archive. A deflated member
is first inflated into a file without a name. Nothing is ever unpacked by name.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ckptclamp.checkpoints.checkpoint import Checkpoint
from ckptclamp.checkpoints.hdf5 import Hdf5Description, describe_hdf5
from ckptclamp.checkpoints.hdf5_answer import Extent
from ckptclamp.checkpoints.keras_archive_copy import copy_archive
from ckptclamp.checkpoints.keras_documents import (
    CONFIG,
    MAX_BYTES,
    METADATA,
    WEIGHTS,
    join_documents,
    parse_document,
)
from ckptclamp.checkpoints.limits import Limits
from ckptclamp.checkpoints.reading import read_box
from ckptclamp.checkpoints.zip_directory import STORED, Directory, Member, read_directory
from ckptclamp.checkpoints.zip_members import inflate_to_file, member_blocks, verify_member
from ckptclamp.errors import NotACheckpointError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from ckptclamp.checkpoints.checkpoint import Copy, Target
    from ckptclamp.checkpoints.description import Box, Tensor
    from ckptclamp.checkpoints.source import Source

_NPZ = "model.weights.npz"
_CONFIG_FLOOR = 1 << 20
_CONFIG_RATIO = 200


def open_keras_archive(source: Source, limits: Limits | None = None) -> Checkpoint:
    """Open a ``.keras`` archive of Keras 3, TF 2.12 to 2.15, or tf_keras.

    No member, nor all of them together, may unpack to more than `limits` allow.

    Raises:
        NotACheckpointError: the archive is none of Keras.
        RefusedError: the archive, its config or its weights have two readings or cost too much.
        UnreadableError: a member is damaged.
    """
    directory = read_directory(source)
    members = {member.name: member for member in directory.members}
    limits = limits or Limits()
    _check_members(source, members, limits)
    config = _document(source, members[CONFIG])
    metadata = _document(source, members[METADATA]) if METADATA in members else None
    weights = members[WEIGHTS]
    sources: tuple[Source, ...] = (source,)
    if weights.method == STORED:
        extent = Extent(0, weights.data, weights.stored)
    else:
        sources = (source, inflate_to_file(source, weights))
        extent = Extent(1, 0, weights.size)
    try:
        description = describe_hdf5(sources[-1], extent)
    except BaseException:
        for inflated in sources[1:]:
            inflated.close()
        raise
    model = join_documents(source.path, description.keras, config, metadata)
    return KerasArchive(sources, directory, weights, replace(description, keras=model), limits)


class KerasArchive(Checkpoint):
    """One ``.keras`` archive.

    `sources` are the archive and, if its weights are deflated, the file they were inflated into.
    """

    format = "keras-zip"

    def __init__(
        self,
        sources: tuple[Source, ...],
        directory: Directory,
        weights: Member,
        description: Hdf5Description,
        limits: Limits,
    ) -> None:
        self.path = sources[0].path
        self.sources = sources
        self.tensors = description.tensors
        self.notes = (*_strangers(directory), *description.notes)
        self.keras = description.keras
        self.producer = description.producer
        self.isolation = description.isolation
        self._directory = directory
        self._weights = weights
        self._limits = limits

    @property
    def files(self) -> tuple[Source, ...]:
        """The archive."""
        return self.sources[:1]

    def read(self, tensor: Tensor, box: Box, buffer: memoryview | None = None) -> NDArray[Any]:
        """See `Checkpoint.read`."""
        return read_box(self.sources, tensor, box, buffer)

    def copy_to(self, target: Target) -> Copy:
        """See `Checkpoint.copy_to`; the checksum of the weights is brought up to date."""
        reopen = partial(open_keras_archive, limits=self._limits)
        return copy_archive(self, self._directory, self._weights, target, reopen)

    def verify_integrity(self) -> None:
        """Compare the checksum of every member with its bytes."""
        for member in self._directory.members:
            verify_member(self.sources[0], member)


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
    packed = [member for member in members.values() if member.method != STORED]
    for member in packed:  # assets, too: their checksums are looked at
        limits.check_packed(source.path, member.stored, member.size, member.name)
    limits.check_packed(source.path, source.size, sum(member.size for member in packed))


def _document(source: Source, member: Member) -> dict[str, Any]:
    data = b"".join(member_blocks(source, member))
    return parse_document(data, member.name, source.path)


def _strangers(directory: Directory) -> tuple[str, ...]:
    known = {CONFIG, METADATA, WEIGHTS}
    strange = [
        member.name
        for member in directory.members
        if member.name not in known and not member.name.startswith("assets/")
    ]
    if not strange:
        return ()
    return (f"{len(strange)} members that Keras does not write, the first {strange[0]!r}",)
