"""HDF5 checkpoints: described by a worker, which is not believed, and read by `pread`.

The worker has read a file that may have taken it over. So every field of its answer is looked at
again: types, ranges, products in exact integers, extents inside the file and apart from each other.
"""

from __future__ import annotations

import math
import struct
from dataclasses import replace
from itertools import pairwise
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Never
from unicodedata import normalize

from ckptclamp.checkpoints.checkpoint import Checkpoint, StoredCopy, Target
from ckptclamp.checkpoints.documents import keras_named, parse_document
from ckptclamp.checkpoints.dtypes import DTYPES, StorageDType
from ckptclamp.checkpoints.formats.hdf5.ranges import describe
from ckptclamp.checkpoints.tensor import (
    Chunk,
    Chunked,
    Constant,
    Contiguous,
    KerasLayout,
    KerasModel,
    Storage,
    Tensor,
    Unreadable,
)
from ckptclamp.errors import NotACheckpointError, RefusedError, UnreadableError
from ckptclamp.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ckptclamp.checkpoints.source import Source

_SIGNATURE = b"\x89HDF\r\n\x1a\n"

_ZIP_END = b"PK\x05\x06"
_ZIP_TAIL = 22 + 0xFFFF
_MAX_NOTES = 20
_SECONDS, _MOST_SECONDS = 8.0, 300.0
"""What a worker may take: one more for each MiB, up to the most."""

_V3_ROOTS = ("layers/", "_layer_checkpoint_dependencies/")
_MAX_RANK = 32
_MAX_SIZE = 1 << 63
_MAX_CHUNK_BYTES = 256 << 20
_FILTERS = frozenset({"shuffle", "deflate", "fletcher32", "lzf"})
_SMALLEST_SUPERBLOCK = 48


@frozen
class Place:
    """Where an HDF5 file lies: in source number `source`, `length` bytes from `offset` on."""

    source: int
    offset: int
    length: int


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

    def copy_to(self, target: Target) -> StoredCopy:
        """See `Checkpoint.copy_to`; compressed chunks may move inside the copy."""
        from ckptclamp.checkpoints.formats.hdf5.copying import Hdf5Copy

        return Hdf5Copy(
            [(self.path.name, self.sources[0])],
            target,
            reopen=lambda files: Hdf5Checkpoint(files[0]),
        )


