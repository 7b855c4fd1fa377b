"""Stored numbers decoded exactly: codes, scales and zero points as float64, box by box.

Every value that is decoded here (an integer, a float of at most 32 bits, a power of two) is exact in
float64, so the only rounding of an effective weight is that of its last product.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ckptclamp.checkpoints.dtypes import Kind
from ckptclamp.frozen import frozen
from ckptclamp.models.effective.codes import Octets, floats_of, octets_of, values_of
from ckptclamp.models.effective.levels import Wanted, levels_of, round_floats

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from ckptclamp.checkpoints.tensor import Box, Read, Tensor

Range = tuple[int, int]
Decoder = Callable[["Box", "NDArray[np.float64]"], None]
"""Puts a part of a box into an array of the part's shape; quick where that, or its last two axes
swapped, lies in C order."""

E2M1: Final = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""The magnitudes of a 4-bit float by its lower three bits; the fourth is the sign (OCP MX 1.0)."""

NIBBLE_TABLE: Final[tuple[float, ...]] = (*E2M1, *(-value for value in E2M1))


class Numbers(ABC):
    """An array of `shape`, decoded from a stored tensor where it is read."""

    __slots__ = ()

    tensor: Tensor

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """The extents of what is decoded."""

    @abstractmethod
    def read(self, read: Read, box: Box) -> NDArray[np.float64]:
        """Return `box` of the decoded array as float64, of the box's shape.

        Raises:
            UnreadableError: the tensor cannot be read.
        """

    def decoder(self, read: Read, box: Box) -> Decoder:
        """Read what is stored of `box`, and return what decodes parts of it into arrays.

        Raises:
            UnreadableError: the tensor cannot be read.
        """

        def decode(part: Box, out: NDArray[np.float64]) -> None:
            out[...] = self.read(read, part)

        return decode

    def octets(self, read: Read, box: Box, *, turned: bool) -> Octets | None:
        """Read what is stored of `box`, or of it with the last two axes swapped where it is `turned`.

        Returns the codes and what they stand for, ``None`` where they are not whole parts of bytes.

        Raises:
            UnreadableError: the tensor cannot be read.
        """
        del read, box, turned
        return None

    @property
    def encodes(self) -> bool:
        """Whether numbers can be stored anew, one by one."""
        return False

    def encode(self, read: Read, box: Box, wanted: Wanted) -> tuple[Box, NDArray[Any]]:
        """Return a box of the tensor, and what it is to hold for what is `wanted` in `box` of the array.

        Raises:
            UnreadableError: the tensor cannot be read.
        """
        raise NotImplementedError


@frozen
class Plain(Numbers):
    """Numbers that are stored as what they are, in any real dtype."""

    tensor: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """See `Numbers.shape`."""
        return self.tensor.shape

    def read(self, read: Read, box: Box) -> NDArray[np.float64]:
        """See `Numbers.read`."""
        found, dtype = read(self.tensor, box), self.tensor.dtype
        if dtype is not None and dtype.bits == 8 and dtype.kind is Kind.FLOAT:
            return _bytes_table(dtype.name).take(found.view(np.uint8))
        return found.astype(np.float64)

    def decoder(self, read: Read, box: Box) -> Decoder:
        """See `Numbers.decoder`."""
        found, dtype = read(self.tensor, box), self.tensor.dtype
        table = None
        if dtype is not None and dtype.bits == 8 and dtype.kind is Kind.FLOAT:
            found, table = found.view(np.uint8), _bytes_table(dtype.name)

        def decode(part: Box, out: NDArray[np.float64]) -> None:
            codes = view_of(found, box, part)
            if table is None:
                out[...] = codes
            else:
                table.take(codes, out=out, mode="clip")

        return decode

    def octets(self, read: Read, box: Box, *, turned: bool) -> Octets | None:
        """See `Numbers.octets`."""
        dtype = self.tensor.dtype
        if dtype is None or dtype.bits != 8 or dtype.kind not in (Kind.FLOAT, Kind.INTEGER):
            return None
        return octets_of(np.ascontiguousarray(read(self.tensor, box)), cell=8 if turned else 0)

    @property
    def encodes(self) -> bool:
        """See `Numbers.encodes`: floats, and integers of 8 bits."""
        dtype = self.tensor.dtype
        return dtype is not None and (dtype.kind is Kind.FLOAT or dtype.bits == 8)

    def encode(self, read: Read, box: Box, wanted: Wanted) -> tuple[Box, NDArray[Any]]:
        """See `Numbers.encode`."""
        held = read(self.tensor, box)
        if held.dtype.itemsize > 1:
            return box, np.where(wanted.chosen, round_floats(wanted, held.dtype), held)
        codes = levels_of(_table_of(held.dtype.name)).encode(wanted)
        return box, np.where(wanted.chosen, codes, held.view(np.uint8)).view(held.dtype)


