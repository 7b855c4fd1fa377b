"""The filters that HDF5 puts chunks through, undone and done again without the HDF5 library.

Decoding is bounded: no filter may give more bytes than the chunk has elements for. Filters are
described in the HDF5 file format specification, section IV.A.2.l; LZF is Marc Lehmann's LibLZF.
"""

from __future__ import annotations

import math
import zlib
from typing import TYPE_CHECKING

import numpy as np
from zlib_ng import zlib_ng  # it reads and refuses what zlib does, in two thirds of the time

from ckptclamp.errors import UnreadableError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ckptclamp.checkpoints.tensor import Chunked

Bytes = bytes | bytearray
"""Bytes as a decoder leaves them: what it filled need not be copied once more to be frozen."""

_CHECKSUM_BYTES = 4
_DEFAULT_DEFLATE_LEVEL = 6
_LZF_LITERALS = 32
"""The longest run of literal bytes that one LZF control byte can announce."""


def decode_chunk(
    raw: Bytes, chunked: Chunked, filter_mask: int, itemsize: int, expected: int, *, first: int = 0
) -> Bytes:
    """Undo the filters of one stored chunk, down to the `first`, and return the `expected` bytes.

    Bit k of `filter_mask` says that filter k was not applied; `itemsize` is the size in bytes of
    one element.

    Raises:
        UnreadableError: a checksum is wrong, the data are damaged, or their length is.
    """
    # What does not compress grows: by a byte in 32 in LZF, by less in deflate.
    limit = expected + expected // 16 + 64
    data = raw
    for position in reversed(range(first, len(chunked.filters))):
        if filter_mask >> position & 1:
            continue
        name = chunked.filters[position]
        if name == "deflate":
            data = _inflate(data, limit)
        elif name == "shuffle":
            data = _unshuffle(data, itemsize)
        elif name == "fletcher32":
            data = _check_fletcher32(data)
        elif name == "lzf":
            data = _expand_lzf(data, limit)
        else:
            raise UnreadableError(f"the filter {name} is not known")
    if len(data) != expected:
        raise UnreadableError(f"it decodes to {len(data)} bytes, not {expected}")
    return data


def decode_into(
    raw: Bytes,
    chunked: Chunked,
    filter_mask: int,
    part: tuple[slice, ...],
    out: NDArray[np.uint8],
) -> None:
    """Undo the filters of one stored chunk and put `part` of its elements into `out`.

    The first axis of `out` is the place of a byte in its element; the others have the shape of the
    part. It is `decode_chunk` for those who have a place for the elements already: bytes that were
    shuffled go there on their way back.

    Raises:
        UnreadableError: as `decode_chunk`.
    """
    itemsize = len(out)
    expected = math.prod(chunked.chunk_shape) * itemsize
    shuffled = chunked.filters[:1] == ("shuffle",) and not filter_mask & 1
    data = np.frombuffer(
        decode_chunk(raw, chunked, filter_mask, itemsize, expected, first=int(shuffled)), np.uint8
    )
    if shuffled:
        planes = data.reshape(itemsize, *chunked.chunk_shape)
        _interleave(planes[(slice(None), *part)], out)
    else:
        out.transpose(*range(1, out.ndim), 0)[...] = data.reshape(*chunked.chunk_shape, itemsize)[
            part
        ]


def encode_chunk(data: bytes, chunked: Chunked, itemsize: int) -> bytes:
    """Put the bytes of one chunk through every filter, so that its filter mask is 0.

    LZF is written as literals, which every decoder reads but which saves no space.
    """
    for name in chunked.filters:
        if name == "deflate":
            level = chunked.deflate_level
            data = zlib.compress(data, _DEFAULT_DEFLATE_LEVEL if level is None else level)
        elif name == "shuffle":
            data = _shuffle(data, itemsize)
        elif name == "fletcher32":
            data += fletcher32(data).to_bytes(_CHECKSUM_BYTES, "little")
        elif name == "lzf":
            data = _literal_lzf(data)
        else:
            raise UnreadableError(f"the filter {name} is not known")
    return data


