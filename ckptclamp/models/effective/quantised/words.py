"""Integers of a few bits in words: GPTQ's, AWQ's and compressed-tensors' codes and zero points."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptclamp.errors import Reason, UnreadableError
from ckptclamp.frozen import frozen
from ckptclamp.models.effective.codes import Octets, floats_of, octets_of
from ckptclamp.models.effective.levels import Wanted, levels_of
from ckptclamp.models.effective.numbers import Decoder, Numbers, look_up, places, without

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ckptclamp.checkpoints.tensor import Box, Read, Tensor


@frozen
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

    def decoder(self, read: Read, box: Box) -> Decoder:
        """See `Numbers.decoder`."""
        if self.bits not in (2, 4, 8) or self._word % 8:
            return Numbers.decoder(self, read, box)
        each = self._word // self.bits
        start, stop = box[self.axis]
        words = self._words(read, box, start // each, -(-stop // each))
        others = without(box, self.axis)

        def decode(part: Box, out: NDArray[np.float64]) -> None:
            first, rest = divmod(part[self.axis][0], each)
            last, over = divmod(part[self.axis][1], each)
            run, first = np.moveaxis(out, self.axis, -1), first - start // each
            inner = places(others, without(part, self.axis))
            some = words[(*inner, slice(first, last - start // each))]
            if rest or over:
                out[...] = self.read(read, part)
            elif not self.order and run.flags.c_contiguous:
                table = tuple(float(code + self.plus) for code in range(1 << self.bits))
                look_up(table, self.bits, np.ascontiguousarray(some).view(np.uint8), run)
            else:
                codes = self._across(some)
                np.moveaxis(out, self.axis, 0)[...] = codes.reshape(-1, *codes.shape[2:])
                out += self.plus

        return decode

    def octets(self, read: Read, box: Box, *, turned: bool) -> Octets | None:
        """See `Numbers.octets`: in words along the last axis or, `turned`, of four bits or along another."""
        last = self.axis == len(box) - 1
        kept = not self.order if last and not turned else turned and (not last or self.bits == 4)
        if self.bits not in (2, 4, 8) or self._word % 8 or not kept:
            return None
        each, (start, stop) = self._word // self.bits, box[self.axis]
        place = (*box[: self.axis], (start // each, -(-stop // each)), *box[self.axis + 1 :])
        found = np.ascontiguousarray(read(self.tensor, place)).view(np.uint8)
        table = tuple(float(code + self.plus) for code in range(1 << self.bits))
        values, skip = floats_of(table, self.bits), start % each
        if not last or not turned:
            return octets_of(found, values, cell=0 if last else self._word, skip=skip)
        word, within = np.divmod(np.arange(skip, skip + stop - start), each)
        places = word * each + np.array(self.order or range(each), np.int64)[within]
        return replace(octets_of(found, values, cell=4), places=places)

    def _across(self, words: NDArray[Any]) -> NDArray[np.uint8]:
        """The integers of words, those of a word along the second axis, and words along the first."""
        octets = np.ascontiguousarray(words).view(np.uint8).reshape(*words.shape, -1)
        octets = np.ascontiguousarray(np.moveaxis(octets, (-2, -1), (0, 1)))
        each, within = self._word // self.bits, 8 // self.bits
        codes = np.empty((len(octets), each, *octets.shape[2:]), np.uint8)
        for i, at in enumerate(self.order or range(each)):
            np.right_shift(octets[:, at // within], at % within * self.bits, out=codes[:, i])
        codes &= (1 << self.bits) - 1
        return codes

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


@frozen
class OneMore(Packed):
    """Packed zero points that are stored less 1 (GPTQ's first format).

    Raises on reading the largest code: it is 0 less 1 to some libraries, and to others itself.
    """

    def read(self, read: Read, box: Box) -> NDArray[np.float64]:
        """See `Numbers.read`."""
        found = self.integers(read, box)
        if (found == (1 << self.bits) - 1).any():
            raise UnreadableError(
                Reason(
                    "not-computed",
                    f"{self.tensor.name} holds zero points that libraries read in different ways",
                ),
                hint="save it again in the format gptq_v2",
            )
        return found.astype(np.float64) + 1


def packed_words(length: int, bits: int, word: int = 32) -> int:
    """How many words hold `length` integers of `bits` bits without a gap."""
    return -(-length * bits // word)
