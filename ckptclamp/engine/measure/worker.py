"""How one worker answers requests: box by box through its segments, from one read of the tensor."""

from __future__ import annotations

from itertools import groupby, islice
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptclamp.checkpoints.tensor import Box, Computed, Tensor
from ckptclamp.constraints.base import Statistic
from ckptclamp.engine import kernels
from ckptclamp.engine.blocks import BLOCK, Grid, adjacent, count_of
from ckptclamp.engine.measure.in_file import measure_boxes
from ckptclamp.engine.measure.requests import (
    ANSWERS,
    WORKSPACE,
    Answer,
    Group,
    Item,
    Left,
    Part,
    Request,
    Screened,
    Segment,
    read,
)
from ckptclamp.engine.measure.statistics import (
    EXTREMES,
    Partial,
    extremes_inside,
    measure_box,
    measure_in_codes,
    measured,
)
from ckptclamp.errors import Reason, UnreadableError
from ckptclamp.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from ckptclamp.checkpoints.checkpoint import TensorReader
    from ckptclamp.engine.kernels import Block
    from ckptclamp.models.effective.codes import Codes


def reduce_item(reader: TensorReader, item: Item) -> list[Answer | Left]:
    """Measure the segments of `item`. A segment that cannot be read answers `Failed`.

    Single weights out of their bounds are answered weight by weight; where that is more than `ANSWERS`, the
    segments that come after are `Left`.
    """
    answers: list[Answer | Left] = []
    done = much = 0
    with np.errstate(all="ignore"):
        for _, run in groupby(item, key=lambda segment: id(segment.group)):
            for count, found in _reduce_run(reader, list(run)):
                answers += found
                done += count
                much += item[done - 1].group.weightwise(found)
                if much > ANSWERS and done < len(item):
                    return [*answers, Left(len(item) - done)]
    return answers


def _reduce_run(
    reader: TensorReader, segments: Sequence[Segment]
) -> Iterator[tuple[int, list[Answer]]]:
    """Measure segments that follow each other: in one call where that can be, else one by one.

    Yields how many it measured, and their answers.
    """
    group = segments[0].group
    try:
        found = _at_once(reader, group, range(segments[0].first, segments[-1].last))
    except MemoryError:
        found = None  # one by one, which takes less, or says that there is too little
    if found is None:
        for segment in segments:
            yield 1, _reduce(reader, segment)
        return
    yield len(segments), list(_answers(group, segments, found))


def _answers(
    group: Group, segments: Sequence[Segment], found: Sequence[tuple[Box, Partial]]
) -> Iterator[Answer]:
    """Sort what was measured in one call by requests and segments."""
    for place, request in group.requests:
        if request.bounds is not None:
            count = sum(count_of(box) for box, _ in found)
            yield Screened(place, count, *_extremes(found))
            continue
        needs, following = measured(request.needs), iter(found)
        whole_units = group.grid.completes(request.axes)
        for segment in segments:
            gatherer = _Gatherer(place, request, group.grid)
            # What is whole came joined.
            boxes = None if whole_units else segment.last - segment.first
            for box, partial in islice(following, boxes):
                gatherer.add(box, partial.only(needs))
            yield from gatherer.answers()


def _at_once(reader: TensorReader, group: Group, boxes: range) -> list[tuple[Box, Partial]] | None:
    """Measure boxes for all requests in one call.

    ``None`` where that cannot be: requests about units of several kinds, or weights out of bounds.
    """
    bounds = [request.bounds for _, request in group.requests if request.bounds is not None]
    others = [request for _, request in group.requests if request.bounds is None]
    axes = {request.axes for request in others}
    if len(axes) != 1:
        return None
    needs = EXTREMES if bounds else frozenset()
    found = measure_boxes(
        reader,
        group.tensor,
        group.grid,
        boxes,
        axes=axes.pop(),
        needs=needs.union(*(measured(request.needs) for request in others)),
        workspace=WORKSPACE,
    )
    if found is None or not bounds:
        return found
    least, most = _extremes(found)
    finite = all(partial.nonfinite is None for _, partial in found)
    return found if finite and all(low <= least and most <= high for low, high in bounds) else None


def _extremes(found: Sequence[tuple[Box, Partial]]) -> tuple[float, float]:
    """The least and the largest weight; NaN where one is not a number."""
    least = np.concatenate([partial.values[Statistic.MIN] for _, partial in found]).min()
    most = np.concatenate([partial.values[Statistic.MAX] for _, partial in found]).max()
    return float(least), float(most)


