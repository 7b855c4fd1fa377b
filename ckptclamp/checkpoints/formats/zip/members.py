"""The members of a zip archive: unpacked in blocks of bounded size and checked, or replaced."""

from __future__ import annotations

import os
import struct
import zlib
from typing import TYPE_CHECKING

from ckptclamp.checkpoints.copying import FileCopy, ScratchFile, writing
from ckptclamp.checkpoints.formats.zip.checksums import crc32, crc32_of
from ckptclamp.checkpoints.formats.zip.directory import (
    DEFLATED,
    FULL32,
    STORED,
    ZIP64_EXTRA,
    Directory,
    Member,
)
from ckptclamp.checkpoints.source import Source
from ckptclamp.errors import NotWrittenError, UnreadableError
from ckptclamp.system import write_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ckptclamp.checkpoints.checkpoint import Checkpoint, Target
    from ckptclamp.checkpoints.source import Limits
    from ckptclamp.checkpoints.tensor import Extent, Tensor


_BLOCK = 1 << 20
_LOCAL_FIXED, _CENTRAL_FIXED = 30, 46
_ZIP64_TAIL = 56 + 20


def member_blocks(source: Source, member: Member) -> Iterator[bytes]:
    """Yield the unpacked bytes of a member in blocks of bounded size, and check them at the end.

    Raises:
        UnreadableError: they do not unpack, or their length or checksum is not what was announced.
    """
    crc = done = 0
    for block in _unpacked(source, member):
        crc = crc32(block, crc)
        done += len(block)
        if done > member.size:
            break
        yield block
    if done != member.size:
        _damaged(source, member, "its length is not what the archive says")
    if crc != member.crc:
        _damaged(source, member, "its bytes do not match their checksum")


def verify_members(source: Source, members: Iterable[Member]) -> None:
    """Compare each member's length and checksum with its bytes; raises as `member_blocks` does.

    What `source` has remembered of checksums is forgotten then.
    """
    for member in members:
        _verify(source, member)
    source.checksums = None


def _verify(source: Source, member: Member) -> None:
    if member.method != STORED:
        for _ in member_blocks(source, member):
            pass
        return
    if member.stored != member.size:
        _damaged(source, member, "its length is not what the archive says")
    if crc32_of(source, member.data, member.stored) != member.crc:
        _damaged(source, member, "its bytes do not match their checksum")


def _unpacked(source: Source, member: Member) -> Iterator[bytes]:
    packed = source.blocks(member.data, member.stored)
    if member.method == STORED:
        yield from packed
        return
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        for block in packed:
            if inflater.eof:
                _damaged(source, member, "its deflated data end too early")
            yield inflater.decompress(block, _BLOCK)
            while inflater.unconsumed_tail:
                yield inflater.decompress(inflater.unconsumed_tail, _BLOCK)
        yield inflater.flush()
    except zlib.error as error:
        raise UnreadableError(
            f"cannot be inflated: {error}", path=source.path, tensor=member.name
        ) from error
    if not inflater.eof or inflater.unused_data:
        _damaged(source, member, "its deflated data end in the wrong place")


def _damaged(source: Source, member: Member, message: str) -> None:
    raise UnreadableError(
        message, path=source.path, tensor=member.name, hint="the archive is damaged"
    )


def check_unpacked(source: Source, members: Sequence[Member], limits: Limits) -> None:
    """Raise `RefusedError` if a deflated member, or all together, unpack to too much."""
    packed = [member for member in members if member.method != STORED]
    for member in packed:
        limits.check_packed(source.path, member.stored, member.size, member.name)
    limits.check_packed(source.path, source.size, sum(member.size for member in packed))


def inflate_to_file(source: Source, members: Sequence[Member]) -> Source:
    """Unpack members, one behind the other, into a file without a name; return that as a source.

    Raises:
        UnreadableError: one is damaged, or there is no room for them.
    """
    try:
        scratch = ScratchFile(source.path)
        done = 0
        for member in members:
            for block in member_blocks(source, member):
                scratch.put(block, done)
                done += len(block)
    except NotWrittenError as error:
        raise UnreadableError(
            f"cannot be inflated: {error.message}",
            path=source.path,
            tensor=members[0].name if len(members) == 1 else None,
            hint=error.hint,
        ) from error
    return Source.from_fd(os.dup(scratch.fd), source.path)


class PatchedArchive(FileCopy):
    """A copy of an archive whose weights are changed where they lie.

    `member_of` finds the stored member that holds a tensor; the other arguments are as in `FileCopy`.
    """

    def __init__(
        self,
        source: Source,
        target: Target,
        reopen: Callable[[Source], Checkpoint],
        member_of: Callable[[Tensor], Member],
    ) -> None:
        super().__init__([(source.path.name, source)], target, lambda copies: reopen(copies[0]))
        self._member_of = member_of

    def finish(self) -> None:
        """See `StoredCopy.finish`; a checksum is written in the places where the archive keeps it."""
        (copy,) = self.sources
        for member in self._changed_members():
            crc = struct.pack("<I", crc32_of(copy, member.data, member.stored))
            with writing(copy.path):
                for place in member.crc_places:
                    write_at(copy.fd, memoryview(crc), place)

    def may_differ(self, number: int) -> list[Extent]:
        """See `FileCopy.may_differ`; checksums may, too."""
        places = [place for member in self._changed_members() for place in member.crc_places]
        return [*super().may_differ(number), *((place, place + 4) for place in places)]

    def _changed_members(self) -> Sequence[Member]:
        return list(dict.fromkeys(self._member_of(tensor) for tensor in self.changed.values()))


