"""bitsandbytes' 4-bit weights: nf4 and fp4 codes, an absolute maximum for each block of elements.

Source: ``dequantize_4bit`` and ``QuantState`` of bitsandbytes. The weight's elements, in C order, are
two to a byte, the first in the upper half; each is the value of its code times the maximum of its
block. With double quantisation the maxima are codes too: value · maximum of the block of 256 + offset.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, TypeGuard

import numpy as np

from ckptclamp.checkpoints.documents import parse_strict
from ckptclamp.checkpoints.tensor import box_shape
from ckptclamp.errors import Reason, UnreadableError
from ckptclamp.frozen import frozen
from ckptclamp.models.effective.codes import Codes, floats_of, octets_of
from ckptclamp.models.effective.levels import Wanted, levels_of
from ckptclamp.models.effective.members import Members, NotComputedError, dtype_name
from ckptclamp.models.effective.numbers import Plain, look_up
from ckptclamp.models.effective.quantised.scaled import misfit
from ckptclamp.models.effective.quantised.shared import FEW
from ckptclamp.models.effective.weights import Effective

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from ckptclamp.checkpoints.tensor import Box, Read, Tensor

NF4: Final = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
)  # fmt: skip
_HALF_FP4: Final = (0.0, 0.0625 / 12, 8 / 12, 1.0, 4 / 12, 6 / 12, 2 / 12, 3 / 12)
FP4: Final = (*_HALF_FP4, *(-value for value in _HALF_FP4))
"""The values of the codes, by which the library computes whatever table the file holds."""

_TABLES: Final[Mapping[str, tuple[float, ...]]] = {"nf4": NF4, "fp4": FP4}
HALF_STEP: Final = 1 / 6
_STATES: Final = tuple(f".quant_state.bitsandbytes__{kind}" for kind in _TABLES)
_SPAN: Final = 1 << 18
"""Elements between the first and the last of what is read at once, at most."""


@frozen
class Maxima:
    """The absolute maximum of each block of `size` elements; codes of it where there is an `outer`.

    `table` has the values of these codes, each for the `outer` maximum of a block of `outer_size`
    maxima, to which `offset` is added.
    """

    stored: Tensor
    size: int
    table: tuple[float, ...] = ()
    outer: Tensor | None = None
    outer_size: int = 1
    offset: float = 0.0

    def read(self, read: Read, first: int, last: int) -> NDArray[np.float64]:
        """Return the maxima of the blocks from `first` up to `last`.

        Raises:
            UnreadableError: one of those that are stored is negative, or 0 for codes that are not.
        """
        found = Plain(self.stored).read(read, ((first, last),))
        if self.outer is None:
            return _not_negative(found, self.stored)
        begin, end = first // self.outer_size, (last - 1) // self.outer_size + 1
        outer = _not_negative(Plain(self.outer).read(read, ((begin, end),)), self.outer)
        values = np.array(self.table)[found.astype(np.int64)]
        scale = outer[np.arange(first, last) // self.outer_size - begin]
        if (values[scale == 0] != 0).any():
            raise UnreadableError(
                Reason("not-computed", f"{self.outer.name} holds 0 for codes that are not")
            )
        return values * scale + self.offset


@frozen
class Blockwise(Effective):
    """A weight of `shape` of 4-bit codes in blocks."""

    words: str
    codes: Tensor
    shape: tuple[int, ...]
    table: tuple[float, ...]
    maxima: Maxima
    others: tuple[Tensor, ...]

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """See `Computed.parts`."""
        outer = () if self.maxima.outer is None else (self.maxima.outer,)
        return (self.codes, self.maxima.stored, *outer, *self.others)

    def fill(self, read: Read, box: Box, out: NDArray[np.float64]) -> None:
        """See `Effective.fill`; whole blocks that follow each other are decoded in place."""
        first, size = int(np.ravel_multi_index([start for start, _ in box], self.shape)), out.size
        last, block = first + size, self.maxima.size
        follow = int(np.ravel_multi_index([stop - 1 for _, stop in box], self.shape)) == last - 1
        each = 2 * (self.codes.dtype.itemsize if self.codes.dtype is not None else 1)
        whole = not any(n % math.lcm(block, each) for n in (first, last))
        if not (follow and whole and out.flags.c_contiguous):
            out[...] = self.piece(read, box)
            return
        rest = ((0, 1),) * (len(self.codes.shape) - 1)
        stored = read(self.codes, ((first // each, last // each), *rest))
        maxima = self.maxima.read(read, first // block, last // block)
        rows = out.reshape(-1, block)
        octets = np.ascontiguousarray(stored).view(np.uint8)
        look_up(self.table, 4, octets.reshape(-1), rows.reshape(-1), upper_first=True)
        if not maxima.all() and (rows[maxima == 0] != 0).any():
            raise UnreadableError(
                Reason("not-computed", f"{self.maxima.stored.name} holds 0 for codes that are not")
            )
        rows *= maxima[:, None]

    @property
    def coarse(self) -> bool:
        """See `Effective.coarse`."""
        return self.maxima.size >= FEW

    def in_codes(self, read: Read, box: Box) -> Codes | None:
        """See `Effective.in_codes`: elements that follow each other are one row."""
        first = int(np.ravel_multi_index([start for start, _ in box], self.shape))
        shape, block = box_shape(box), self.maxima.size
        last = first + math.prod(shape)
        if int(np.ravel_multi_index([stop - 1 for _, stop in box], self.shape)) != last - 1:
            return None
        each = 2 * (self.codes.dtype.itemsize if self.codes.dtype is not None else 1)
        rest = ((0, 1),) * (len(self.codes.shape) - 1)
        maxima = self.maxima.read(read, first // block, -(-last // block))
        table = floats_of(self.table, 4, upper_first=True)
        if table is None or not maxima.all():
            return None
        stored = read(self.codes, ((first // each, -(-last // each)), *rest))
        octets = np.ascontiguousarray(stored).view(np.uint8).reshape(-1)
        return Codes(
            shape=shape,
            octets=octets_of(octets, table, skip=first % each),
            length=last - first,
            numbers=np.zeros(1, np.int64),
            factors=maxima.reshape(1, -1),
            step=block,
            first=first % block,
        )

    def piece(self, read: Read, box: Box) -> NDArray[np.float64]:
        """See `Effective.piece`."""
        strides = [math.prod(self.shape[axis + 1 :]) for axis in range(len(self.shape))]
        first = sum(start * stride for (start, _), stride in zip(box, strides, strict=True))
        last = sum((stop - 1) * stride for (_, stop), stride in zip(box, strides, strict=True))
        if last - first >= _SPAN:
            return self._halves(read, box)
        codes, skipped = self._codes(read, first, last + 1)
        begin = first // self.maxima.size
        maxima = self.maxima.read(read, begin, last // self.maxima.size + 1)
        spread = maxima.repeat(self.maxima.size)[first - begin * self.maxima.size :]
        weights = np.array(self.table)[codes[skipped : skipped + last + 1 - first]]
        scale = spread[: len(weights)]
        if not maxima.all() and (weights[scale == 0] != 0).any():
            raise UnreadableError(
                Reason("not-computed", f"{self.maxima.stored.name} holds 0 for codes that are not")
            )
        weights *= scale
        shape = box_shape(box)
        if len(weights) == math.prod(shape):
            return weights.reshape(shape)
        where = np.zeros(shape, np.int64)
        for axis, (stride, extent) in enumerate(zip(strides, shape, strict=True)):
            steps = stride * np.arange(extent)
            where += steps.reshape([-1 if i == axis else 1 for i in range(len(box))])
        return weights[where]

    @property
    def recoded(self) -> Tensor | None:
        """See `Effective.recoded`."""
        return self.codes

    def recode(self, read: Read, box: Box, wanted: Wanted) -> tuple[Box, NDArray[Any]]:
        """See `Effective.recode`: the codes that, with the maxima as they are, come nearest."""
        inside = np.ravel_multi_index(
            np.ix_(*(np.arange(start, stop) for start, stop in box)), self.shape
        ).reshape(-1)
        first, last = int(inside[0]), int(inside[-1]) + 1
        codes, begin = self._codes(read, first, last)
        maxima = self.maxima.read(
            read, first // self.maxima.size, (last - 1) // self.maxima.size + 1
        )
        scale = maxima[inside // self.maxima.size - first // self.maxima.size]
        with np.errstate(all="ignore"):
            flat = wanted.flat()
            flat = flat.instead(flat.numbers / scale)
        where = inside - first + begin
        codes[where] = np.where(flat.chosen, levels_of(self.table).encode(flat), codes[where])
        each = 2 * (self.codes.dtype.itemsize if self.codes.dtype is not None else 1)
        rest = ((0, 1),) * (len(self.codes.shape) - 1)
        place = ((first // each, -(-last // each)), *rest)
        assert self.codes.dtype is not None
        stored = (codes[::2] << 4 | codes[1::2]).view(self.codes.dtype.numpy)
        return place, stored.reshape(box_shape(place))

    def _halves(self, read: Read, box: Box) -> NDArray[np.float64]:
        """The same of a box whose ends lie far apart."""
        axis = next(i for i, (start, stop) in enumerate(box) if stop - start > 1)
        start, stop = box[axis]
        cuts = ((start, (start + stop) // 2), ((start + stop) // 2, stop))
        return np.concatenate(
            [self.piece(read, (*box[:axis], half, *box[axis + 1 :])) for half in cuts], axis
        )

    def _codes(self, read: Read, first: int, last: int) -> tuple[NDArray[np.uint8], int]:
        """The codes of elements, and how many come before the first."""
        each = 2 * (self.codes.dtype.itemsize if self.codes.dtype is not None else 1)
        begin, end = first // each, -(-last // each)
        rest = ((0, 1),) * (len(self.codes.shape) - 1)
        found = np.ascontiguousarray(read(self.codes, ((begin, end), *rest))).reshape(-1)
        stored = found.view(np.uint8)
        return np.stack([stored >> 4, stored & 15], axis=-1).reshape(-1), first - begin * each


def four_bits(members: Members) -> Tensor:
    """Return the weight of bitsandbytes' nf4 or fp4 codes, of the shape that its state tells.

    Raises:
        NotComputedError: its state cannot be understood, or the parts do not fit it.
    """
    kept = ("", ".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map")
    members.only(*kept, *_STATES)
    codes, absmax = members.need(""), members.need(".absmax")
    state = _state(members)
    shape, size = _shape(state), _positive(state, "blocksize")
    count = math.prod(shape)
    if codes.shape[:1] != (codes.size,) or codes.nbytes != _stored_bytes(count, codes):
        raise NotComputedError(misfit(codes, shape))
    if absmax.shape != (-(-count // size),):
        raise NotComputedError(misfit(absmax, shape))
    table = _table(members, state)
    storage = Blockwise(
        words=f"{state['quant_type']} codes {codes.name} and maxima {absmax.name}, one for {size} "
        f"weights{'' if '.nested_absmax' not in members.tensors else ', quantised themselves'}",
        codes=codes,
        shape=shape,
        table=table,
        maxima=_maxima(members, state, absmax, size),
        others=tuple(t for e, t in members.tensors.items() if e not in kept[:2] + kept[3:4]),
    )
    return members.computed(shape, storage, HALF_STEP)


def _stored_bytes(count: int, codes: Tensor) -> int:
    itemsize = codes.dtype.itemsize if codes.dtype is not None else 1
    return -(-count // (2 * itemsize)) * itemsize


def _state(members: Members) -> Mapping[str, Any]:
    """What the tensor of the state says, a JSON object in bytes."""
    stored = members.need(*_STATES)
    if dtype_name(stored) != "uint8" or len(stored.shape) != 1:
        raise NotComputedError(f"{stored.name} holds no text")
    text = bytes(members.small(stored))
    state = parse_strict(text, max_depth=4, max_bytes=1 << 16, what="quantisation state")
    if not isinstance(state, dict) or state.get("quant_type") not in _TABLES:
        raise NotComputedError("its quantisation state is of no known kind")
    return state


def _positive(state: Mapping[str, Any], key: str) -> int:
    value = state.get(key)
    if type(value) is not int or not 0 < value <= 1 << 16:
        raise NotComputedError(f"its quantisation state has no usable {key}")
    return value


def _shape(state: Mapping[str, Any]) -> tuple[int, ...]:
    shape = state.get("shape")
    if not isinstance(shape, list) or not all(type(n) is int and n > 0 for n in shape):
        raise NotComputedError("its quantisation state has no usable shape")
    if not 0 < len(shape) <= 8:
        raise NotComputedError("its quantisation state has no usable shape")
    return tuple(shape)


def _table(members: Members, state: Mapping[str, Any]) -> tuple[float, ...]:
    """The values of the codes; the library uses its own, so the file's must not differ."""
    own = _TABLES[state["quant_type"]]
    stored = members.need(".quant_map")
    values = np.asarray(members.small(stored), np.float64).reshape(-1)
    if values.shape != (len(own),) or not np.allclose(values, own, rtol=1e-6, atol=1e-7):
        raise NotComputedError(f"{stored.name} is not the table of {state['quant_type']}")
    return tuple(map(float, values))