def _reduce(reader: TensorReader, segment: Segment) -> list[Answer]:
    group = segment.group
    gatherers = [_Gatherer(place, request, group.grid) for place, request in group.requests]
    try:
        for index in range(segment.first, segment.last):
            box = group.grid.box(index)
            for block in _blocks(reader, group, box, gatherers):
                for gatherer in gatherers:
                    gatherer.measure(block)
            for gatherer in gatherers:
                gatherer.take(box)
    except UnreadableError as error:
        return group.failed(error.reason, error.hint)
    except MemoryError:
        return group.failed(Reason("memory", "there is not enough memory to read it"))
    return [answer for gatherer in gatherers for answer in gatherer.answers()]


def _blocks(
    reader: TensorReader, group: Group, box: Box, gatherers: Sequence[_Gatherer]
) -> Iterator[Block]:
    """Read `box`: whole, or of a large one what `gatherers` do not measure in codes, cut between units."""
    codes = _in_codes(reader, group.tensor, box)
    if not group.large:
        yield read(reader, group.tensor, box) if codes is None else codes
    elif codes is None or not all(gatherer.measure_codes(codes) for gatherer in gatherers):
        from ckptclamp.models.effective.numbers import cut

        for gatherer in gatherers:
            gatherer.partials.clear()
        for part in cut(box, BLOCK):
            yield read(reader, group.tensor, part)


def _in_codes(reader: TensorReader, tensor: Tensor, box: Box) -> Codes | None:
    """Read `box` in codes where there are kernels that decode these themselves."""
    if not isinstance(tensor.storage, Computed) or not kernels.measures_codes():
        return None
    from ckptclamp.models.effective.weights import Effective

    if not isinstance(tensor.storage, Effective):
        return None
    return tensor.storage.in_codes(_PartReader(reader, tensor.storage.parts[0]), box)


@frozen
class _PartReader:
    """Reads parts of a weight; its `codes` into a buffer of this thread."""

    reader: TensorReader
    codes: Tensor

    def __call__(self, tensor: Tensor, box: Box) -> NDArray[Any]:
        if tensor is self.codes:
            return read(self.reader, tensor, box, "codes")
        return self.reader.read(tensor, box)


class _Gatherer:
    """Collects what a segment's boxes say about one request."""

    def __init__(self, place: int, request: Request, grid: Grid) -> None:
        self.place = place
        self.request = request
        self.needs = measured(request.needs)
        self.kept = request.kept
        self.complete = grid.completes(request.axes)
        self.done: list[Answer] = []
        self.run: list[tuple[Box, Partial]] = []
        self.open: dict[Box, tuple[Partial, int]] = {}
        self.partials: list[Partial] = []

    def measure(self, block: Block) -> None:
        """Measure a block, all of a box or units of it that follow those before."""
        if self.request.bounds is None or not self._screen(block, self.request.bounds):
            self.partials.append(measure_box(block, self.request.axes, self.needs, WORKSPACE))

    def measure_codes(self, codes: Codes) -> bool:
        """Measure all of a box; tells whether its weights themselves need not be looked at."""
        partial = measure_in_codes(codes, self.request.axes, self.needs, WORKSPACE)
        if partial is not None:
            self.partials.append(partial)
        return partial is not None

    def take(self, box: Box) -> None:
        """Take in what was measured of a box, but for what was screened."""
        if not self.partials:
            return
        whole = Partial.side_by_side(self.partials)
        self.partials.clear()
        self.add(box, whole)

    def add(self, box: Box, partial: Partial) -> None:
        """Take what was measured of `box`, or where it holds whole units, of several boxes."""
        units = tuple([box[axis] for axis in self.kept])
        if self.complete:
            # Numbers of single weights are large, so that they are not copied to be joined.
            if self.run and not (self.request.axes and adjacent(self.run[-1][0], units)):
                self._flush()
            self.run.append((units, partial))
            return
        before, weights = self.open.get(units, (None, 0))
        if before is not None:
            before.merge(partial)
        self.open[units] = (before or partial, weights + count_of(box))

    def answers(self) -> list[Answer]:
        """Everything that was gathered, in the order of the boxes."""
        self._flush()
        for units, (partial, weights) in self.open.items():
            partial.close()
            self.done.append(Part(self.place, units, weights, partial))
        return self.done

    def _screen(self, block: Block, bounds: tuple[float, float]) -> bool:
        """Answer for a whole block of single weights by its extremes, if they are in bounds."""
        found = extremes_inside(block, bounds, WORKSPACE)
        if found is None:
            return False
        self._flush()
        screened = Screened(self.place, block.size, *found)
        if self.done and isinstance(before := self.done[-1], Screened):
            self.done[-1] = before.followed_by(screened)
        else:
            self.done.append(screened)
        return True

    def _flush(self) -> None:
        """Make one batch of neighbouring boxes whose units are complete."""
        if not self.run:
            return
        boxes, partials = zip(*self.run, strict=True)
        units = tuple((a[0], b[1]) for a, b in zip(boxes[0], boxes[-1], strict=True))
        self.done.append(self.request.finished(self.place, units, Partial.joined(partials)))
        self.run.clear()
