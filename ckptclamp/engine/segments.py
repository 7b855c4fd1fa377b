"""What one worker does: read the boxes of a segment one by one and reduce them to statistics."""

from __future__ import annotations

import math
import pickle
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptclamp.checkpoints.tensor import Box, Tensor, box_shape
from ckptclamp.constraints.base import Statistic
from ckptclamp.engine.blocks import Grid, Workspace, adjacent
from ckptclamp.engine.requests import Batch, Failed, Request, Screened
from ckptclamp.engine.statistics import Partial, extremes_inside, measure_box, measured
from ckptclamp.errors import UnreadableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ckptclamp.checkpoints.checkpoint import TensorReader

WORKSPACE = Workspace()


@dataclass(frozen=True, slots=True)
class Group:
    """Requests, by their place, that are measured in one read of one tensor."""

    tensor: Tensor
    grid: Grid
    requests: tuple[tuple[int, Request], ...]


@dataclass(frozen=True, slots=True)
class Segment:
    """Boxes `first` to `last` (exclusive) of a group's grid."""

    group: Group
    first: int
    last: int


Item = tuple[Segment, ...]
"""What is handed to a worker at once: one segment, or several small ones."""


@dataclass(frozen=True, slots=True)
class Part:
    """Statistics of `weights` weights of units that other segments have weights of, too."""

    request: int
    units: Box
    weights: int
    partial: Partial


Answer = Part | Batch | Screened | Failed


def reduce_item(reader: TensorReader, item: Item) -> list[Answer]:
    """Measure every segment of `item`. A segment that cannot be read answers `Failed`."""
    with np.errstate(all="ignore"):
        return [answer for segment in item for answer in _reduce(reader, segment)]


def reduce_elsewhere(opener: bytes, item: Item) -> list[Answer]:
    """Do `reduce_item` in another process, which opens the checkpoint itself, once."""
    return reduce_item(_reopened(opener), item)


@lru_cache(maxsize=4)
def _reopened(opener: bytes) -> TensorReader:
    open_again: Callable[[], TensorReader] = pickle.loads(opener)  # noqa: S301 - pickled by us
    return open_again()


def _reduce(reader: TensorReader, segment: Segment) -> list[Answer]:
    group = segment.group
    gatherers = [_Gatherer(place, request, group.grid) for place, request in group.requests]
    try:
        for index in range(segment.first, segment.last):
            box = group.grid.box(index)
            block = read(reader, group.tensor, box)
            for gatherer in gatherers:
                gatherer.take(box, block)
    except UnreadableError as error:
        return [Failed(place, error.message, error.hint) for place, _ in group.requests]
    except MemoryError:
        return [
            Failed(place, "there is not enough memory to read it") for place, _ in group.requests
        ]
    return [answer for gatherer in gatherers for answer in gatherer.answers()]


def read(reader: TensorReader, tensor: Tensor, box: Box) -> NDArray[Any]:
    """Read `box` into this thread's buffer.

    Raises:
        UnreadableError: as `TensorReader.read`; or the reader gave something else than was asked.
    """
    assert tensor.dtype is not None
    shape = box_shape(box)
    buffer = WORKSPACE.bytes("read", math.prod(shape) * tensor.dtype.itemsize)
    block = reader.read(tensor, box, buffer.data)
    if block.shape != shape or block.dtype != tensor.dtype.numpy:
        raise UnreadableError(
            f"asked for {tensor.dtype} {shape}, got {block.dtype} {block.shape}", tensor=tensor.name
        )
    return block


@dataclass(slots=True)
class _Gatherer:
    """Collects what a segment's boxes say about one request."""

    place: int
    request: Request
    grid: Grid
    complete: bool = field(init=False)
    needs: frozenset[Statistic] = field(init=False)
    kept: tuple[int, ...] = field(init=False)
    done: list[Answer] = field(default_factory=list)
    open: dict[Box, list[Any]] = field(default_factory=dict)
    run: list[tuple[Box, Partial]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.complete = self.grid.completes(self.request.axes)
        self.needs = measured(self.request.needs)
        self.kept = self.request.kept

    def take(self, box: Box, block: NDArray[Any]) -> None:
        """Measure one block."""
        if self.request.bounds is not None and self._screen(block):
            return
        partial = measure_box(block, self.request.axes, self.needs, WORKSPACE)
        units = tuple([box[axis] for axis in self.kept])
        if self.complete:
            if self.run and not adjacent(self.run[-1][0], units):
                self._flush()
            self.run.append((units, partial))
        elif units in self.open:
            entry = self.open[units]
            entry[0].merge(partial)
            entry[1] += block.size
        else:
            self.open[units] = [partial, block.size]

    def answers(self) -> list[Answer]:
        """Everything that was gathered, in the order of the boxes."""
        self._flush()
        for units, (partial, weights) in self.open.items():
            partial.close()
            self.done.append(Part(self.place, units, weights, partial))
        return self.done

    def _screen(self, block: NDArray[Any]) -> bool:
        """Answer for a whole block of single weights by its extremes, if they are in bounds."""
        assert self.request.bounds is not None
        found = extremes_inside(block, self.request.bounds, WORKSPACE)
        if found is None:
            return False
        low, high = found
        self._flush()
        count = block.size
        if self.done and isinstance(before := self.done[-1], Screened):
            self.done.pop()
            count, low, high = (
                count + before.count,
                min(low, before.minimum),
                max(high, before.maximum),
            )
        self.done.append(Screened(self.place, count, low, high))
        return True

    def _flush(self) -> None:
        """Make one batch of neighbouring boxes whose units are complete."""
        if not self.run:
            return
        boxes, partials = zip(*self.run, strict=True)
        units = tuple((a[0], b[1]) for a, b in zip(boxes[0], boxes[-1], strict=True))
        whole = Partial.concatenate(partials, [count_of(box) for box in boxes])
        self.done.append(finished(self.place, self.request, units, whole))
        self.run.clear()


def finished(place: int, request: Request, units: Box, partial: Partial) -> Batch:
    """Make a batch of units that are complete."""
    with np.errstate(all="ignore"):
        partial.close()
    size = math.prod(request.tensor.shape[axis] for axis in request.axes)
    return Batch(place, units, partial.statistics(request.needs, size, count_of(units)))


def count_of(units: Box) -> int:
    """How many units a box holds."""
    return math.prod(stop - start for start, stop in units)