def _inflate(data: Bytes, limit: int) -> Bytes:
    stream = zlib_ng.decompressobj()
    try:
        decoded: bytes = stream.decompress(data, limit + 1)
    except zlib_ng.error as error:  # type: ignore[misc] # its stub takes the class for an object
        raise UnreadableError(f"it cannot be inflated: {error}") from error
    if len(decoded) > limit:
        raise UnreadableError(f"it inflates beyond {limit} bytes")
    if not stream.eof:
        raise UnreadableError("its deflate stream breaks off")
    return decoded


def _shuffle(data: bytes, itemsize: int) -> bytes:
    """Gather the first bytes of all elements, then the second ones, and so on."""
    whole = len(data) - len(data) % itemsize
    elements = np.frombuffer(data, np.uint8, whole).reshape(-1, itemsize)
    return elements.T.tobytes() + data[whole:]


def _unshuffle(data: Bytes, itemsize: int) -> Bytes:
    if itemsize == 1:
        return data
    whole = len(data) - len(data) % itemsize
    planes = np.frombuffer(data, np.uint8, whole).reshape(itemsize, -1)
    out = bytearray(data) if whole < len(data) else bytearray(whole)
    _interleave(planes, np.frombuffer(out, np.uint8, whole).reshape(-1, itemsize).T)
    return out


def _interleave(planes: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    """Copy `planes` to `out`, in which the bytes of an element are neighbours.

    NumPy would arrange a copy for the sake of `out`, with an inner loop as long as an element, and
    take three times as long. It arranges a function for both.
    """
    np.positive(planes, out=out)


def fletcher32(data: Bytes) -> int:
    """Return HDF5's Fletcher checksum: over big-endian 16-bit words, an odd byte padded with zero.

    Both sums are folded by end-around carry, so that a sum that is a multiple of 65535 is 65535,
    and 0 only where every word is.
    """
    words = np.frombuffer(data + bytes(len(data) % 2), ">u2").astype(np.uint64)
    weights = np.arange(len(words), 0, -1, dtype=np.uint64) % 65535
    if not words.any():
        return 0
    low = (int(words.sum()) - 1) % 65535 + 1
    high = (int((words * weights).sum()) - 1) % 65535 + 1
    return high << 16 | low


def _check_fletcher32(data: Bytes) -> Bytes:
    if len(data) < _CHECKSUM_BYTES:
        raise UnreadableError("it is too short for its checksum")
    content, stored = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
    checksum = fletcher32(content).to_bytes(_CHECKSUM_BYTES, "little")
    # HDF5 before 1.6.3 wrote the two bytes of each half the other way round on little-endian
    # machines; the library still accepts that.
    if stored not in (checksum, bytes(checksum[i] for i in (1, 0, 3, 2))):
        raise UnreadableError("its Fletcher checksum does not match")
    return content


def _expand_lzf(data: Bytes, limit: int) -> Bytes:
    out = bytearray()
    position = 0
    try:
        while position < len(data) and len(out) <= limit:
            control = data[position]
            position += 1
            if control < _LZF_LITERALS:
                literals = data[position : position + control + 1]
                if len(literals) != control + 1:
                    raise IndexError
                out += literals
                position += control + 1
                continue
            length = (control >> 5) + 2
            if length == 9:
                length += data[position]
                position += 1
            start = len(out) - ((control & 31) << 8) - data[position] - 1
            position += 1
            if start < 0:
                raise IndexError
            # The copy may run into what it writes, so it repeats.
            pattern = out[start : start + length]
            out += (pattern * (length // len(pattern) + 1))[:length]
    except IndexError as error:
        raise UnreadableError("its LZF data are damaged") from error
    if len(out) > limit:
        raise UnreadableError(f"it expands beyond {limit} bytes")
    return out


def _literal_lzf(data: bytes) -> bytes:
    runs = (data[i : i + _LZF_LITERALS] for i in range(0, len(data), _LZF_LITERALS))
    return b"".join(bytes([len(run) - 1]) + run for run in runs)
