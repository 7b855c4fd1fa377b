"""Numbers that groups of weights share: scales and zero points, and how they spread over a box."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from ckptclamp.errors import Reason, UnreadableError
from ckptclamp.frozen import frozen
from ckptclamp.models.effective.codes import Codes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ckptclamp.checkpoints.tensor import Box, Read, Tensor
    from ckptclamp.models.effective.codes import Octets
    from ckptclamp.models.effective.numbers import Numbers

T = TypeVar("T")

_FAR = 1 << 12
"""Groups that are read for few weights, at most: in a model, all that there are."""

FEW = 16
"""Codes, at least, for each of the numbers that they share where these are few."""

_SHORT = 4
"""Of rows with fewer codes than these, their places and scales would be larger than the weights."""


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
            swapped(self.first),
            swapped(self.box),
            swapped(self.blocks),
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

    def rows(self, axes: int) -> NDArray[np.int64]:
        """Which row of the numbers found, counted in C order, each row of the box has.

        A row spans the last `axes` axes.
        """
        lead = len(self.box) - axes
        shape = self.found.shape[:lead]
        which = np.arange(math.prod(shape), dtype=np.float64).reshape(shape)
        indices = {axis: index for axis, index in self.indices.items() if axis < lead}
        spread = Spread(
            which, self.first[:lead], self.box[:lead], self.blocks[:lead], indices
        ).over()
        rows = [stop - start for start, stop in self.box[:lead]]
        return np.broadcast_to(spread, rows).astype(np.int64).reshape(-1)


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


def swapped(box: tuple[T, ...]) -> tuple[T, ...]:
    """The same with the last two axes swapped."""
    return (*box[:-2], box[-1], box[-2])


def in_codes(octets: Octets, box: Box, spreads: Sequence[Spread], divisor: float) -> Codes | None:
    """Return `box` in codes with the factors and, if there are any, the zero points in `spreads`.

    A row is as many of the last axes as have one number for all; else the last axis. ``None`` where
    zero points spread otherwise than the factors do, or rows are so short that what is said of each would
    take more memory than its weights.
    """
    grid = _common(spreads)
    if grid is None:
        return None
    extents = [stop - start for start, stop in box]
    axes, last = 1, len(box) - 1
    dense = (
        not octets.cell and not octets.skip and octets.stored.shape[-1] * octets.per == extents[-1]
    )
    while dense and axes < len(box) and math.prod(grid.found.shape[-axes - 1 :]) == 1:
        axes += 1
    rows, length = math.prod(extents[:-axes]), math.prod(extents[-axes:])
    if length < _SHORT:
        return None
    if axes > 1:
        octets = replace(octets, stored=octets.stored.reshape(1, rows, -1))
    groups = grid.found.shape[-1]
    factors, *zeros = (
        np.ascontiguousarray(np.broadcast_to(s.found, grid.found.shape)).reshape(-1, groups)
        for s in spreads
    )
    step, block = grid.blocks[-1] if groups > 1 else length, grid.blocks[-1]
    return Codes(
        shape=tuple(extents),
        octets=octets,
        length=length,
        numbers=grid.rows(axes),
        factors=factors,
        zeros=zeros[0] if zeros else None,
        step=step,
        first=box[-1][0] - grid.first[-1] * block if groups > 1 else 0,
        group_of=grid.indices[last].astype(np.int32) if last in grid.indices else None,
        divisor=divisor,
    )


def _common(spreads: Sequence[Spread]) -> Spread | None:
    """How all of them spread over their box; ``None`` where they differ."""
    first, blocks, indices, shape = [], [], {}, []
    for axis in range(len(spreads[0].box)):
        along = [spread for spread in spreads if spread.found.shape[axis] > 1] or spreads[:1]
        one = along[0]
        if any(
            (s.found.shape[axis], s.first[axis], s.blocks[axis], axis in s.indices)
            != (one.found.shape[axis], one.first[axis], one.blocks[axis], axis in one.indices)
            for s in along
        ):
            return None
        shape.append(one.found.shape[axis])
        first.append(one.first[axis])
        blocks.append(one.blocks[axis])
        if axis in one.indices:
            indices[axis] = one.indices[axis]
    return Spread(np.empty(shape), tuple(first), spreads[0].box, tuple(blocks), indices)
