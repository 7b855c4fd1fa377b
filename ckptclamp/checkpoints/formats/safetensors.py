"""A safetensors file, whose header is read strictly and as the reference library reads it.

The format: eight bytes of little-endian header length, a JSON object that may be padded with
spaces, then the tensors' bytes without gap or overlap (https://github.com/huggingface/safetensors).
The reference parser lets a name stand twice (the last one wins), white space lead and unknown
fields pass; here each of these is refused, for another reader could make another model of it.
"""

from __future__ import annotations

import hashlib
import math
import sys
from dataclasses import field
from typing import TYPE_CHECKING, Any, NamedTuple, Never

from ckptclamp import system
from ckptclamp.checkpoints.checkpoint import Checkpoint, StoredCopy, Target
from ckptclamp.checkpoints.documents import parse_strict
from ckptclamp.checkpoints.dtypes import DTYPES, PACKED_DTYPES, StorageDType
from ckptclamp.checkpoints.source import DEFAULT_HEADER_LIMIT, MAX_HEADER_BYTES, Source
from ckptclamp.checkpoints.tensor import Contiguous, Storage, Tensor, Unreadable
from ckptclamp.errors import RefusedError, UnreadableError
from ckptclamp.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from os import PathLike


MAX_NAME_CHARACTERS = 1024
MAX_RANK = 64
"""NumPy has no array of more axes."""

_DEPTH = 3
_LARGE = 1 << 20
"""Bytes of a header of which the library takes so much memory that it matters where it goes."""
_FIELDS = frozenset({"dtype", "shape", "data_offsets"})

_READABLE: dict[str, str] = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2": "float8_e5m2",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
    **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
    "BOOL": "bool",
    "C64": "complex64",
}
_PACKED: dict[str, str] = {
    "F4": "float4_e2m1fn",
    "F6_E2M3": "float6_e2m3fn",
    "F6_E3M2": "float6_e3m2fn",
}

_DTYPES: dict[str, StorageDType] = {
    **{name: DTYPES[known] for name, known in _READABLE.items()},
    **{name: PACKED_DTYPES[known] for name, known in _PACKED.items()},
}
DTYPE_BITS: dict[str, int] = {name: dtype.bits for name, dtype in _DTYPES.items()}
"""The width of one element, for every dtype of the format."""


class SafetensorsCheckpoint(Checkpoint):
    """A single safetensors file, `source`, which the checkpoint then owns; see `Checkpoint`.

    `header_limit` bounds the header in bytes, and so the memory that describing it takes.

    Raises:
        RefusedError: it is no valid safetensors file, or has more than one reading.
    """

    format = "safetensors"

    def __init__(self, source: Source, header_limit: int = DEFAULT_HEADER_LIMIT) -> None:
        header = read_header(source, header_limit)
        self.path = source.path
        self.sources = (source,)
        self.tensors = header.tensors
        self.metadata = header.metadata
        self._header_limit = header_limit

    def copy_to(self, target: Target) -> StoredCopy:
        """See `Checkpoint.copy_to`."""
        from ckptclamp.checkpoints.copying import FileCopy

        (source,) = self.sources
        limit = self._header_limit
        return FileCopy(
            [(source.path.name, source)],
            target,
            lambda sources: SafetensorsCheckpoint(sources[0], limit),
        )


@frozen
class Header:
    """What a header says: tensors in the order of their bytes, and free text.

    `extents` holds each tensor's (begin, end), in bytes from the start of the data.
    """

    tensors: Mapping[str, Tensor]
    extents: Mapping[str, tuple[int, int]]
    metadata: Mapping[str, str]


def read_header(source: Source, limit: int = DEFAULT_HEADER_LIMIT, number: int = 0) -> Header:
    """Read the header of `source`, the checkpoint's `number`; raises as `SafetensorsCheckpoint` does."""
    limit = min(limit, MAX_HEADER_BYTES)
    prefix = source.read_at(0, min(8, source.size))
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or length + 8 > source.size:
        raise RefusedError(
            f"the file is truncated: it has {source.size} bytes, and its header ends later",
            path=source.path,
        )
    if length > limit:
        raise RefusedError(
            f"the header is {length} bytes long; at most {limit} are read",
            path=source.path,
        )
    data = source.read_at(8, length)
    data_length = source.size - 8 - length
    # The library first: it takes as much memory as what is made of the header here, and lets go of it.
    theirs = _read_by_library([prefix, data], source)
    if length > _LARGE:
        system.return_memory()
    header = parse_header(data, data_length, limit=limit, path=source.path, number=number)
    if isinstance(theirs, Exception):
        reason = f"the safetensors library refuses it: {theirs}"
        raise RefusedError(reason, path=source.path) from theirs
    if theirs != _digest(_our_readings(header)):
        raise RefusedError("the safetensors library reads the header otherwise", path=source.path)
    return header


