"""Codes with scales: (code - zero point) · scale, where groups of weights share scale and zero point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptclamp.errors import Reason, UnreadableError
from ckptclamp.models.effective.numbers import Packed, Plain, cut
from ckptclamp.models.effective.weights import PIECE, Effective, Rescaling, is_fine

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from ckptclamp.checkpoints.tensor import Box, Read, Tensor
    from ckptclamp.models.effective.levels import Wanted
    from ckptclamp.models.effective.numbers import Numbers

_FAR = 1 << 12
"""Groups that are read for few weights, at most: in a model, all that there are."""


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Spread:
    """Numbers `found` from `first` on, which spread over `box` by blocks or, per axis, by `indices`."""

    found: NDArray[np.float64]
    first: tuple[int, ...]
    box: Box
    blocks: tuple[int, ...]
    indices: dict[int, NDArray[np.int64]]

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


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Grouped(Effective):
    """(code - zero point) · scale, the scale a product of `scales` divided by `divisors`.

    With `transposed` the codes lie with their last two axes swapped. `constant` divides too.
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

    def pieces(self, box: Box) -> Iterable[Box]:
        """See `Effective.pieces`; long runs of what is stored are read at once."""
        if not self.transposed:
            return cut(box, PIECE)
        return map(_swapped, cut(_swapped(box), PIECE))

    def piece(self, read: Read, box: Box) -> NDArray[np.float64]:
        """See `Effective.piece`."""
        inner = _swapped(box) if self.transposed else box
        weights = self.codes.read(read, inner)
        if self.zero is not None:
            weights -= self.zero.read(read, inner, self.groups).over()
        weights *= self._factor(read, inner, weights)
        if self.constant != 1:
            weights /= self.constant
        return weights.swapaxes(-1, -2) if self.transposed else weights

    def _factor(self, read: Read, inner: Box, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """By what codes less zero points (`weights`) are multiplied, but for the constant."""
        scales = [(shared, shared.read(read, inner, self.groups)) for shared in self.scales]
        divisors = [(shared, shared.read(read, inner)) for shared in self.divisors]
        for shared, spread in (*scales, *divisors):
            _check(weights, shared, spread)
        for shared, spread in divisors:
            if np.isinf(spread.found).any():
                raise UnreadableError(
                    Reason("not-computed", f"{shared.numbers.tensor.name} divides by infinity")
                )
        factor = scales[0][1].over()
        for _, spread in scales[1:]:
            factor = factor * spread.over()
        for _, spread in divisors:
            factor = factor / spread.over()
        return factor

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
            factor = self._factor(read, inner, np.zeros(wanted.shape))
            numbers = wanted.numbers * self.constant / factor
            if self.zero is not None:
                numbers += self.zero.read(read, inner, self.groups).over()
        return self.codes.encode(read, inner, wanted.instead(numbers))


def _swapped(box: Box) -> Box:
    return (*box[:-2], box[-1], box[-2])


def _check(weights: NDArray[np.float64], shared: Shared, spread: Spread) -> None:
    """Refuse what no scale can be; NaN and infinities make weights that are judged as such.

    A scale of 0 says something only where its codes do.
    """
    name = shared.numbers.tensor.name
    if (spread.found < 0).any():
        raise UnreadableError(Reason("not-computed", f"the scales {name} hold negative numbers"))
    if not spread.found.all():
        wiped = np.broadcast_to(spread.over() == 0, weights.shape)
        if (weights[wiped] != 0).any():
            raise UnreadableError(
                Reason("not-computed", f"the scales {name} hold 0 for codes that are not")
            )


@dataclass(frozen=True, slots=True)
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
