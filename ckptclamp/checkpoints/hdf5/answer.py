"""Turns a worker's answer about an HDF5 file into a description, trusting none of it.

The worker has read a file that may have taken it over. So every field is looked at again: types,
ranges, products in exact integers, extents inside the file and apart from each other. What comes
out can be read by `pread` alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import Any, Never
from unicodedata import normalize

from ckptclamp.checkpoints.dtypes import DTYPES, StorageDType
from ckptclamp.checkpoints.tensor import (
    Chunk,
    Chunked,
    Constant,
    Contiguous,
    Storage,
    Tensor,
    Unreadable,
)
from ckptclamp.errors import RefusedError

_MAX_RANK = 32
_MAX_SIZE = 1 << 63
_MAX_CHUNK_BYTES = 256 << 20
_FILTERS = frozenset({"shuffle", "deflate", "fletcher32", "lzf"})
_SMALLEST_SUPERBLOCK = 48


@dataclass(frozen=True, slots=True)
class Place:
    """Where an HDF5 file lies: in source number `source`, `length` bytes from `offset` on."""

    source: int
    offset: int
    length: int


_Span = tuple[int, int, str]
"""Start and stop in bytes from the start of the source, and the tensor whose bytes they are."""


class Answer:
    """A worker's answer, field by field.

    `path` is the file in messages, `place` where the HDF5 file lies. What makes no sense, or
    reaches outside the file, raises `RefusedError`.
    """

    def __init__(self, fields: dict[str, Any], path: Path, place: Place) -> None:
        self.fields = fields
        self.path = path
        self.place = place

    def refuse(self, message: str, tensor: str | None = None) -> Never:
        """Raise `RefusedError` about the file, or about one tensor in it."""
        raise RefusedError(message, path=self.path, tensor=tensor)

    def texts(self, what: str, values: Any) -> tuple[str, ...]:  # noqa: ANN401 - untrusted JSON
        """Return `values` if they are a list of strings; `what` names them in messages."""
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            self.refuse(f"the HDF5 worker's {what} make no sense")
        return tuple(values)

    def pairs(self, what: str, rows: Any) -> list[list[Any]]:  # noqa: ANN401 - untrusted JSON
        """Return `rows` if they are a list of lists of two."""
        if not isinstance(rows, list) or not all(isinstance(r, list) and len(r) == 2 for r in rows):
            self.refuse(f"the HDF5 worker's {what} make no sense")
        return rows

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor by name, with offsets from the start of the source."""
        rows = self.fields.get("datasets")
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            self.refuse("the HDF5 worker's datasets make no sense")
        parsed = [_Row(self, row).tensor() for row in rows]
        tensors = {tensor.name: tensor for tensor in parsed}
        names = [name for tensor in parsed for name in (tensor.name, *tensor.aliases)]
        self._refuse_duplicates(names)
        spans = [(*extent, tensor.name) for tensor in parsed for extent in tensor.extents]
        self._refuse_overlaps(sorted(spans))
        return tensors

    def _refuse_duplicates(self, names: list[str]) -> None:
        if len({normalize("NFC", name) for name in names}) == len(names):
            return
        seen: set[str] = set()
        for name in names:
            if normalize("NFC", name) in seen:
                self.refuse("two names look the same", tensor=name)
            seen.add(normalize("NFC", name))

    def _refuse_overlaps(self, spans: list[_Span]) -> None:
        first = self.place.offset + _SMALLEST_SUPERBLOCK
        last = self.place.offset + self.place.length
        for start, stop, name in spans:
            if start < first or stop > last:
                self.refuse("its bytes lie outside the file", tensor=name)
        for (_, stop, one), (start, _, other) in pairwise(spans):
            if start < stop:
                self.refuse(f"shares its bytes with {one!r}", tensor=other)