def replace_member(
    source: Source, directory: Directory, member: Member, blocks: Iterator[bytes], fd: int
) -> None:
    """Write to `fd` the archive in `source`, with `blocks` for the unpacked content of `member`.

    Raises:
        NotWrittenError: the archive would need zip64 fields that it does not have.
        OSError: the system cannot write.
    """
    _copy(source, 0, member.data, fd, 0)
    crc, stored, size = _pack(member, blocks, fd)
    header = bytearray(source.read_at(member.header, member.data - member.header))
    if header[14:26] != bytes(12):  # else a data descriptor says it all
        struct.pack_into("<I", header, 14, crc)
        _patch(header, _LOCAL_FIXED, [(22, size), (18, stored)])
    write_at(fd, memoryview(header), member.header)
    old_end = member.data + member.stored
    descriptor = _descriptor(source.read_at(old_end, member.stop - old_end), crc, stored, size)
    write_at(fd, memoryview(descriptor), member.data + stored)
    stop = member.data + stored + len(descriptor)
    shift = stop - member.stop
    _copy(source, member.stop, directory.start - member.stop, fd, stop)
    entries = bytearray(source.read_at(directory.start, directory.stop - directory.start))
    for other in directory.members:
        if shift and other.header > member.header:
            values = [(24, other.size), (20, other.stored), (42, other.header + shift)]
            _patch_entry(entries, other.entry - directory.start, values)
    at = member.entry - directory.start
    struct.pack_into("<I", entries, at + 16, crc)
    _patch_entry(entries, at, [(24, size), (20, stored), (42, member.header)])
    tail = bytearray(source.read_at(directory.stop, source.size - directory.stop))
    _patch_tail(tail, directory.start + shift, directory.stop + shift)
    write_at(fd, memoryview(entries + tail), directory.start + shift)
    os.ftruncate(fd, source.size + shift)


def _copy(source: Source, start: int, length: int, fd: int, to: int) -> None:
    for block in source.blocks(start, length):
        write_at(fd, memoryview(block), to)
        to += len(block)


def _pack(member: Member, blocks: Iterator[bytes], fd: int) -> tuple[int, int, int]:
    """Write the packed content where the member's data begin; return checksum and both sizes."""
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS) if member.method == DEFLATED else None
    crc = stored = size = 0
    for block in blocks:
        crc = crc32(block, crc)
        size += len(block)
        packed = deflater.compress(block) if deflater else block
        write_at(fd, memoryview(packed), member.data + stored)
        stored += len(packed)
    rest = deflater.flush() if deflater else b""
    write_at(fd, memoryview(rest), member.data + stored)
    return crc, stored + len(rest), size


def _descriptor(old: bytes, crc: int, stored: int, size: int) -> bytes:
    """Return the data descriptor in the form that it had; nothing where there was none."""
    if not old:
        return b""
    signature = old[:4] if len(old) in (16, 24) else b""
    if len(old) in (20, 24):
        return signature + struct.pack("<I2Q", crc, stored, size)
    return signature + struct.pack("<3I", crc, _narrow(stored), _narrow(size))


def _patch_entry(entries: bytearray, at: int, values: list[tuple[int, int]]) -> None:
    """Patch the entry of the central directory that begins at `at`."""
    name_length, extra_length = struct.unpack_from("<2H", entries, at + 28)
    entry = entries[at : at + _CENTRAL_FIXED + name_length + extra_length]
    _patch(entry, _CENTRAL_FIXED, values)
    entries[at : at + len(entry)] = entry


def _patch(header: bytearray, fixed: int, values: list[tuple[int, int]]) -> None:
    """Put each value at its place, or where that is full, next into the zip64 extra field."""
    name_length, extra_length = struct.unpack_from("<2H", header, 26 if fixed == 30 else 28)
    extra = fixed + name_length
    wide = _zip64_field(header, extra, extra + extra_length)
    for place, value in values:
        if struct.unpack_from("<I", header, place)[0] == FULL32:
            struct.pack_into("<Q", header, wide, value)
            wide += 8
        else:
            struct.pack_into("<I", header, place, _narrow(value))


def _zip64_field(header: bytearray, at: int, stop: int) -> int:
    """Return where the numbers of the zip64 extra field begin; `stop` where there is none."""
    while stop - at >= 4:
        kind, length = struct.unpack_from("<2H", header, at)
        if kind == ZIP64_EXTRA:
            return at + 4
        at += 4 + length
    return stop


def _patch_tail(tail: bytearray, start: int, stop: int) -> None:
    """Put the new place of the directory into the end records."""
    end = 0
    if tail.startswith(b"PK\x06\x06"):
        struct.pack_into("<Q", tail, 48, start)
        struct.pack_into("<Q", tail, 56 + 8, stop)
        end = _ZIP64_TAIL
    if struct.unpack_from("<I", tail, end + 16)[0] != FULL32:
        struct.pack_into("<I", tail, end + 16, _narrow(start))


def _narrow(value: int) -> int:
    if value >= FULL32:
        raise NotWrittenError(
            "the archive would pass 4 GiB, and has no zip64 fields for that",
            hint="save the model again without compression",
        )
    return value
