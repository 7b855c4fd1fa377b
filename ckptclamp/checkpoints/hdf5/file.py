"""HDF5 checkpoints: described by a worker, checked here, and read by `pread`."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptclamp.checkpoints.checkpoint import Checkpoint, Copy, Target
from ckptclamp.checkpoints.documents import parse_document
from ckptclamp.checkpoints.hdf5 import sandbox
from ckptclamp.checkpoints.hdf5.answer import Answer, Place
from ckptclamp.checkpoints.tensor import KerasLayout, KerasModel, Tensor
from ckptclamp.errors import NotACheckpointError, RefusedError, UnreadableError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptclamp.checkpoints.source import Source


SIGNATURE = b"\x89HDF\r\n\x1a\n"

_ZIP_END = b"PK\x05\x06"
_ZIP_TAIL = 22 + 0xFFFF
_MAX_NOTES = 20
_SECONDS = 8.0
_SECONDS_PER_MIB = 1.0
_MOST_SECONDS = 300.0

_V3_ROOTS = ("layers/", "_layer_checkpoint_dependencies/")


class Hdf5Checkpoint(Checkpoint):
    """One HDF5 file: Keras' legacy or v3 layout, or any file of numeric datasets.

    Raises what `describe_hdf5` raises.
    """

    def __init__(self, source: Source) -> None:
        description = describe_hdf5(source)
        self.path = source.path
        self.format = _format_name(description.keras)
        self.sources = (source,)
        self.tensors = description.tensors
        self.notes = description.notes
        self.keras = description.keras
        self.isolation = description.isolation

    def copy_to(self, target: Target) -> Copy:
        """See `Checkpoint.copy_to`; compressed chunks may move inside the copy."""
        from ckptclamp.checkpoints.hdf5.copying import Hdf5Copy

        return Hdf5Copy(
            [(self.path.name, self.sources[0])],
            target,
            reopen=lambda files: Hdf5Checkpoint(files[0]),
        )


@dataclass(frozen=True, slots=True)
class Hdf5Description:
    """One HDF5 file as it was described and checked; offsets are those of the source."""

    tensors: Mapping[str, Tensor]
    keras: KerasModel | None
    notes: tuple[str, ...]
    isolation: tuple[str, ...]


def describe_hdf5(source: Source, place: Place | None = None) -> Hdf5Description:
    """Describe the HDF5 file that fills `source`, or the part of it that `place` names.

    Raises:
        NotACheckpointError: it does not begin as HDF5 does.
        RefusedError: it reaches outside itself, has two readings, or declares too much.
        UnreadableError: the HDF5 library cannot read it, crashes or stalls on it.
    """
    place = place or Place(0, 0, source.size)
    notes = _check_superblock(source, place)
    seconds = min(_SECONDS + _SECONDS_PER_MIB * (place.length >> 20), _MOST_SECONDS)
    task = sandbox.Task("describe", source.fd, source.path, place.offset, place.length, seconds)
    answer = Answer(sandbox.run(task), source.path, place)
    model = _keras_model(answer)
    tensors = answer.tensors()
    return Hdf5Description(
        tensors=model.named(tensors) if model else tensors,
        keras=model,
        notes=(*notes, *_notes(answer, tensors)),
        isolation=answer.texts("isolation", answer.fields.get("isolation", [])),
    )


def _notes(answer: Answer, tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Name the second names: of groups, and of tensors."""
    aliases = answer.texts("group_aliases", answer.fields.get("group_aliases", []))
    groups = [f"{name!r} is a second name of a group" for name in aliases]
    datasets = [
        f"{alias!r} is a second name of {name!r}: it is judged, and changed, once"
        for name, tensor in tensors.items()
        for alias in tensor.aliases
    ]
    notes = (*groups, *datasets)
    more = len(notes) - _MAX_NOTES
    return (*notes[:_MAX_NOTES], f"and {more} second names more") if more > 0 else notes


def _check_superblock(source: Source, place: Place) -> tuple[str, ...]:
    """Refuse what has two readings; return a note about bytes that have none."""
    head = source.read_at(place.offset, min(2048 + len(SIGNATURE), place.length))
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
    if end > place.length:
        raise UnreadableError(
            f"is truncated: {place.length} of {end} bytes are there", path=source.path
        )
    return _after(source, place, place.length - end)


def _after(source: Source, place: Place, extra: int) -> tuple[str, ...]:
    """Readers of HDF5 ignore what follows its end; readers of zip archives begin there."""
    if extra == 0:
        return ()
    looked_at = min(extra, _ZIP_TAIL)
    tail = source.read_at(place.offset + place.length - looked_at, looked_at)
    if _ZIP_END in tail:
        raise RefusedError("is an HDF5 file and a zip archive at once", path=source.path)
    return (f"{extra} bytes follow its HDF5 part and belong to no tensor",)


def _keras_model(answer: Answer) -> KerasModel | None:
    """Return what the file says of its model; ``None`` if Keras did not write it.

    Raises:
        RefusedError: it could be read as a file of either layout.
    """
    facts = answer.fields.get("keras")
    if not isinstance(facts, dict):
        answer.refuse("the HDF5 worker's answer makes no sense")
    texts = {name: value for name, value in facts.items() if isinstance(value, str)}
    version, backend = texts.get("keras_version"), texts.get("backend")
    group_names = {
        str(path).removesuffix("vars").removesuffix("/"): name if isinstance(name, str) else None
        for path, name in answer.pairs("groups", answer.fields.get("variables"))
    }
    if "layer_names" not in facts and "model_config" not in texts:
        model = KerasModel(KerasLayout.V3, version, backend, group_names=group_names)
        return model if group_names else None
    layer_names = answer.texts("names", facts.get("layer_names", []))
    if any(group.startswith(_V3_ROOTS) for group in group_names) and "layers" not in layer_names:
        answer.refuse("is laid out both as a legacy file and as one of Keras 3")
    config = None
    if "model_config" in texts:
        config = parse_document(texts["model_config"].encode(), "model_config", answer.path)
    return KerasModel(
        KerasLayout.LEGACY,
        version,
        backend,
        config=config,
        weights_root=texts.get("weights_root", ""),
        layer_names=layer_names,
        weight_names={
            str(layer): answer.texts("names", weights)
            for layer, weights in answer.pairs("names", facts.get("weight_names", []))
        },
    )


def _format_name(model: KerasModel | None) -> str:
    """Return the name of the format of an HDF5 file of its own."""
    if model is None:
        return "hdf5"
    if model.layout is KerasLayout.V3:
        return "keras-weights-h5"
    return "keras-h5" if model.weights_root or model.config is not None else "keras-h5-weights"