class _Row:
    """One dataset of the answer."""

    def __init__(self, answer: Answer, row: dict[str, Any]) -> None:
        self.answer = answer
        self.row = row
        name = row.get("name")
        if not isinstance(name, str) or not name:
            answer.refuse("the HDF5 worker named a dataset without a name")
        self.name = name

    def refuse(self, message: str) -> Never:
        self.answer.refuse(message, tensor=self.name)

    def tensor(self) -> Tensor:
        shape = self.integers("shape", self.row.get("shape"), _MAX_RANK)
        aliases = self.row.get("aliases", [])
        if not isinstance(aliases, list) or not all(isinstance(alias, str) for alias in aliases):
            self.refuse("the HDF5 worker's aliases make no sense")
        reason = self.row.get("reason")
        if isinstance(reason, str):
            label = str(self.row.get("label", ""))
            storage = Unreadable(reason)
            return Tensor(self.name, shape, None, storage, tuple(aliases), dtype_name=label)
        dtype = self.dtype()
        tensor = Tensor(self.name, shape, dtype, Unreadable(""), tuple(aliases))
        return replace(tensor, storage=self.storage(tensor, dtype), dtype_name=dtype.name)

    def dtype(self) -> StorageDType:
        dtype = DTYPES.get(str(self.row.get("dtype")))
        order = self.row.get("order")
        if dtype is None or order not in ("<", ">"):
            self.refuse("the HDF5 worker's datatype makes no sense")
        return replace(dtype, byte_order=order)

    def storage(self, tensor: Tensor, dtype: StorageDType) -> Storage:
        layout = self.row.get("layout")
        if layout == "chunked":
            return self.chunked(tensor, dtype)
        if layout == "constant":
            return Constant(self.answer.place.source, self.fill(dtype))
        if layout != "contiguous":
            self.refuse("the HDF5 worker's storage layout makes no sense")
        if self.integer("stored size", self.row.get("stored")) != tensor.nbytes:
            self.refuse("its stored size is not what its shape and datatype take")
        offset = self.answer.place.offset + self.integer("offset", self.row.get("offset"))
        return Contiguous(self.answer.place.source, offset)

    def chunked(self, tensor: Tensor, dtype: StorageDType) -> Chunked | Unreadable:
        rank = len(tensor.shape)
        chunk_shape = self.integers("chunk shape", self.row.get("chunk_shape"), rank)
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
        return Chunked(
            self.answer.place.source, chunk_shape, filters, chunks, fill, deflate_level=level
        )

    def chunks(
        self, tensor: Tensor, chunk_shape: tuple[int, ...], filtered: bool
    ) -> tuple[Chunk, ...]:
        """The stored chunks. A file may list a million, so they come as one flat list of numbers, for
        each chunk its start, offset, size and filter mask, and are checked column by column.
        """
        rank, values = len(chunk_shape), self.row.get("chunks")
        if not isinstance(values, list) or len(values) % (rank + 3) or not _naturals(values):
            self.refuse("the HDF5 worker's chunks make no sense")
        starts = [tuple(values[at : at + rank]) for at in range(0, len(values), rank + 3)]
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
        base = self.answer.place.offset
        chunks = map(Chunk, starts, (base + offset for offset in offsets), sizes, masks)
        return tuple(sorted(chunks, key=attrgetter("start")))

    def filters(self, dtype: StorageDType) -> tuple[tuple[str, ...], int | None]:
        """The names of the filters in order, and the level of deflate; each came with its setting."""
        rows = self.row.get("filters")
        if not isinstance(rows, list) or not all(isinstance(r, list) and len(r) == 2 for r in rows):
            self.refuse("the HDF5 worker's filters make no sense")
        names = tuple(str(name) for name, _ in rows)
        if not _FILTERS.issuperset(names) or len(set(names)) != len(names):
            self.refuse("the HDF5 worker's filters make no sense")
        settings = dict(rows)
        if settings.get("shuffle", dtype.itemsize) != dtype.itemsize:
            # HDF5 unshuffles by this size, whatever the datatype says.
            self.refuse("its shuffle filter is set for elements of another size")
        level = settings.get("deflate")
        return names, None if level is None else min(self.integer("deflate level", level), 9)

    def fill(self, dtype: StorageDType) -> bytes:
        value = self.row.get("fill")
        try:
            fill = bytes(dtype.itemsize) if value is None else bytes.fromhex(str(value))
        except ValueError:
            fill = b""
        if len(fill) != dtype.itemsize:
            self.refuse("the HDF5 worker's fill value makes no sense")
        return fill

    def integer(self, what: str, value: Any) -> int:  # noqa: ANN401 - untrusted JSON
        if not _naturals([value]):
            self.refuse(f"the HDF5 worker's {what} makes no sense")
        return int(value)

    def integers(self, what: str, values: Any, most: int) -> tuple[int, ...]:  # noqa: ANN401 - untrusted JSON
        if not isinstance(values, list) or len(values) > most:
            self.refuse(f"the HDF5 worker's {what} makes no sense")
        return tuple(self.integer(what, value) for value in values)


def _naturals(values: list[Any]) -> bool:
    """Whether all are integers from 0 on of a size that HDF5 can mean; booleans are none."""
    return not values or (
        set(map(type, values)) == {int} and min(values) >= 0 and max(values) < _MAX_SIZE
    )
