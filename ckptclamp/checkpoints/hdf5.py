"""HDF5 checkpoints: described by a worker, checked here, and read by `pread`."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckptclamp.checkpoints import hdf5_keras, worker_process
from ckptclamp.checkpoints.checkpoint import Checkpoint
from ckptclamp.checkpoints.hdf5_answer import Answer, Extent
from ckptclamp.checkpoints.hdf5_rewrite import Hdf5Copy
from ckptclamp.checkpoints.reading import read_box
from ckptclamp.errors import NotACheckpointError, RefusedError, UnreadableError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from ckptclamp.checkpoints.checkpoint import Copy, Target
    from ckptclamp.checkpoints.description import Box, KerasModel, Producer, Tensor
    from ckptclamp.checkpoints.source import Source

SIGNATURE = b"\x89HDF\r\n\x1a\n"

_ZIP_END = b"PK\x05\x06"
_ZIP_TAIL = 22 + 0xFFFF
_MAX_NOTES = 20
_SECONDS = 8.0
_SECONDS_PER_MIB = 1.0
_MOST_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Hdf5Description:
    """One HDF5 file as it was described and checked; offsets are those of the source."""

    tensors: Mapping[str, Tensor]
    keras: KerasModel | None
    notes: tuple[str, ...]
    isolation: tuple[str, ...]

    @property
    def producer(self) -> Producer | None:
        """Who wrote the file, as far as it says."""
        return hdf5_keras.producer(self.keras)


def describe_hdf5(source: Source, extent: Extent | None = None) -> Hdf5Description:
    """Describe the HDF5 file that fills `source`, or the part of it that `extent` names.

    Raises:
        NotACheckpointError: it does not begin as HDF5 does.
        RefusedError: it reaches outside itself, has two readings, or declares too much.
        UnreadableError: the HDF5 library cannot read it, crashes or stalls on it.
    """
    extent = extent or Extent(0, 0, source.size)
    notes = _check_superblock(source, extent)
    seconds = min(_SECONDS + _SECONDS_PER_MIB * (extent.length >> 20), _MOST_SECONDS)
    place = (source.fd, source.path, extent.offset, extent.length)
    task = worker_process.Task("describe", *place, seconds)
    answer = Answer(worker_process.run(task), source.path, extent)
    model = hdf5_keras.keras_model(answer)
    tensors = answer.tensors()
    return Hdf5Description(
        tensors=hdf5_keras.with_roles(tensors, model),
        keras=model,
        notes=(*notes, *_notes(answer, tensors)),
        isolation=answer.texts("isolation"),
    )


def open_hdf5(source: Source) -> Checkpoint:
    """Open an HDF5 file: Keras' legacy or v3 layout, or any file of numeric datasets.

    Raises what `describe_hdf5` raises.
    """
    return Hdf5Checkpoint(source, describe_hdf5(source))


class Hdf5Checkpoint(Checkpoint):
    """One HDF5 file."""

    def __init__(self, source: Source, description: Hdf5Description) -> None:
        self.path = source.path
        self.format = hdf5_keras.format_name(description.keras)
        self.sources = (source,)
        self.tensors = description.tensors
        self.notes = description.notes
        self.producer = description.producer
        self.keras = description.keras
        self.isolation = description.isolation

    def read(self, tensor: Tensor, box: Box, buffer: memoryview | None = None) -> NDArray[Any]:
        """See `Checkpoint.read`."""
        return read_box(self.sources, tensor, box, buffer)

    def copy_to(self, target: Target) -> Copy:
        """See `Checkpoint.copy_to`; compressed chunks may move inside the copy."""
        return Hdf5Copy(
            [(self.path.name, self.sources[0])],
            target,
            reopen=lambda copies: open_hdf5(copies[0]),
            describe=lambda sources: describe_hdf5(sources[0]).tensors,
        )


def _notes(answer: Answer, tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Tell of second names: of groups, and of tensors."""
    groups = [f"{name!r} is a second name of a group" for name in answer.texts("group_aliases")]
    datasets = [
        f"{alias!r} is a second name of {name!r}: it is judged, and changed, once"
        for name, tensor in tensors.items()
        for alias in tensor.aliases
    ]
    notes = (*groups, *datasets)
    more = len(notes) - _MAX_NOTES
    return (*notes[:_MAX_NOTES], f"and {more} second names more") if more > 0 else notes


def _check_superblock(source: Source, extent: Extent) -> tuple[str, ...]:
    """Refuse what has two readings; return a note about bytes that have none."""
    head = source.read_at(extent.offset, min(2048 + len(SIGNATURE), extent.length))
    if not head.startswith(SIGNATURE):
        if any(head.startswith(SIGNATURE, start) for start in (512, 1024, 2048)):
            raise RefusedError("holds a user block before its HDF5 part", path=source.path)
        raise NotACheckpointError("does not begin as an HDF5 file does", path=source.path)
    base_at = {0: 24, 1: 28, 2: 12, 3: 12}.get(head[8] if len(head) > 8 else -1)
    if base_at is None or len(head) < base_at + 24:
        raise UnreadableError("its HDF5 superblock is damaged", path=source.path)
    if head[13 if base_at >= 24 else 9] != 8:
        raise RefusedError("its HDF5 offsets are not 8 bytes wide", path=source.path)
    if head[8] == 3 and head[11] & 0b101:
        raise UnreadableError(
            "was not closed by the program that wrote it", path=source.path, hint="run h5clear -s"
        )
    base, _, end = struct.unpack_from("<QQQ", head, base_at)
    if base != 0:
        raise RefusedError("holds a user block before its HDF5 part", path=source.path)
    if end > extent.length:
        raise UnreadableError(
            f"is truncated: {extent.length} of {end} bytes are there", path=source.path
        )
    return _after(source, extent, extent.length - end)


def _after(source: Source, extent: Extent, extra: int) -> tuple[str, ...]:
    """Readers of HDF5 ignore what follows its end; readers of zip archives begin there."""
    if extra == 0:
        return ()
    looked_at = min(extra, _ZIP_TAIL)
    tail = source.read_at(extent.offset + extent.length - looked_at, looked_at)
    if _ZIP_END in tail:
        raise RefusedError("is an HDF5 file and a zip archive at once", path=source.path)
    return (f"{extra} bytes follow its HDF5 part and belong to no tensor",)
