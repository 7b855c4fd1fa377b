"""CRC-32, the checksum of zip archives: of parts of a file, and of what is read of it anyway."""

from __future__ import annotations

from bisect import bisect_left
from functools import cache, lru_cache
from typing import TYPE_CHECKING

from zlib_ng import zlib_ng

from ckptclamp.checkpoints.source import default_jobs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ckptclamp.checkpoints.source import Source

_BLOCK = 1 << 20
"""How much is read at once for its checksum alone."""
_PIECE = 32 << 20
"""How much of a file one thread takes the checksum of."""
_LEAST = 64 << 10
"""Of fewer bytes it costs more to remember the checksum than to read them again."""
_MOST = 1 << 16
"""How many checksums are remembered."""
_CRC32 = 0xEDB88320
"""The polynomial of CRC-32; the highest bit is the coefficient of x to the power 0."""


class Checksums:
    """The checksums of the bytes that were read of one file, whichever thread read them.

    The file must not change meanwhile, which `Source.verify_unchanged` tells.
    """

    def __init__(self) -> None:
        self._parts: dict[int, tuple[int, int]] = {}
        self._starts: list[int] = []

    def taken(
        self, read: Callable[[memoryview, int], None], buffer: memoryview, offset: int
    ) -> None:
        """Fill `buffer` from `offset` on by `read`, and remember the checksum, if that is worth it."""
        read(buffer, offset)
        if len(buffer) >= _LEAST and offset not in self._parts and len(self._parts) < _MOST:
            self._parts[offset] = len(buffer), crc32(buffer)

    def within(self, start: int, stop: int) -> Iterator[tuple[int, int, int | None]]:
        """Yield all from `start` to `stop` in pieces: offset, length, and the checksum if it is known."""
        if len(self._starts) != len(self._parts):
            self._starts = sorted(self._parts)
        at = start
        for place in range(bisect_left(self._starts, start), len(self._starts)):
            offset = self._starts[place]
            length, crc = self._parts[offset]
            if offset >= stop:
                break
            if at <= offset and offset + length <= stop:
                yield at, offset - at, None
                yield offset, length, crc
                at = offset + length
        yield at, stop - at, None


def crc32(data: bytes | memoryview, value: int = 0) -> int:
    """Return the CRC-32 of what `value` is that of, and `data` behind it.

    By zlib-ng, which takes it as fast as memory can be read; five times as fast as zlib.
    """
    crc: int = zlib_ng.crc32(data, value)
    return crc


def crc32_of(source: Source, offset: int, length: int) -> int:
    """Return the CRC-32 of `length` bytes of `source` from `offset` on.

    What `source.checksums` know is not read again; of the rest threads take pieces.

    Raises:
        UnreadableError: the bytes are not there.
    """
    whole: list[tuple[int, int, int | None]] = [(offset, length, None)]
    if source.checksums is not None:
        whole = list(source.checksums.within(offset, offset + length))
    pieces = [piece for part in whole for piece in _pieces(*part)]

    def checksum(piece: tuple[int, int, int | None]) -> int:
        at, size, crc = piece
        return _crc32(source, at, size) if crc is None else crc

    if sum(size for _, size, crc in pieces if crc is None) <= _PIECE:
        return _joined(pieces, map(checksum, pieces))
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(default_jobs(), thread_name_prefix="crc32") as pool:
        return _joined(pieces, pool.map(checksum, pieces))


def _pieces(offset: int, length: int, crc: int | None) -> Iterator[tuple[int, int, int | None]]:
    """What is known as it is, what is not in pieces for threads."""
    step = _PIECE if crc is None else max(length, 1)
    for at in range(0, length, step):
        yield offset + at, min(step, length - at), crc


def _crc32(source: Source, offset: int, length: int) -> int:
    crc = 0
    for block in source.buffered(offset, length, _BLOCK):
        crc = crc32(block, crc)
    return crc


def _joined(pieces: Iterable[tuple[int, int, int | None]], parts: Iterable[int]) -> int:
    crc = 0
    for (_, size, _), part in zip(pieces, parts, strict=True):
        crc = crc32_of_both(crc, part, size)
    return crc


def crc32_of_both(first: int, second: int, length: int) -> int:
    """Return the CRC-32 of some bytes and `length` more, from those of the two.

    A CRC is a remainder of polynomials; more bytes behind the first ones multiply these by a power
    of x, as in zlib's `crc32_combine`.
    """
    return _product(_power(8 * length), first) ^ second


@lru_cache(maxsize=1 << 12)
def _power(exponent: int) -> int:
    """Return x to the power `exponent`, modulo the polynomial."""
    result = 1 << 31
    for bit in range(exponent.bit_length()):
        if exponent >> bit & 1:
            result = _product(_square(bit), result)
    return result


@cache
def _square(times: int) -> int:
    """Return x, squared so many times."""
    if not times:
        return 1 << 30
    root = _square(times - 1)
    return _product(root, root)


def _product(a: int, b: int) -> int:
    """Multiply two polynomials modulo the polynomial of CRC-32."""
    result = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            result ^= b
        b = b >> 1 ^ (_CRC32 if b & 1 else 0)
    return result