@frozen
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
    seconds = min(_SECONDS + (place.length >> 20), _MOST_SECONDS)
    described = describe(source, place.offset, place.length, seconds)
    answer = Answer(described, source.path, place)
    model = _keras_model(answer)
    tensors = answer.tensors()
    return Hdf5Description(
        tensors=keras_named(tensors, model) if model else tensors,
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
    head = source.read_at(place.offset, min(2048 + len(_SIGNATURE), place.length))
    if not head.startswith(_SIGNATURE):
        if any(head.startswith(_SIGNATURE, start) for start in (512, 1024, 2048)):
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


class _Fields:
    """Fields of a worker's answer, of which those that make no sense raise `RefusedError`.

    They are about the file at `path`, or about the tensor `name` in it; `place` is where it lies.
    """

    def __init__(self, fields: dict[str, Any], path: Path, place: Place, name: str = "") -> None:
        self.fields = fields
        self.path = path
        self.place = place
        self.name = name

    def refuse(self, message: str, tensor: str | None = None) -> Never:
        """Raise `RefusedError` about the file, or about one tensor in it."""
        raise RefusedError(message, path=self.path, tensor=tensor or self.name or None)

    def check(self, what: str, sound: bool) -> None:
        """Refuse `what`, a plural, unless it is `sound`."""
        if not sound:
            self.refuse(f"the HDF5 worker's {what} make no sense")

    def texts(self, what: str, values: Any) -> tuple[str, ...]:  # noqa: ANN401 - untrusted JSON
        """Return `values` if they are a list of strings; `what` names them in messages."""
        self.check(what, isinstance(values, list) and all(isinstance(v, str) for v in values))
        return tuple(values)

    def pairs(self, what: str, rows: Any) -> list[list[Any]]:  # noqa: ANN401 - untrusted JSON
        """Return `rows` if they are a list of lists of two."""
        sound = isinstance(rows, list) and all(isinstance(r, list) and len(r) == 2 for r in rows)
        self.check(what, sound)
        return list(rows)

    def naturals(self, what: str, values: Any, most: int) -> tuple[int, ...]:  # noqa: ANN401 - untrusted JSON
        """Return `values` if they are at most `most` integers from 0 on; booleans are none."""
        self.check(what, isinstance(values, list) and len(values) <= most)
        if values:
            integers = set(map(type, values)) == {int}
            self.check(what, integers and 0 <= min(values) <= max(values) < _MAX_SIZE)
        return tuple(values)


class Answer(_Fields):
    """A worker's answer about a file; what reaches outside of it raises `RefusedError`, too."""

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor by name, with offsets from the start of the source."""
        rows = self.fields.get("datasets")
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            self.refuse("the HDF5 worker's datasets make no sense")
        names = self.texts("names", [row.get("name") for row in rows])
        self.check("names", "" not in names)
        parsed = [
            _Row(row, self.path, self.place, name).tensor()
            for row, name in zip(rows, names, strict=True)
        ]
        self._refuse_duplicates([name for t in parsed for name in (t.name, *t.aliases)])
        spans = [(*extent, tensor.name) for tensor in parsed for extent in tensor.extents]
        self._refuse_overlaps(sorted(spans))
        return {tensor.name: tensor for tensor in parsed}

    def _refuse_duplicates(self, names: list[str]) -> None:
        seen: set[str] = set()
        for name in names:
            shown = normalize("NFC", name)
            if shown in seen:
                self.refuse("two names look the same", tensor=name)
            seen.add(shown)

    def _refuse_overlaps(self, spans: list[tuple[int, int, str]]) -> None:
        """Refuse bytes, from start to stop in the source, that no tensor can have alone."""
        first = self.place.offset + _SMALLEST_SUPERBLOCK
        last = self.place.offset + self.place.length
        for start, stop, name in spans:
            if start < first or stop > last:
                self.refuse("its bytes lie outside the file", tensor=name)
        for (_, stop, one), (start, _, other) in pairwise(spans):
            if start < stop:
                self.refuse(f"shares its bytes with {one!r}", tensor=other)


class _Row(_Fields):
    """One dataset of the answer."""

    def tensor(self) -> Tensor:
        shape = self.naturals("shapes", self.fields.get("shape"), _MAX_RANK)
        aliases = self.texts("aliases", self.fields.get("aliases", []))
        reason = self.fields.get("reason")
        if isinstance(reason, str):
            label = str(self.fields.get("label", ""))
            return Tensor(self.name, shape, None, Unreadable(reason), aliases, dtype_name=label)
        dtype = self.dtype()
        tensor = Tensor(self.name, shape, dtype, Unreadable(""), aliases)
        return replace(tensor, storage=self.storage(tensor, dtype), dtype_name=dtype.name)

    def dtype(self) -> StorageDType:
        dtype = DTYPES.get(str(self.fields.get("dtype")))
        order = self.fields.get("order")
        if dtype is None or order not in ("<", ">"):
            self.refuse("the HDF5 worker's datatypes make no sense")
        return replace(dtype, byte_order=order)

    def storage(self, tensor: Tensor, dtype: StorageDType) -> Storage:
        layout = self.fields.get("layout")
        if layout == "chunked":
            return self.chunked(tensor, dtype)
        if layout == "constant":
            return Constant(self.place.source, self.fill(dtype))
        self.check("storage layouts", layout == "contiguous")
        place = [self.fields.get("offset"), self.fields.get("stored")]
        offset, stored = self.naturals("offsets and sizes", place, 2)
        if stored != tensor.nbytes:
            self.refuse("its stored size is not what its shape and datatype take")
        return Contiguous(self.place.source, self.place.offset + offset)

    def chunked(self, tensor: Tensor, dtype: StorageDType) -> Chunked | Unreadable:
        rank = len(tensor.shape)
        chunk_shape = self.naturals("chunk shapes", self.fields.get("chunk_shape"), rank)
        if len(chunk_shape) != rank or 0 in chunk_shape:
            self.refuse("its chunk shape does not fit its shape")
        if math.prod(chunk_shape) * dtype.itemsize > _MAX_CHUNK_BYTES:
            self.refuse(f"its chunks are larger than {_MAX_CHUNK_BYTES >> 20} MiB")
        filters, level = self.filters(dtype)
        chunks = self.chunks(tensor, chunk_shape, bool(filters))
        fill = self.fill(dtype)
        at_edge = any(n % step for n, step in zip(tensor.shape, chunk_shape, strict=True))
        if filters == ("shuffle",) and at_edge:
            # HDF5 can leave chunks at the edge unfiltered without saying so in their filter mask;
            # any other filter notices.
            return Unreadable("is shuffled but not compressed, so chunks at its edge are ambiguous")
        return Chunked(self.place.source, chunk_shape, filters, chunks, fill, deflate_level=level)

    def chunks(
        self, tensor: Tensor, chunk_shape: tuple[int, ...], filtered: bool
    ) -> tuple[Chunk, ...]:
        """The stored chunks. A file may list a million, so they come as one flat list of numbers, for
        each chunk its start, offset, size and filter mask, and are checked column by column.
        """
        rank = len(chunk_shape)
        values = self.naturals("chunks", self.fields.get("chunks"), _MAX_SIZE)
        self.check("chunks", len(values) % (rank + 3) == 0)
        starts = [values[at : at + rank] for at in range(0, len(values), rank + 3)]
        *axes, offsets, sizes, masks = (values[at :: rank + 3] for at in range(rank + 3))
        outside = any(
            any(start % step or start >= stop for start in axis)
            for axis, step, stop in zip(axes, chunk_shape, tensor.shape, strict=True)
        )
        if outside or 0 in sizes:
            self.refuse("a chunk lies outside its shape, or is empty")
        if len(set(starts)) != len(starts):
            self.refuse("lists a chunk twice")
        whole = math.prod(chunk_shape) * (0 if tensor.dtype is None else tensor.dtype.itemsize)
        if not filtered and any(size != whole for size in sizes):
            self.refuse("a chunk's stored size is not what its shape takes")
        base = self.place.offset
        chunks = map(Chunk, starts, (base + offset for offset in offsets), sizes, masks)
        return tuple(sorted(chunks, key=attrgetter("start")))

    def filters(self, dtype: StorageDType) -> tuple[tuple[str, ...], int | None]:
        """The names of the filters in order, and the level of deflate; each came with its setting."""
        rows = self.pairs("filters", self.fields.get("filters"))
        names = tuple(str(name) for name, _ in rows)
        self.check("filters", _FILTERS.issuperset(names) and len(set(names)) == len(names))
        settings = dict(rows)
        if settings.get("shuffle", dtype.itemsize) != dtype.itemsize:
            # HDF5 unshuffles by this size, whatever the datatype says.
            self.refuse("its shuffle filter is set for elements of another size")
        level = settings.get("deflate")
        return names, None if level is None else min(*self.naturals("levels", [level], 1), 9)

    def fill(self, dtype: StorageDType) -> bytes:
        value = self.fields.get("fill")
        try:
            fill = bytes(dtype.itemsize) if value is None else bytes.fromhex(str(value))
        except ValueError:
            fill = b""
        self.check("fill values", len(fill) == dtype.itemsize)
        return fill