@lru_cache(maxsize=16)
def _table_of(name: str) -> tuple[float, ...]:
    """What each of the 256 bytes is in the dtype `name` of 8 bits."""
    if name in ("int8", "uint8"):
        return tuple(np.arange(256, dtype=np.uint8).view(name).astype(np.float64).tolist())
    return tuple(_bytes_table(name).tolist())


@lru_cache(maxsize=16)
def _bytes_table(name: str) -> NDArray[np.float64]:
    """What each of the 256 bytes is in the 8-bit float dtype `name`."""
    import ml_dtypes

    with np.errstate(all="ignore"):
        every = np.arange(256, dtype=np.uint8).view(getattr(ml_dtypes, name))
        return np.asarray(every.astype(np.float64))


@frozen
class Exponents(Numbers):
    """Powers of two, each stored as a biased exponent (E8M0): 2^(byte - 127), NaN for 255 (OCP MX).

    With `packed` each int32 holds four of them along the last axis, the first in the lowest byte;
    `length` is how many of these count.
    """

    tensor: Tensor
    packed: bool = False
    length: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """See `Numbers.shape`."""
        shape = self.tensor.shape
        return (*shape[:-1], self.length) if self.packed else shape

    def read(self, read: Read, box: Box) -> NDArray[np.float64]:
        """See `Numbers.read`."""
        if not self.packed:
            return _bytes_table("float8_e8m0fnu")[read(self.tensor, box).view(np.uint8)]
        start, stop = box[-1]
        words = read(self.tensor, (*box[:-1], (start // 4, -(-stop // 4))))
        found = _bytes_table("float8_e8m0fnu")[np.ascontiguousarray(words).view(np.uint8)]
        return found[..., start - start // 4 * 4 :][..., : stop - start]


@frozen
class Nibbles(Numbers):
    """Two 4-bit codes to a byte along the last axis, the first in the lower half; `table` has values.

    With `joined` the last two axes of the tensor are one: blocks, and the bytes of a block.
    """

    tensor: Tensor
    table: tuple[float, ...] = NIBBLE_TABLE
    joined: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """See `Numbers.shape`."""
        shape = self.tensor.shape
        if self.joined:
            return (*shape[:-2], 2 * shape[-2] * shape[-1])
        return (*shape[:-1], 2 * shape[-1])

    def read(self, read: Read, box: Box) -> NDArray[np.float64]:
        """See `Numbers.read`."""
        start, stop = box[-1]
        each = 2 * self.tensor.shape[-1] if self.joined else 2
        first, last = start // each, -(-stop // each)
        inner = ((0, self.tensor.shape[-1]),) if self.joined else ()
        found = read(self.tensor, (*box[:-1], (first, last), *inner)).view(np.uint8)
        codes = np.stack([found & 15, found >> 4], axis=-1)
        flat = codes.reshape(*codes.shape[: len(box) - 1], -1)
        begin = start - first * each
        return np.array(self.table)[flat[..., begin : begin + stop - start]]

    def decoder(self, read: Read, box: Box) -> Decoder:
        """See `Numbers.decoder`."""
        start, stop = box[-1]
        each = 2 * self.tensor.shape[-1] if self.joined else 2
        inner = ((0, self.tensor.shape[-1]),) if self.joined else ()
        place = (*box[:-1], (start // each, -(-stop // each)), *inner)
        found = read(self.tensor, place).view(np.uint8)
        octets = found.reshape(*found.shape[: len(box) - 1], -1)
        begin = start // each * each

        def decode(part: Box, out: NDArray[np.float64]) -> None:
            if any(end % 2 for end in part[-1]):
                out[...] = self.read(read, part)
                return
            first, last = ((end - begin) // 2 for end in part[-1])
            some = octets[(*places(box[:-1], part[:-1]), slice(first, last))]
            if out.flags.c_contiguous:
                look_up(self.table, 4, some, out)
            else:
                turned = np.ascontiguousarray(some.swapaxes(-1, -2))
                rows = [turned & 15, turned >> 4]
                codes = np.stack(rows, axis=-2).reshape(out.swapaxes(-1, -2).shape)
                np.array(self.table).take(codes, out=out.swapaxes(-1, -2), mode="clip")

        return decode

    def octets(self, read: Read, box: Box, *, turned: bool) -> Octets | None:
        """See `Numbers.octets`."""
        start, stop = box[-1]
        each = 2 * self.tensor.shape[-1] if self.joined else 2
        inner = ((0, self.tensor.shape[-1]),) if self.joined else ()
        found = read(self.tensor, (*box[:-1], (start // each, -(-stop // each)), *inner))
        flat = np.ascontiguousarray(found).view(np.uint8).reshape(*found.shape[: len(box) - 1], -1)
        table, skip = floats_of(self.table, 4), start % each
        if table is None:
            return None
        if not turned:
            return octets_of(flat, table, skip=skip)
        return replace(octets_of(flat, table, cell=4), places=np.arange(skip, skip + stop - start))

    @property
    def encodes(self) -> bool:
        """See `Numbers.encodes`."""
        return True

    def encode(self, read: Read, box: Box, wanted: Wanted) -> tuple[Box, NDArray[Any]]:
        """See `Numbers.encode`."""
        start, stop = box[-1]
        each = 2 * self.tensor.shape[-1] if self.joined else 2
        first, last = start // each, -(-stop // each)
        inner = ((0, self.tensor.shape[-1]),) if self.joined else ()
        place = (*box[:-1], (first, last), *inner)
        held = read(self.tensor, place)
        codes = np.stack([held.view(np.uint8) & 15, held.view(np.uint8) >> 4], axis=-1)
        flat = codes.reshape(*codes.shape[: len(box) - 1], -1)
        begin = start - first * each
        part = flat[..., begin : begin + stop - start]
        part[...] = np.where(wanted.chosen, levels_of(self.table).encode(wanted), part)
        pairs = flat.reshape(codes.shape)
        return place, (pairs[..., 0] | pairs[..., 1] << 4).view(held.dtype)


def look_up(
    table: Sequence[float],
    bits: int,
    octets: NDArray[np.uint8],
    out: NDArray[np.float64],
    *,
    upper_first: bool = False,
) -> None:
    """Put what codes of `bits` bits in `octets` stand for into `out`, which lies in C order.

    All that one byte stands for is taken at once. The first of them lies in its lowest bits, or with
    `upper_first` in its highest ones.
    """
    values = values_of(table, bits, upper_first=upper_first)
    values.take(octets, 0, out.reshape(*octets.shape, -1), "clip")


def cut(box: Box, limit: int) -> Iterable[Box]:
    """Cut `box` into boxes of at most `limit` elements, in C order; each is one run of its axes."""
    inner = 1
    for axis in reversed(range(len(box))):
        start, stop = box[axis]
        if inner * (stop - start) > limit:
            step = max(1, limit // inner)
            for at in range(start, stop, step):
                part = (at, min(at + step, stop))
                yield from _outer(box, axis, part)
            return
        inner *= stop - start
    yield box


def _outer(box: Box, axis: int, part: Range) -> Iterable[Box]:
    """`part` of `axis` for each single index of the axes before it."""
    if not axis:
        yield (part, *box[1:])
        return
    for index in np.ndindex(*(stop - start for start, stop in box[:axis])):
        places = tuple((box[i][0] + n, box[i][0] + n + 1) for i, n in enumerate(index))
        yield (*places, part, *box[axis + 1 :])


def without(box: Box, axis: int) -> Box:
    """The box of the other axes."""
    return (*box[:axis], *box[axis + 1 :])


def places(box: Box, part: Box) -> tuple[slice, ...]:
    """Where `part` lies in an array that holds `box`."""
    return tuple(slice(a - s, b - s) for (s, _), (a, b) in zip(box, part, strict=True))


def view_of(array: NDArray[Any], box: Box, part: Box) -> NDArray[Any]:
    """`part` of an array that holds `box`: a view of it, also where it has no axes."""
    index: Any = (*places(box, part), ...)
    view: NDArray[Any] = array[index]
    return view