def parse_header(
    data: bytes, data_length: int, *, limit: int, path: str | PathLike[str], number: int = 0
) -> Header:
    """Describe a file whose header is `data` and which has `data_length` bytes after it.

    `number` is what the checkpoint calls it by among its sources.

    Raises:
        RefusedError: the header is no valid one, or has more than one reading.
    """
    return _HeaderParser(path, len(data), number).parse(data, data_length, limit)


class _Entry(NamedTuple):
    """What a header says of one tensor, if it is a tensor's."""

    dtype: str
    shape: tuple[int, ...]
    offsets: tuple[int, ...]


@frozen
class _HeaderParser:
    path: str | PathLike[str]
    header_bytes: int
    number: int
    shapes: dict[tuple[int, ...], tuple[int, ...]] = field(default_factory=dict)
    """One object for each shape: few differ, and there may be many tensors."""

    def parse(self, data: bytes, data_length: int, limit: int) -> Header:
        if data[:1] != b"{":
            self.refuse("the header does not begin with '{'")
        content = data.rstrip(b" ")
        if content[-1:] != b"}":
            self.refuse("the header does not end with '}' and spaces")
        entries: dict[str, Any] = parse_strict(
            content,
            max_depth=_DEPTH,
            max_bytes=limit,
            what="header",
            path=self.path,
            held_as=self.held,
        )
        if isinstance(entries, _Entry):  # three members, none of which is a tensor's
            self.refuse_entry("dtype", entries.dtype)
        metadata = self.metadata(entries.pop("__metadata__", {}))
        extents = {name: self.extent(name, entry) for name, entry in entries.items()}
        order = sorted(extents, key=extents.__getitem__)
        self.check_cover(order, extents, data_length)
        # There may be hundreds of thousands: each entry goes when its tensor is there.
        tensors = {name: self.tensor(name, entries.pop(name), extents[name]) for name in order}
        return Header(tensors, {name: extents[name] for name in order}, metadata)

    def refuse(self, reason: str, tensor: str | None = None) -> Never:
        raise RefusedError(reason, path=self.path, tensor=tensor)

    def held(self, value: dict[str, Any]) -> dict[str, Any] | _Entry:
        """An object of the header; what may be a tensor's takes a third of the memory."""
        dtype, shape, offsets = map(value.get, ("dtype", "shape", "data_offsets"))
        if len(value) != len(_FIELDS) or not isinstance(dtype, str):
            return value
        if not (isinstance(shape, list) and isinstance(offsets, list)):
            return value
        sizes = tuple(shape)
        if _is_sizes(sizes):  # 1.0 and true are equal to 1, and no sizes
            sizes = self.shapes.setdefault(sizes, sizes)
        return _Entry(sys.intern(dtype), sizes, tuple(offsets))

    def metadata(self, entry: object) -> dict[str, str]:
        if not isinstance(entry, dict) or not all(isinstance(v, str) for v in entry.values()):
            self.refuse("__metadata__ is not an object of strings")
        return entry

    def extent(self, name: str, entry: object) -> tuple[int, int]:
        """Check one entry's form and return its (begin, end)."""
        if not 1 <= len(name) <= MAX_NAME_CHARACTERS:
            self.refuse(
                f"a tensor's name has {len(name)} characters, not 1 to {MAX_NAME_CHARACTERS}"
            )
        if not isinstance(entry, _Entry):
            self.refuse_entry(name, entry)
        if not _is_sizes(entry.shape):
            self.refuse("shape is not a list of whole numbers", name)
        offsets = entry.offsets
        if not _is_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
            self.refuse("data_offsets is not [begin, end]", name)
        return offsets[0], offsets[1]

    def refuse_entry(self, name: str, entry: object) -> Never:
        """Say what keeps an entry from being a tensor's."""
        if not isinstance(entry, dict) or entry.keys() != _FIELDS:
            self.refuse("the entry does not hold just dtype, shape and data_offsets", name)
        if not isinstance(entry["dtype"], str):
            self.refuse("dtype is not a string", name)
        if not isinstance(entry["shape"], list):
            self.refuse("shape is not a list of whole numbers", name)
        self.refuse("data_offsets is not [begin, end]", name)

    def check_cover(
        self, order: list[str], extents: dict[str, tuple[int, int]], data_length: int
    ) -> None:
        """Refuse tensors that overlap, leave a gap, or do not end with the file."""
        position = 0
        for name in order:
            begin, end = extents[name]
            if begin != position:
                what = "overlaps the tensor before it" if begin < position else "leaves a gap"
                self.refuse(f"{what}: begins at byte {begin} of the data, not {position}", name)
            position = end
        if position != data_length:
            what = "truncated" if position > data_length else "longer than its header says"
            self.refuse(
                f"the file is {what}: the tensors take {position} bytes, "
                f"{data_length} follow the header"
            )

    def tensor(self, name: str, entry: _Entry, extent: tuple[int, int]) -> Tensor:
        shape, dtype_name = entry.shape, entry.dtype
        if dtype_name not in DTYPE_BITS:
            self.refuse(f"the dtype {dtype_name} is not of the format", name)
        length = extent[1] - extent[0]
        if math.prod(shape) * DTYPE_BITS[dtype_name] != length * 8:
            self.refuse(f"{dtype_name} {list(shape)} does not fill {length} bytes", name)
        begin = 8 + self.header_bytes + extent[0]
        storage = _storage(dtype_name, shape, self.number, begin)
        return Tensor(name, shape, _DTYPES[dtype_name], storage, dtype_name=dtype_name)


