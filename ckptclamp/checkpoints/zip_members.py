"""The unpacked bytes of a zip archive's member: in blocks of bounded size, checked to the end."""

from __future__ import annotations

import os
import zlib
from typing import TYPE_CHECKING

from ckptclamp.checkpoints.checksums import crc32_of
from ckptclamp.checkpoints.scratch import ScratchFile
from ckptclamp.checkpoints.source import Source
from ckptclamp.checkpoints.zip_directory import STORED
from ckptclamp.errors import NotWrittenError, UnreadableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptclamp.checkpoints.zip_directory import Member

_BLOCK = 1 << 20


def member_blocks(source: Source, member: Member) -> Iterator[bytes]:
    """Yield the unpacked bytes of a member in blocks of bounded size, and check them at the end.

    Raises:
        UnreadableError: they do not unpack, or their length or checksum is not what was announced.
    """
    crc = done = 0
    for block in _unpacked(source, member):
        crc = zlib.crc32(block, crc)
        done += len(block)
        if done > member.size:
            break
        yield block
    if done != member.size:
        _damaged(source, member, "its length is not what the archive says")
    if crc != member.crc:
        _damaged(source, member, "its bytes do not match their checksum")


def verify_member(source: Source, member: Member) -> None:
    """Compare a member's length and checksum with its bytes; raises as `member_blocks` does."""
    if member.method != STORED:
        for _ in member_blocks(source, member):
            pass
        return
    if member.stored != member.size:
        _damaged(source, member, "its length is not what the archive says")
    if crc32_of(source, member.data, member.stored) != member.crc:
        _damaged(source, member, "its bytes do not match their checksum")


def _unpacked(source: Source, member: Member) -> Iterator[bytes]:
    packed = (
        source.read_at(member.data + at, min(_BLOCK, member.stored - at))
        for at in range(0, member.stored, _BLOCK)
    )
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


def inflate_to_file(source: Source, member: Member) -> Source:
    """Unpack a member into a file without a name, and return that as a source.

    Raises:
        UnreadableError: it is damaged, or there is no room for it.
    """
    try:
        scratch = ScratchFile(source.path)
        done = 0
        for block in member_blocks(source, member):
            scratch.put(block, done)
            done += len(block)
    except NotWrittenError as error:
        raise UnreadableError(
            f"cannot be inflated: {error.message}",
            path=source.path,
            tensor=member.name,
            hint=error.hint,
        ) from error
    return Source.from_fd(os.dup(scratch.fd), source.path)