def _maxima(members: Members, state: Mapping[str, Any], absmax: Tensor, size: int) -> Maxima:
    outer = members.get(".nested_absmax")
    if outer is None:
        if absmax.dtype is None or not absmax.dtype.unit_roundoff:
            raise NotComputedError(f"{absmax.name} is {dtype_name(absmax)}")
        return Maxima(absmax, size)
    inner, offset = _positive(state, "nested_blocksize"), state.get("nested_offset")
    if dtype_name(absmax) != "uint8" or outer.shape != (-(-absmax.size // inner),):
        raise NotComputedError(misfit(outer, absmax.shape))
    table = np.asarray(members.small(members.need(".nested_quant_map")), np.float64).reshape(-1)
    if table.shape != (256,) or not np.isfinite(table).all() or not _is_offset(offset):
        raise NotComputedError("its quantisation state and its tables do not fit")
    return Maxima(absmax, size, tuple(map(float, table)), outer, inner, float(offset))


def _is_offset(offset: object) -> TypeGuard[float]:
    """Whether it may be the mean of maxima, which are not negative."""
    return (
        isinstance(offset, int | float) and not isinstance(offset, bool) and 0 <= offset < math.inf
    )


def _not_negative(maxima: NDArray[np.float64], of: Tensor) -> NDArray[np.float64]:
    if (maxima < 0).any():
        raise UnreadableError(Reason("not-computed", f"the maxima {of.name} hold negative numbers"))
    return maxima
