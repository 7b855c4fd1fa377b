"""Codes with scales: (code - zero point) · scale, where groups of weights share scale and zero point."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ckptclamp.errors import Reason, UnreadableError
from ckptclamp.frozen import frozen
from ckptclamp.models.effective.numbers import Plain, cut, view_of
from ckptclamp.models.effective.weights import PIECE, Effective, Rescaling, is_fine

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from ckptclamp.checkpoints.tensor import Box, Read, Tensor
    from ckptclamp.models.effective.levels import Wanted
    from ckptclamp.models.effective.numbers import Numbers

T = TypeVar("T")

_READ = 1 << 20
"""Codes that are read at once."""

_FAR = 1 << 12
"""Groups that are read for few weights, at most: in a model, all that there are."""


@frozen
class Shared:
    """Numbers that groups of weights share.

    `blocks` says for each axis of the weight how many indices one number spans. `axes` are the axes
    of the weight along which the numbers lie, in order; others have one for all.
    """

    numbers: Numbers
    blocks: tuple[int, ...]
    axes: tuple[int, ...]

    def read(self, read: Read, box: Box, groups: Groups | None = None) -> Spread:
        """Return the numbers that `box` of the weight needs, and how they spread over it."""
        spans: list[tuple[int, int]] = [(0, 1)] * len(box)
        indices: dict[int, NDArray[np.int64]] = {}
        for axis in self.axes:
            start, stop = box[axis]
            if groups is not None and axis == groups.axis:
                where = groups.read(read, box[axis], self.numbers.shape[self.axes.index(axis)])
                spans[axis] = (int(where.min()), int(where.max()) + 1)
                indices[axis] = where - spans[axis][0]
            else:
                block = self.blocks[axis]
                spans[axis] = (start // block, (stop - 1) // block + 1)
        stored = self.numbers.read(read, self._stored([spans[axis] for axis in self.axes]))
        found = stored.reshape([b - a for a, b in spans])
        return Spread(found, tuple(a for a, _ in spans), box, self.blocks, indices)

    def _stored(self, spans: Sequence[tuple[int, int]]) -> Box:
        """The box of the numbers; one number for all may have any rank."""
        return tuple(spans) if spans else ((0, 1),) * len(self.numbers.shape)


@frozen
class Spread:
    """Numbers `found` from `first` on, which spread over `box` by blocks or, per axis, by `indices`."""

    found: NDArray[np.float64]
    first: tuple[int, ...]
    box: Box
    blocks: tuple[int, ...]
    indices: dict[int, NDArray[np.int64]]

    def part(self, part: Box) -> Spread:
        """Return what spreads over `part` of the box."""
        place, first, indices = [slice(None)] * len(part), list(self.first), dict(self.indices)
        for axis, (start, stop) in enumerate(part):
            if axis in indices:
                begin = self.box[axis][0]
                indices[axis] = indices[axis][start - begin : stop - begin]
            elif self.found.shape[axis] > 1:
                first[axis] = start // self.blocks[axis]
                last = (stop - 1) // self.blocks[axis] + 1
                place[axis] = slice(first[axis] - self.first[axis], last - self.first[axis])
        return Spread(self.found[tuple(place)], tuple(first), part, self.blocks, indices)

    def turned(self) -> Spread:
        """The same with the last two axes swapped."""
        rank = len(self.box)
        other = {rank - 1: rank - 2, rank - 2: rank - 1}
        return Spread(
            self.found.swapaxes(-1, -2),
            _swapped(self.first),
            _swapped(self.box),
            _swapped(self.blocks),
            {other.get(axis, axis): index for axis, index in self.indices.items()},
        )

    def apply(self, ufunc: np.ufunc, out: NDArray[np.float64]) -> None:
        """Apply `ufunc` to `out`, an array of the box, and the numbers, in place."""
        if self.indices:
            ufunc(out, self.over(), out=out)
            return
        shape, grid = [], []
        for axis, (start, stop) in enumerate(self.box):
            count, block = self.found.shape[axis], self.blocks[axis]
            if count == 1 or block == 1:
                shape.append(stop - start)
                grid.append(count)
            elif start % block or stop % block:
                self._by_parts(ufunc, out, axis)
                return
            else:
                shape += [count, block]
                grid += [count, 1]
        whole = out.reshape(shape)  # a view: axes are only split
        ufunc(whole, self.found.reshape(grid), out=whole)

    def _by_parts(self, ufunc: np.ufunc, out: NDArray[np.float64], axis: int) -> None:
        """The same of what lies before the first whole block of an axis, within whole ones, and after."""
        (start, stop), block = self.box[axis], self.blocks[axis]
        cuts = sorted({start, -(-start // block) * block, stop // block * block, stop})
        for a, b in itertools.pairwise(cuts):
            place = (slice(None),) * axis
            part = self.part((*self.box[:axis], (a, b), *self.box[axis + 1 :]))
            part.apply(ufunc, out[(*place, slice(a - start, b - start))])

    def over(self) -> NDArray[np.float64]:
        """Return what broadcasts with an array of the box."""
        found = self.found
        for axis, (start, stop) in enumerate(self.box):
            if found.shape[axis] == 1:
                continue
            block, begin = self.blocks[axis], start - self.first[axis] * self.blocks[axis]
            if axis in self.indices:
                found = found.take(self.indices[axis], axis)
            elif found.shape[axis] * block > 2 * (stop - start):
                found = found.take(np.arange(begin, begin + stop - start) // block, axis)
            elif block > 1:
                whole = found.repeat(block, axis)
                found = whole[(*(slice(None),) * axis, slice(begin, begin + stop - start))]
        return found


@frozen
class Groups:
    """The group of each index along `axis` of the weight, as a tensor of indices says."""

    tensor: Tensor
    axis: int

    def read(self, read: Read, span: tuple[int, int], count: int) -> NDArray[np.int64]:
        """Return the groups of the indices in `span`.

        Raises:
            UnreadableError: one is not below `count`, or they are scattered over very many.
        """
        found = read(self.tensor, (span,)).astype(np.int64)
        if found.min() < 0 or found.max() >= count:
            raise UnreadableError(
                Reason(
                    "not-computed", f"{self.tensor.name} names groups that there are no scales for"
                )
            )
        if found.max() - found.min() > _FAR + 4 * len(found):
            raise UnreadableError(
                Reason("not-computed", f"{self.tensor.name} names groups that lie too far apart")
            )
        return found


@frozen
class _Factors:
    """The `product` of scales, and those of them, by name, that hold 0 somewhere.

    NaN and infinities make weights that are judged as such. A scale of 0 says something only where
    its codes do.
    """

    product: Spread
    zeros: Sequence[tuple[str, Spread]]

    def turned(self) -> _Factors:
        """The same with the last two axes swapped."""
        zeros = [(name, spread.turned()) for name, spread in self.zeros]
        return _Factors(self.product.turned(), zeros)

    def check(self, weights: NDArray[np.float64], part: Box) -> None:
        """Refuse scales of 0 for codes less zero points (`weights` of `part` of the box) that are not."""
        for name, spread in self.zeros:
            wiped = np.broadcast_to(spread.part(part).over() == 0, weights.shape)
            if (weights[wiped] != 0).any():
                raise UnreadableError(
                    Reason("not-computed", f"the scales {name} hold 0 for codes that are not")
                )


@frozen
class Grouped(Effective):
    """(code - zero point) · scale, the scale a product of `scales` divided by `divisors`.

    Of scales and divisors all but the first are one number each. With `transposed` the codes lie with
    their last two axes swapped. `constant` divides too.
    """

    words: str
    codes: Numbers
    scales: tuple[Shared, ...]
    divisors: tuple[Shared, ...] = ()
    zero: Shared | None = None
    groups: Groups | None = None
    transposed: bool = False
    constant: float = 1.0

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """See `Computed.parts`."""
        shared = (*self.scales, *self.divisors, *([self.zero] if self.zero else []))
        index = [self.groups.tensor] if self.groups else []
        return (self.codes.tensor, *(s.numbers.tensor for s in shared), *index)

    @property
    def swapped(self) -> bool:
        """See `Computed.swapped`."""
        return self.transposed

    def pieces(self, box: Box) -> Iterable[Box]:
        """See `Effective.pieces`; long runs of what is stored are read at once."""
        if not self.transposed:
            return cut(box, _READ)
        return map(_swapped, cut(_swapped(box), _READ))

    def fill(self, read: Read, box: Box, out: NDArray[np.float64]) -> None:
        """See `Effective.fill`; what is stored is read at once, and decoded in parts that a cache holds."""
        inner = _swapped(box) if self.transposed else box
        decode, factors = self.codes.decoder(read, inner), self._factors(read, inner)
        zero = None if self.zero is None else self.zero.read(read, inner, self.groups)
        if self.transposed:
            factors, zero = factors.turned(), None if zero is None else zero.turned()
        scratch = np.empty(0)
        for part in cut(box, PIECE):
            target = weights = view_of(out, box, part)
            if not target.flags.c_contiguous:
                scratch = scratch if scratch.size >= target.size else np.empty(target.size)
                weights = scratch[: target.size].reshape(target.shape)
            if self.transposed:
                decode(_swapped(part), weights.swapaxes(-1, -2))
            else:
                decode(part, weights)
            if zero is not None:
                zero.part(part).apply(np.subtract, weights)
            factors.check(weights, part)
            factors.product.part(part).apply(np.multiply, weights)
            if self.constant != 1:
                weights /= self.constant
            if weights is not target:
                target[...] = weights

    def _factors(self, read: Read, inner: Box) -> _Factors:
        """By what codes less zero points are multiplied, but for the constant."""
        scales = [(shared, shared.read(read, inner, self.groups)) for shared in self.scales]
        divisors = [(shared, shared.read(read, inner)) for shared in self.divisors]
        for shared, spread in (*scales, *divisors):
            if (spread.found < 0).any():
                name = shared.numbers.tensor.name
                raise UnreadableError(
                    Reason("not-computed", f"the scales {name} hold negative numbers")
                )
        for shared, spread in divisors:
            if np.isinf(spread.found).any():
                raise UnreadableError(
                    Reason("not-computed", f"{shared.numbers.tensor.name} divides by infinity")
                )
        product = scales[0][1]
        for _, spread in scales[1:]:
            product = replace(product, found=product.found * spread.found)
        for _, spread in divisors:
            product = replace(product, found=product.found / spread.found)
        zeros = [
            (shared.numbers.tensor.name, spread)
            for shared, spread in (*scales, *divisors)
            if not spread.found.all()
        ]
        return _Factors(product, zeros)

    def rescaling(self, axes: tuple[int, ...]) -> Rescaling | None:
        """See `Effective.rescaling`: scales of which none is shared by two units."""
        rank = len(self.scales[0].blocks)
        turned = (*range(rank - 2), rank - 1, rank - 2) if self.transposed else tuple(range(rank))
        kept = {turned[axis] for axis in range(rank) if axis not in axes}
        for shared in self.scales:
            part = shared.numbers.tensor
            if isinstance(shared.numbers, Plain) and is_fine(part) and self._apart(shared, kept):
                if not kept:
                    return Rescaling(part, (None,) * len(part.shape))
                return Rescaling(
                    part, tuple(turned[axis] if axis in kept else None for axis in shared.axes)
                )
        return None

    def _apart(self, shared: Shared, kept: set[int]) -> bool:
        """Whether each index along each of the axes that are `kept` has numbers of its own."""
        grouped = None if self.groups is None else self.groups.axis
        return all(
            axis in shared.axes and shared.blocks[axis] == 1 and axis != grouped for axis in kept
        )

    @property
    def recoded(self) -> Tensor | None:
        """See `Effective.recoded`."""
        return self.codes.tensor if self.codes.encodes else None

    def recode(self, read: Read, box: Box, wanted: Wanted) -> tuple[Box, NDArray[Any]]:
        """See `Effective.recode`: the codes that, with the scales as they are, come nearest."""
        inner = box
        if self.transposed:
            inner, wanted = _swapped(box), wanted.turned()
        with np.errstate(all="ignore"):
            factor = self._factors(read, inner).product.over()
            numbers = wanted.numbers * self.constant / factor
            if self.zero is not None:
                numbers += self.zero.read(read, inner, self.groups).over()
        return self.codes.encode(read, inner, wanted.instead(numbers))


def _swapped(box: tuple[T, ...]) -> tuple[T, ...]:
    return (*box[:-2], box[-1], box[-2])
