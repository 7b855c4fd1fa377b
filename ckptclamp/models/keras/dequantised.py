"""Weights that are stored as small integers with scales, computed box by box as Keras does.

Boxes of such a weight become rectangles of the matrix that its integers form, and a rectangle needs
little more than its own integers and scales in memory. Everything is computed in float32, as Keras
computes under its default dtype policy.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ckptclamp.checkpoints.tensor import plan_runs
from ckptclamp.errors import Reason, UnreadableError
from ckptclamp.frozen import frozen
from ckptclamp.models.effective.weights import Effective, Rescaling, is_fine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from ckptclamp.checkpoints.tensor import Box, Read, Tensor

Range = tuple[int, int]


@frozen
class Dequantised(Effective):
    """A weight that is stored as small integers with scales, and computed where it is read.

    The weight's elements, in C order, fill a `matrix` of (rows, columns). `values` holds their
    integers q: of the weight's own shape, or two to a byte along the axis `packed` of the matrix, the
    even one in the low half. Each index along the axis `kept` of the matrix has a scale of its own,
    in C order of `scale`, and the weight is q / scale. Where there are `groups` the other axis of the
    matrix is cut up too: its index i belongs to group ``groups[i]``, `scale` and `zero` are matrices
    of one row (or column) for each group, and the weight is (q - zero) · scale.

    `scaled` are, for each axis of `scale`, the axis of the weight, of so many axes as `rank` says, that it
    runs along, or ``None``; it is itself ``None`` where that cannot be told.
    """

    values: Tensor
    scale: Tensor
    matrix: tuple[int, int]
    kept: Literal[0, 1]
    packed: Literal[0, 1] | None = None
    zero: Tensor | None = None
    groups: Tensor | None = None
    scaled: tuple[int | None, ...] | None = None
    rank: int = 0

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """The tensors of the file that the weight is computed from."""
        every = (self.values, self.scale, self.zero, self.groups)
        return tuple(tensor for tensor in every if tensor is not None)

    @property
    def stored_as(self) -> str:
        """See `Computed.stored_as`."""
        return f"{'int8' if self.packed is None else 'int4'} values and their scales"

    @property
    def unprojected(self) -> str:
        """See `Computed.unprojected`."""
        return (
            f"it is quantised, and of its parts only {self.scale.name} is ever changed, which has no number "
            "for these units alone, or none for their single weights"
        )

    def rescaling(self, axes: tuple[int, ...]) -> Rescaling | None:
        """See `Effective.rescaling`: the scales, where no unit shares one with another."""
        kept = [axis for axis in range(self.rank) if axis not in axes]
        if self.scaled is None or not set(kept) <= set(self.scaled) or not is_fine(self.scale):
            return None
        runs = tuple(axis if axis in kept else None for axis in self.scaled)
        return Rescaling(self.scale, runs, divides=self.groups is None)

    def compute(self, read: Read, tensor: Tensor, box: Box, out: NDArray[Any]) -> None:
        """See `Computed.compute`."""
        flat, done = out.reshape(-1), 0
        with np.errstate(all="ignore"):
            for start, stop in _ranges(tensor.shape, box):
                for rectangle in boxes_of_range(self.matrix, start, stop):
                    weights = _rectangle(read, self, rectangle)
                    flat[done : done + weights.size] = weights.reshape(-1)
                    done += weights.size


def _ranges(shape: tuple[int, ...], box: Box) -> Iterator[Range]:
    """The runs of consecutive elements that make up `box`, in its own order."""
    for runs in plan_runs(shape, box, 1):
        for number in range(runs.count):
            start = runs.offset + number * runs.stride
            yield start, start + runs.length


def boxes_of_range(shape: tuple[int, ...], start: int, stop: int) -> Iterator[Box]:
    """Cut the elements ``start <= i < stop`` of a C-ordered array into boxes, in order."""
    if start >= stop:
        return
    if not shape:
        yield ()
        return
    row = math.prod(shape[1:])
    first, last = start // row, (stop - 1) // row
    if first == last:
        for inner in boxes_of_range(shape[1:], start - first * row, stop - first * row):
            yield ((first, first + 1), *inner)
        return
    whole = (first + (start > first * row), last + (stop == (last + 1) * row))
    if whole[0] > first:
        yield from boxes_of_range(shape, start, whole[0] * row)
    if whole[0] < whole[1]:
        yield (whole, *((0, extent) for extent in shape[1:]))
    if whole[1] == last:
        yield from boxes_of_range(shape, last * row, stop)


def _rectangle(read: Read, storage: Dequantised, rectangle: Box) -> NDArray[np.float32]:
    """The weights of a rectangle of the matrix."""
    integers = _integers(read, storage, rectangle).astype(np.float32)
    if storage.groups is None or storage.zero is None:
        own = _elements(read, storage.scale, *rectangle[storage.kept]).astype(np.float32)
        integers /= np.expand_dims(own, 1 - storage.kept)
        return integers
    groups = _groups(read, storage, storage.groups, rectangle[1 - storage.kept])
    zero = _of_groups(read, storage, storage.zero, groups, rectangle)
    integers -= zero
    integers *= _of_groups(read, storage, storage.scale, groups, rectangle)
    return integers


def _integers(read: Read, storage: Dequantised, rectangle: Box) -> NDArray[np.int8]:
    """The integers of a rectangle, which is one range of the matrix's elements."""
    shape = tuple(stop - start for start, stop in rectangle)
    axis = storage.packed
    if axis is None:
        start = rectangle[0][0] * storage.matrix[1] + rectangle[1][0]
        found = _elements(read, storage.values, start, start + math.prod(shape))
        return found.astype(np.int8, copy=False).reshape(shape)
    start, stop = rectangle[axis]
    packed: list[Range] = [*rectangle]
    packed[axis] = (start // 2, -(-stop // 2))
    pairs = read(storage.values, tuple(packed)).astype(np.int8, copy=False)
    # Shifting a signed byte to the right keeps the sign of its upper half.
    halves = np.stack([np.left_shift(pairs, 4) >> 4, pairs >> 4], axis=axis + 1)
    unpacked = halves.reshape([2 * n if i == axis else n for i, n in enumerate(pairs.shape)])
    place = [slice(None), slice(None)]
    place[axis] = slice(start % 2, start % 2 + stop - start)
    return unpacked[tuple(place)]


def _elements(read: Read, tensor: Tensor, start: int, stop: int) -> NDArray[Any]:
    """Elements of `tensor` in C order, as a vector."""
    boxes = boxes_of_range(tensor.shape, start, stop)
    return np.concatenate([read(tensor, box).reshape(-1) for box in boxes])


def _groups(read: Read, storage: Dequantised, groups: Tensor, where: Range) -> NDArray[np.int64]:
    """The group of each index along the axis that is cut into groups."""
    found = read(groups, (where,)).astype(np.float64)
    count = storage.scale.shape[1 - storage.kept]
    if not np.all((found >= 0) & (found < count) & (found == np.floor(found))):
        raise UnreadableError(
            Reason(
                "not-computed",
                f"{groups.name} names groups that {storage.scale.name} does not have",
            )
        )
    return found.astype(np.int64)


def _of_groups(
    read: Read,
    storage: Dequantised,
    tensor: Tensor,
    groups: NDArray[np.int64],
    rectangle: Box,
) -> NDArray[np.float32]:
    """What `tensor` holds for each weight of a rectangle."""
    cut = 1 - storage.kept
    shape = tuple(stop - start for start, stop in rectangle)
    out = np.empty(shape, np.float32)
    first = 0
    for group, members in itertools.groupby(groups.tolist()):
        last = first + sum(1 for _ in members)
        box: list[Range] = [*rectangle]
        box[cut] = (group, group + 1)
        place = [slice(None), slice(None)]
        place[cut] = slice(first, last)
        out[tuple(place)] = read(tensor, tuple(box))
        first = last
    return out
