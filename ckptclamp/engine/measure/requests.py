"""Requests, what they are handed to workers as, and what these answer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptclamp.checkpoints.tensor import Box, Tensor, box_shape
from ckptclamp.constraints.base import Statistic, UnitStatistics
from ckptclamp.engine.blocks import Grid, Workspace, kept_axes
from ckptclamp.engine.measure.statistics import (
    Partial,
)
from ckptclamp.errors import Reason, UnreadableError
from ckptclamp.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ckptclamp.checkpoints.checkpoint import TensorReader


@frozen
class Request:
    """What to measure of one tensor.

    `axes` are the reduced axes, sorted and non-negative. Empty means that every weight is a unit of
    its own; `bounds` may then hold the closed interval to screen blocks with, so that only blocks
    with a weight outside of it come back weight by weight.
    """

    tensor: Tensor
    axes: tuple[int, ...]
    needs: frozenset[Statistic]
    bounds: tuple[float, float] | None = None

    @property
    def kept(self) -> tuple[int, ...]:
        """The axes along which units are counted."""
        return kept_axes(len(self.tensor.shape), self.axes)

    @property
    def unit(self) -> int:
        """Weights in a unit."""
        return math.prod(self.tensor.shape[axis] for axis in self.axes)

    def finished(self, place: int, units: Box, partial: Partial) -> Batch:
        """Answer with units that are complete; `place` is this request's."""
        with np.errstate(all="ignore"):
            return Batch(place, units, partial.statistics(self.needs, self.unit))


@frozen
class Batch:
    """Statistics of some units of one request, in C order of `units`.

    `request` is the request's place in the sequence that was asked for; `units` is the box of kept
    axes that the units fill.
    """

    request: int
    units: Box
    statistics: UnitStatistics


@frozen
class Screened:
    """Units that are single weights, all finite and all inside the bounds: only their extremes."""

    request: int
    count: int
    minimum: float
    maximum: float

    def followed_by(self, other: Screened) -> Screened:
        """These units and the next ones."""
        low, high = min(other.minimum, self.minimum), max(other.maximum, self.maximum)
        return Screened(self.request, self.count + other.count, low, high)


@frozen
class Failed:
    """A request whose tensor could not be read; the others go on."""

    request: int
    reason: Reason
    hint: str | None = None


Measurement = Batch | Screened | Failed
"""What the engine answers, piece by piece."""


WORKSPACE = Workspace()
"""The buffers of this thread, whatever it works on."""


@frozen
class Group:
    """Requests, by their place, that are measured in one read of one tensor."""

    tensor: Tensor
    grid: Grid
    requests: tuple[tuple[int, Request], ...]
    large: bool = False
    """Whether the grid is one of `grid_in_codes`."""

    def weightwise(self, answers: Sequence[Answer]) -> int:
        """Bytes of `answers` that have numbers for each weight, because it could not be screened."""
        screening = {place for place, request in self.requests if request.bounds is not None}
        batches = (answer for answer in answers if isinstance(answer, Batch))
        return sum(batch.statistics.nbytes for batch in batches if batch.request in screening)

    def failed(self, reason: Reason, hint: str | None = None) -> list[Answer]:
        """Answer every request by `Failed`."""
        return [Failed(place, reason, hint) for place, _ in self.requests]


@frozen
class Segment:
    """Boxes `first` to `last` (exclusive) of a group's grid."""

    group: Group
    first: int
    last: int

    @property
    def nbytes(self) -> int:
        """Bytes of weights, about; all segments of a tensor have its bytes exactly."""
        boxes, nbytes = len(self.group.grid), self.group.tensor.nbytes
        return self.last * nbytes // boxes - self.first * nbytes // boxes


ANSWERS = 1 << 20
"""Bytes of answers to what is handed over at once; more where a single segment has more."""

Item = tuple[Segment, ...]
"""What is handed to a worker at once: one segment, or several small ones."""


@frozen
class Part:
    """Statistics of `weights` weights of units that other segments have weights of, too."""

    request: int
    units: Box
    weights: int
    partial: Partial

    def followed_by(self, other: Part) -> Part:
        """Merge a part of the same units that comes after; this one is used up."""
        with np.errstate(all="ignore"):
            self.partial.merge(other.partial)
        return Part(self.request, self.units, self.weights + other.weights, self.partial)


@frozen
class Left:
    """The last so many segments of an item were not measured: what was answered before is much."""

    segments: int


Answer = Part | Batch | Screened | Failed


def read(reader: TensorReader, tensor: Tensor, box: Box, buffer_name: str = "read") -> NDArray[Any]:
    """Read `box` into a buffer of this thread.

    Raises:
        UnreadableError: as `TensorReader.read`; or the reader gave something else than was asked.
    """
    assert tensor.dtype is not None
    shape = box_shape(box)
    buffer = WORKSPACE.bytes(buffer_name, math.prod(shape) * tensor.dtype.itemsize)
    block = reader.read(tensor, box, buffer.data)
    if block.shape != shape or block.dtype != tensor.dtype.numpy:
        raise UnreadableError(
            f"asked for {tensor.dtype} {shape}, got {block.dtype} {block.shape}", tensor=tensor.name
        )
    return block
