"""NumPy's ``.npz``: a zip archive of ``.npy`` files, each one array behind a header.

The header is a Python literal (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html).
It is matched as NumPy writes it, never evaluated, and arrays of pickled objects are refused. Stored
members are read and patched in place; deflated ones are read from a file without a name.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Never

from ckptclamp.checkpoints.checkpoint import Checkpoint, StoredCopy, Target
from ckptclamp.checkpoints.dtypes import DTYPES, StorageDType
from ckptclamp.checkpoints.formats.safetensors import MAX_NAME_CHARACTERS, MAX_RANK
from ckptclamp.checkpoints.formats.zip.checksums import Checksums
from ckptclamp.checkpoints.formats.zip.directory import STORED, Member, read_directory
from ckptclamp.checkpoints.formats.zip.members import (
    PatchedArchive,
    check_unpacked,
    inflate_to_file,
    verify_members,
)
from ckptclamp.checkpoints.tensor import Contiguous, Storage, Tensor, Unreadable
from ckptclamp.errors import NotWrittenError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckptclamp.checkpoints.source import Limits, Source


ENDING = ".npy"

_MAGIC = b"\x93NUMPY"
_LENGTHS = {b"\x01\x00": "<H", b"\x02\x00": "<I", b"\x03\x00": "<I"}
"""How the length of the header is written, by the version of the format."""
_MAX_HEADER = 10_000
"""NumPy reads no longer one, unless it is told to."""
_HEADER = re.compile(
    rb"\{ *'descr': *(?P<descr>'[^'\\]{1,32}'|\[.*\]), *"
    rb"'fortran_order': *(?P<fortran>True|False), *"
    rb"'shape': *\((?P<shape>|N,|N(?:, *N)+,?)\) *,? *\} *\n".replace(
        b"N", rb"(?:0|[1-9][0-9]{0,18})"
    )
)
_OBJECT = re.compile(r"'[<>|=]?(?:O[48]?|object_?)'")
_DTYPES: dict[str, StorageDType] = {
    **{f"f{size}": DTYPES[f"float{8 * size}"] for size in (2, 4, 8)},
    **{f"i{size}": DTYPES[f"int{8 * size}"] for size in (1, 2, 4, 8)},
    **{f"u{size}": DTYPES[f"uint{8 * size}"] for size in (1, 2, 4, 8)},
    "b1": DTYPES["bool"],
    "c8": DTYPES["complex64"],
}


class NpzCheckpoint(Checkpoint):
    """One archive, `source`, which the checkpoint then owns; see `Checkpoint`.

    `sources` are the archive and, if a member is deflated, the file that all such were inflated into.

    Raises:
        NotACheckpointError: the archive is truncated.
        RefusedError: the archive or a header has two readings, costs more than `limits` allow, holds
            pickled objects or what is no array, or an array that is not as long as its header says.
        UnreadableError: a member is damaged.
    """

    format = "npz"

    def __init__(self, source: Source, limits: Limits) -> None:
        self.path = source.path
        self._limits = limits
        self._members = read_directory(source).members
        _check_names(source, self._members)
        check_unpacked(source, self._members, limits)
        packed = [member for member in self._members if member.method != STORED]
        self.sources = (source, inflate_to_file(source, packed)) if packed else (source,)
        try:
            described = [_describe(self.sources, *place) for place in _places(self._members)]
        except BaseException:
            for inflated in self.sources[1:]:
                inflated.close()
            raise
        self.tensors = {tensor.name: tensor for tensor in described}
        source.checksums = Checksums()

    @property
    def files(self) -> tuple[Source, ...]:
        """The archive."""
        return self.sources[:1]

    def check_copyable(self) -> None:
        """See `Checkpoint.check_copyable`; deflated members are not packed again."""
        if len(self.sources) > 1:
            raise NotWrittenError(
                "its arrays are deflated, and no copy is made of such an archive",
                path=self.path,
                hint="save it stored: numpy.savez('stored.npz', **numpy.load(FILE))",
            )

    def copy_to(self, target: Target) -> StoredCopy:
        """See `Checkpoint.copy_to`; the checksums of changed arrays are brought up to date."""
        self.check_copyable()
        limits, members = self._limits, {member.name: member for member in self._members}
        return PatchedArchive(
            self.sources[0],
            target,
            lambda copy: NpzCheckpoint(copy, limits),
            lambda tensor: members[tensor.name + ENDING],
        )

    def verify_integrity(self) -> None:
        """Compare the checksum of every member with its bytes."""
        verify_members(self.sources[0], self._members)


def _check_names(source: Source, members: Sequence[Member]) -> None:
    """Refuse what `numpy.load` would not give as one array by one name."""
    names = {member.name for member in members}
    for member in members:
        name = member.name.removesuffix(ENDING)
        if name == member.name:
            _refuse(source, member, f"is no {ENDING} file in an archive of such")
        if name in names:
            _refuse(source, member, f"{name!r} is a member, too, and either may be meant")
        if not 1 <= len(name) <= MAX_NAME_CHARACTERS:
            _refuse(source, member, f"its name has not 1 to {MAX_NAME_CHARACTERS} characters")


def _places(members: Sequence[Member]) -> Iterator[tuple[Member, int, int]]:
    """Yield each member with the source that it is read from, and where it begins there."""
    inflated = 0
    for member in members:
        if member.method == STORED:
            yield member, 0, member.data
        else:
            yield member, 1, inflated
            inflated += member.size


def _describe(sources: Sequence[Source], member: Member, number: int, start: int) -> Tensor:
    """Describe the array in one member from its header."""
    source = sources[number]
    header, length = _header(source, member, start)
    descr = header["descr"].decode("utf-8", "replace")
    if _OBJECT.search(descr):
        reason = "holds Python objects, which are pickled, and never unpickled here"
        _refuse(source, member, reason, "save the arrays of numbers alone")
    shape = tuple(int(extent) for extent in header["shape"].split(b",") if extent)
    if len(shape) > MAX_RANK:
        _refuse(source, member, f"has {len(shape)} axes; NumPy has at most {MAX_RANK}")
    dtype, room = _dtype(descr.strip("'")), member.size - length
    if dtype is not None and math.prod(shape) * dtype.itemsize != room:
        _refuse(source, member, f"{dtype} {list(shape)} does not fill {room} bytes")
    fortran = header["fortran"] == b"True" and sum(extent != 1 for extent in shape) > 1
    storage = _storage(dtype, descr, fortran, Contiguous(number, start + length))
    name = member.name.removesuffix(ENDING)
    return Tensor(name, shape, dtype, storage, dtype_name=descr.strip("'"))


def _header(source: Source, member: Member, start: int) -> tuple[dict[str, bytes], int]:
    """Return the parts of a header, and how many bytes lie before the array."""
    prefix = source.read_at(start, min(12, member.size))
    layout = _LENGTHS.get(prefix[6:8])
    if len(prefix) < 12 or not prefix.startswith(_MAGIC) or layout is None:
        _refuse(source, member, f"its content is no {ENDING} file of version 1 to 3")
    begin = 8 + struct.calcsize(layout)
    (length,) = struct.unpack_from(layout, prefix, 8)
    if length > min(_MAX_HEADER, member.size - begin):
        reason = f"announces a header of {length} bytes"
        _refuse(
            source, member, f"{reason}; it has {member.size}, and at most {_MAX_HEADER} are read"
        )
    found = _HEADER.fullmatch(source.read_at(start + begin, length))
    if found is None:
        _refuse(source, member, "its header is not as NumPy writes it", "save it with NumPy again")
    return found.groupdict(), begin + length


def _dtype(descr: str) -> StorageDType | None:
    """Return the dtype, or nothing where it is none of numbers, or leaves its byte order open."""
    order, dtype = descr[:1], _DTYPES.get(descr[1:])
    if dtype is None or order not in ("<>|" if dtype.itemsize == 1 else "<>"):
        return None
    return replace(dtype, byte_order=">") if order == ">" and dtype.itemsize > 1 else dtype


def _storage(dtype: StorageDType | None, descr: str, fortran: bool, place: Contiguous) -> Storage:
    if dtype is None:
        lost = re.fullmatch(r"'[<>|]V[12]'", descr)
        hint = "; bfloat16 and float8 lose their name in this format: save as safetensors"
        return Unreadable(f"the dtype {descr[:100]} cannot be read{hint if lost else ''}")
    if fortran:
        return Unreadable("it is stored in Fortran order: save numpy.ascontiguousarray of it")
    return place


def _refuse(source: Source, member: Member, reason: str, hint: str | None = None) -> Never:
    raise RefusedError(reason, path=source.path, tensor=member.name, hint=hint)
