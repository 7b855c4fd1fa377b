"""The CRC-32 of a large part of a file, of which several threads take pieces."""

from __future__ import annotations

import zlib
from functools import cache, lru_cache
from typing import TYPE_CHECKING

from ckptclamp.checkpoints.source import Source, default_jobs

if TYPE_CHECKING:
    from types import ModuleType


_POLYNOMIAL = 0xEDB88320
_ONE = 1 << 31
"""The polynomial 1: in a CRC-32 the highest bit is the coefficient of x to the power 0."""
_BLOCK = 1 << 19
_PIECE = 32 << 20


def crc32_of(source: Source, offset: int, length: int) -> int:
    """Return the CRC-32 of `length` bytes of `source` from `offset` on.

    Raises:
        UnreadableError: the bytes are not there.
    """
    pieces = [(offset + at, min(_PIECE, length - at)) for at in range(0, length, _PIECE)]
    if len(pieces) < 2:
        return _crc32(source, offset, length)
    from concurrent.futures import ThreadPoolExecutor

    crc = 0
    with ThreadPoolExecutor(default_jobs(), thread_name_prefix="crc32") as pool:
        parts = pool.map(lambda piece: _crc32(source, *piece), pieces)
        for part, (_, size) in zip(parts, pieces, strict=True):
            crc = crc32_of_both(crc, part, size)
    return crc


def _crc32(source: Source, offset: int, length: int) -> int:
    crc, update = 0, fastest_zlib().crc32
    buffer = memoryview(bytearray(min(_BLOCK, length)))
    for at in range(0, length, _BLOCK):
        block = buffer[: length - at]
        source.read_into(block, offset + at)
        crc = update(block, crc)
    return crc


def crc32_of_both(first: int, second: int, length: int) -> int:
    """Return the CRC-32 of some bytes and `length` more, from those of the two.

    A CRC is a remainder of polynomials; more bytes behind the first ones multiply these by a power
    of x, as in zlib's `crc32_combine`.
    """
    return _product(_power(8 * length), first) ^ second


@lru_cache(maxsize=64)
def _power(exponent: int) -> int:
    """Return x to the power `exponent`, modulo the polynomial."""
    result, square = _ONE, _ONE >> 1
    while exponent:
        if exponent & 1:
            result = _product(square, result)
        square = _product(square, square)
        exponent >>= 1
    return result


def _product(a: int, b: int) -> int:
    """Multiply two polynomials modulo the polynomial of CRC-32."""
    result = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            result ^= b
        b = b >> 1 ^ (_POLYNOMIAL if b & 1 else 0)
    return result


@cache
def fastest_zlib() -> ModuleType:
    """Return zlib-ng where it is installed, or else zlib, of which it is a faster copy.

    It is for inflating and for checksums. Faster inflaters than this were written anew, and differ in
    which broken streams they refuse. Nothing is deflated with it: its bytes are not those of zlib.
    """
    try:
        from zlib_ng import zlib_ng
    except ImportError:
        return zlib
    return zlib_ng
