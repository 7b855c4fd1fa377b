"""Codes with scales: (code - zero point) · scale, where groups of weights share scale and zero point."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptclamp.errors import Reason, UnreadableError
from ckptclamp.frozen import frozen
from ckptclamp.models.effective.numbers import Plain, cut, view_of
from ckptclamp.models.effective.quantised.shared import (
    FEW,
    Groups,
    Shared,
    Spread,
    in_codes,
    swapped,
)
from ckptclamp.models.effective.weights import PIECE, Effective, Rescaling, is_fine

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from ckptclamp.checkpoints.tensor import Box, Read, Tensor
    from ckptclamp.models.effective.codes import Codes
    from ckptclamp.models.effective.levels import Wanted
    from ckptclamp.models.effective.numbers import Numbers

_READ = 1 << 20
"""Codes that are read at once."""


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
        return map(swapped, cut(swapped(box), _READ))

    def fill(self, read: Read, box: Box, out: NDArray[np.float64]) -> None:
        """See `Effective.fill`; what is stored is read at once, and decoded in parts that a cache holds."""
        inner = swapped(box) if self.transposed else box
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
                decode(swapped(part), weights.swapaxes(-1, -2))
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

    @property
    def coarse(self) -> bool:
        """See `Effective.coarse`."""
        shared = (*self.scales, *([self.zero] if self.zero else []))
        most = max(math.prod(s.numbers.shape) for s in shared)
        return FEW * most <= math.prod(self.codes.shape)

    def in_codes(self, read: Read, box: Box) -> Codes | None:
        """See `Effective.in_codes`; scales of 0 are looked at by `compute`."""
        inner = swapped(box) if self.transposed else box
        factors = self._factors(read, inner)
        octets = self.codes.octets(read, inner, turned=self.transposed)
        if octets is None or factors.zeros or not box:
            return None
        spreads = [factors.product]
        if self.zero is not None:
            spreads.append(self.zero.read(read, inner, self.groups))
        if self.transposed:
            spreads = [spread.turned() for spread in spreads]
        return in_codes(octets, box, spreads, self.constant)

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
            inner, wanted = swapped(box), wanted.turned()
        with np.errstate(all="ignore"):
            factor = self._factors(read, inner).product.over()
            numbers = wanted.numbers * self.constant / factor
            if self.zero is not None:
                numbers += self.zero.read(read, inner, self.groups).over()
        return self.codes.encode(read, inner, wanted.instead(numbers))
