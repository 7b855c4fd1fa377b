"""Stored numbers decoded exactly: codes, scales and zero points as float64, box by box.

Every value that is decoded here (an integer, a float of at most 32 bits, a power of two) is exact in
float64, so the only rounding of an effective weight is that of its last product.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ckptclamp.checkpoints.dtypes import Kind
from ckptclamp.models.effective.levels import Wanted, levels_of, round_floats

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from ckptclamp.checkpoints.tensor import Box, Read, Tensor

Range = tuple[int, int]

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


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Packed(Numbers):
    """Unsigned integers of `bits` bits, one after the other in the words of an axis, lowest bit first.

    `length` integers lie along `axis`; one may lie across two words. `plus` is added to each. Where
    an `order` is given, integer i of a word, which holds whole ones, lies at place ``order[i]`` of it.
    """

    tensor: Tensor
    bits: int
    length: int
    axis: int
    plus: int = 0
    order: tuple[int, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """See `Numbers.shape`."""
        return tuple(self.length if i == self.axis else n for i, n in enumerate(self.tensor.shape))

    @property
    def _word(self) -> int:
        """Bits of a word."""
        return self.tensor.dtype.bits if self.tensor.dtype is not None else 32

    def read(self, read: Read, box: Box) -> NDArray[np.float64]:
        """See `Numbers.read`."""
        found = self.integers(read, box).astype(np.float64)
        if self.plus:
            found += self.plus
        return found

    def integers(self, read: Read, box: Box) -> NDArray[Any]:
        """Return `box` as the unsigned integers that are stored."""
        return self._astride(read, box) if self._word % self.bits else self._whole(read, box)

    def _whole(self, read: Read, box: Box) -> NDArray[Any]:
        """Integers of which each lies in one word."""
        each = self._word // self.bits
        start, stop = box[self.axis]
        first = start // each
        words = self._words(read, box, first, -(-stop // each))
        shifts = self.bits * np.array(self.order or range(each), words.dtype)
        codes = (words[..., None] >> shifts) & words.dtype.type((1 << self.bits) - 1)
        begin = start - first * each
        flat = codes.reshape(*words.shape[:-1], -1)[..., begin : begin + stop - start]
        return np.moveaxis(flat, -1, self.axis)

    def _words(self, read: Read, box: Box, begin: int, end: int) -> NDArray[Any]:
        """The words from `begin` to `end` as unsigned integers, the packed axis last."""
        stored = list(box)
        stored[self.axis] = (begin, end)
        words = np.moveaxis(read(self.tensor, tuple(stored)), self.axis, -1)
        return words.view(f"u{words.itemsize}")

    def _astride(self, read: Read, box: Box) -> NDArray[Any]:
        """Integers of which some lie across two words."""
        where = np.arange(*box[self.axis])
        first = where * self.bits // self._word
        last = ((where + 1) * self.bits - 1) // self._word
        begin, end = int(first.min()), int(last.max()) + 1
        unsigned = self._words(read, box, begin, end).astype(np.uint64)
        shift = (where * self.bits % self._word).astype(np.uint64)
        found = unsigned[..., first - begin] >> shift
        over = last > first
        if over.any():
            above = np.uint64(self._word) - shift[over]
            found[..., over] |= unsigned[..., last[over] - begin] << above
        return np.moveaxis(found & np.uint64((1 << self.bits) - 1), -1, self.axis)

    @property
    def encodes(self) -> bool:
        """See `Numbers.encodes`."""
        return True

    def encode(self, read: Read, box: Box, wanted: Wanted) -> tuple[Box, NDArray[Any]]:
        """See `Numbers.encode`; bit by bit, since an integer may lie across two words."""
        start, stop = box[self.axis]
        first, last = start * self.bits // self._word, -(-stop * self.bits // self._word)
        place = (*box[: self.axis], (first, last), *box[self.axis + 1 :])
        held = np.moveaxis(read(self.tensor, place), self.axis, -1)
        stored = np.unpackbits(
            np.ascontiguousarray(held).view(np.uint8), axis=-1, bitorder="little"
        )
        table = tuple(float(code + self.plus) for code in range(1 << self.bits))
        codes = np.moveaxis(levels_of(table).encode(wanted), self.axis, -1)
        mask = np.moveaxis(wanted.chosen, self.axis, -1)
        at = self._places(np.arange(start, stop)) - first * self._word
        for bit in range(self.bits):
            stored[..., at + bit] = np.where(mask, codes >> bit & 1, stored[..., at + bit])
        words = np.packbits(stored, axis=-1, bitorder="little").view(held.dtype)
        return place, np.moveaxis(words, -1, self.axis)

    def _places(self, which: NDArray[np.int64]) -> NDArray[np.int64]:
        """The first bit of each integer along its axis."""
        if not self.order:
            return which * self.bits
        word, within = np.divmod(which, len(self.order))
        first: NDArray[np.int64] = np.array(self.order, np.int64)[within] * self.bits
        return word * self._word + first


def packed_words(length: int, bits: int, word: int = 32) -> int:
    """How many words hold `length` integers of `bits` bits without a gap."""
    return -(-length * bits // word)


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


def places(box: Box, part: Box) -> tuple[slice, ...]:
    """Where `part` lies in an array that holds `box`."""
    return tuple(slice(a - s, b - s) for (s, _), (a, b) in zip(box, part, strict=True))