def _storage(dtype_name: str, shape: tuple[int, ...], number: int, offset: int) -> Storage:
    if dtype_name in _PACKED:
        return Unreadable(f"the dtype {dtype_name} cannot be read")
    if len(shape) > MAX_RANK:
        return Unreadable(f"it has {len(shape)} axes; at most {MAX_RANK} can be read")
    return Contiguous(number, offset)


def _is_sizes(value: object) -> bool:
    return isinstance(value, tuple) and all(type(item) is int and item >= 0 for item in value)


Reading = tuple[str, str, tuple[int, ...], int | None]
"""What one parser makes of a tensor: its name, dtype and shape, and where it begins if it has bytes."""


def _read_by_library(begin: Sequence[bytes], source: Source) -> bytes | Exception:
    """The digest of what the reference parser reads in a file that begins so, or what it refuses it by."""
    from safetensors import SafetensorError

    try:
        with system.hollow_file(begin, source.size) as path:
            return _digest(_library_readings(path))
    except OSError as error:
        reason = f"the header cannot be checked: {error.strerror or error}"
        hint = "set TMPDIR to a directory with room"
        raise UnreadableError(reason, path=source.path, hint=hint) from error
    except (SafetensorError, ValueError) as error:
        return error


def _digest(readings: Iterable[Reading]) -> bytes:
    """Stands for all of them, in the order of their bytes; those without bytes may stand anywhere."""
    empty: list[Reading] = []
    digest = hashlib.sha256()
    for reading in readings:
        if reading[-1] is None:
            empty.append(reading)
        else:
            digest.update(repr(reading).encode("utf-8", "surrogatepass"))
    for reading in sorted(empty):
        digest.update(repr(reading).encode("utf-8", "surrogatepass"))
    return digest.digest()


def _library_readings(path: str) -> Iterator[Reading]:
    """Read a header with the library, which tells the order of the tensors but no offsets.

    It has checked sizes and the absence of gaps, so a running sum gives each offset.
    """
    from safetensors import safe_open

    bits = 0
    with safe_open(path, framework="numpy") as file:
        for name in file.offset_keys():
            part = file.get_slice(name)
            dtype, shape = part.get_dtype(), tuple(part.get_shape())
            length = math.prod(shape) * DTYPE_BITS.get(dtype, 0)  # another one is refused here
            yield name, dtype, shape, bits // 8 if length else None
            bits += length


def _our_readings(header: Header) -> Iterator[Reading]:
    for name, tensor in header.tensors.items():
        begin, end = header.extents[name]
        yield name, tensor.dtype_name, tensor.shape, begin if end > begin else None
