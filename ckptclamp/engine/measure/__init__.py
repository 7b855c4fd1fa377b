"""Measuring tensors: requests in, statistics of whole units out, in one pass over the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial as bound
from typing import TYPE_CHECKING

import numpy as np

from ckptclamp.checkpoints.dtypes import Kind
from ckptclamp.checkpoints.source import default_jobs
from ckptclamp.checkpoints.tensor import Chunked, Computed
from ckptclamp.constraints.base import UnitStatistics
from ckptclamp.engine.blocks import (
    BLOCK,
    BLOCK_BYTES,
    PIECE,
    SEGMENT,
    adjacent,
    count_of,
    grid_in_codes,
    grid_of,
)
from ckptclamp.engine.executors import in_order, threads
from ckptclamp.engine.measure.ahead import reading_ahead, room_ahead
from ckptclamp.engine.measure.requests import (
    ANSWERS,
    Answer,
    Batch,
    Failed,
    Group,
    Item,
    Left,
    Measurement,
    Part,
    Request,
    Screened,
    Segment,
)
from ckptclamp.engine.measure.worker import reduce_item
from ckptclamp.errors import Reason

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ckptclamp.checkpoints.checkpoint import TensorReader
    from ckptclamp.checkpoints.tensor import Box, Tensor
    from ckptclamp.engine.blocks import Grid

DEFAULT_MEMORY = 256 << 20

COPIES = 4
"""Blocks that a job has in hand, at most, when it projects: of units that several boxes hold one, but
read, chosen, tried, and as it will be; else so many."""

_JOINED = 1 << 14
"""Units that are answered at once where segments complete fewer: each answer costs its reader calls."""

_AT_A_TIME = 32 << 20
"""Bytes of weights that are handed to a worker at once where there are many: each handover takes its time."""

_LEAST = 32 << 10
"""A segment counts as so many bytes, at least: of small tensors most of the work is not the arithmetic."""

_ROWS = 4
"""The part of the memory, one in so many, that is for the rows that a projection goes through again."""

_PIECES = 6
"""Pieces of float64 that a job has in hand, at most."""


def measure(
    reader: TensorReader,
    requests: Sequence[Request],
    *,
    memory: int = DEFAULT_MEMORY,
    jobs: int | None = None,
    executor: Executor | None = None,
    progress: Callable[[int], None] | None = None,
    block: int | None = None,
) -> Iterator[Measurement]:
    """Measure what `requests` ask for; requests for one tensor share one read where they can.

    Args:
        reader: where weights are read from, by several threads at once.
        requests: what to measure.
        memory: bytes that blocks, partial results and results in flight may take.
        jobs: threads; by default as many as there are processors, fewer where the memory asks for
            it. With an `executor`: how many items it works on at once.
        executor: threads that do the work instead of our own, and are left running.
        progress: is told how many more bytes of weights have been measured.
        block: elements of a block, `blocks.block_of` by default; the results' last bits depend on it
            and on nothing else here.

    Yields:
        Batches of whole units. Tensors come in the order in which requests first name them; the
        units of a request come in the order in which they are complete. The same requests give the
        same sequence, bit for bit, whatever runs the work. Every request is answered at least once:
        a tensor without weights by a batch of no units. `Failed` is the last word on its request.
    """
    groups, at_once = _grouped(requests, memory, block)
    yield from at_once
    waiting = max([ANSWERS, *map(_result_bytes, groups)])
    here = memory - room_ahead(reader, memory)
    jobs = affordable(jobs or default_jobs(), [g.tensor for g in groups], here, waiting=waiting)
    work: Callable[[Item], list[Answer | Left]] = bound(reduce_item, reader)
    small = sum(group.tensor.size for group in groups) <= SEGMENT
    failed: set[int] = set()
    one = executor is not None or small
    with threads(1 if one else jobs) as pool, reading_ahead(reader, groups, memory) as followed:
        weightwise: set[int] = set()
        items = _items(groups, failed, waiting, weightwise)
        run = bound(in_order, work, executor=executor or pool, window=jobs + 1)
        results = _completed(run, items, weightwise)
        yield from _joined(requests, _assemble(requests, followed(results), failed, progress))


def _grouped(
    requests: Sequence[Request], memory: int, block: int | None
) -> tuple[list[Group], list[Measurement]]:
    """Sort requests into groups that share a read; answer those that need no weights."""
    members: dict[tuple[int, Grid, bool], list[tuple[int, Request]]] = {}
    at_once: list[Measurement] = []
    for place, request in enumerate(requests):
        refusal = unreadable(request.tensor, memory)
        if refusal is not None:
            at_once.append(Failed(place, *refusal))
        elif request.tensor.size == 0:
            at_once.append(_empty(place, request))
        else:
            large = None if block else grid_in_codes(request.tensor, request.axes)
            grid = large or grid_of(request.tensor, request.axes, block)
            key = (id(request.tensor), grid, large is not None)
            members.setdefault(key, []).append((place, request))
    return [
        Group(shared[0][1].tensor, grid, tuple(shared), large)
        for (_, grid, large), shared in members.items()
    ], at_once


def unreadable(tensor: Tensor, memory: int) -> tuple[Reason, str | None] | None:
    """Why a tensor cannot be measured, and what to do, or ``None`` if it can."""
    dtype = tensor.dtype
    if dtype is None or dtype.kind is Kind.COMPLEX or dtype.bits % 8:
        held = dtype or tensor.dtype_name or "an unknown dtype"
        return Reason("no-real-numbers", f"holds {held}, not real numbers"), None
    needed = _chunk_bytes(tensor)
    if needed > memory:
        reason = Reason("memory", f"has chunks that take {needed} bytes to decode")
        return reason, "raise --memory"
    return None


def _chunk_bytes(tensor: Tensor) -> int:
    """What it takes to decode a chunk: as stored, decoded, put in place, and widened."""
    tensor = tensor.whole
    if isinstance(tensor.storage, Computed):
        return max(map(_chunk_bytes, tensor.storage.parts))
    if not isinstance(tensor.storage, Chunked) or tensor.dtype is None:
        return 0
    return 4 * math.prod(tensor.storage.chunk_shape) * tensor.dtype.itemsize


def room_for_rows(jobs: int, tensor: Tensor, memory: int) -> int:
    """The part of the `memory` of a projection in which rows stay from one pass to the next.

    It is what `affordable` keeps for them, and what so many `jobs` leave.
    """
    return max(memory // _ROWS, memory - jobs * _job_bytes([tensor], projecting=True))


def affordable(
    jobs: int,
    tensors: Sequence[Tensor],
    memory: int,
    *,
    waiting: int = 0,
    projecting: bool = False,
) -> int:
    """As many of `jobs` as the memory has room for, each with `waiting` bytes of results."""
    memory -= memory // _ROWS if projecting else 0
    each = _job_bytes(tensors, projecting=projecting) + 2 * waiting
    return max(1, min(jobs, memory // each))


def _job_bytes(tensors: Sequence[Tensor], *, projecting: bool) -> int:
    """What a job needs: a block, or copies of it where it is `projecting`, pieces of it, a chunk to decode."""
    copies = COPIES if projecting else 1
    chunk = max((_chunk_bytes(tensor) for tensor in tensors), default=0)
    itemsize = max((t.dtype.itemsize for t in tensors if t.dtype is not None), default=0)
    return copies * max(itemsize * BLOCK, BLOCK_BYTES) + _PIECES * 8 * PIECE + chunk


def _completed(
    run: Callable[[Iterable[Item]], Iterator[tuple[Item, list[Answer | Left]]]],
    items: Iterable[Item],
    weightwise: set[int],
) -> Iterator[tuple[Item, list[Answer]]]:
    """Run `items`, and of each what its worker left; its groups are answered `weightwise` from now on.

    What was handed over meanwhile waits with as much as a segment answers; so twice the window is in memory.
    """
    for item, answers in run(items):
        done = len(item) - sum(answer.segments for answer in answers if isinstance(answer, Left))
        yield item[:done], [answer for answer in answers if not isinstance(answer, Left)]
        if done < len(item):
            weightwise.update(id(segment.group) for segment in item[done - 1 :])
        for one, found in run((segment,) for segment in item[done:]):
            yield one, [answer for answer in found if not isinstance(answer, Left)]


def _result_bytes(group: Group, *, weightwise: bool = True) -> int:
    """The most that one segment of `group` answers, of single weights inside of bounds unless `weightwise`."""
    grid, total = group.grid, 0
    for _, request in group.requests:
        if request.bounds is not None and not weightwise:
            continue
        # A weight that is a unit is each of its own statistics.
        arrays = 1 + (len(request.needs) if request.axes else 1)
        units = min(grid.segment, len(grid)) * math.prod(grid.tile[axis] for axis in request.kept)
        total += 8 * arrays * units
    return total


def _empty(place: int, request: Request) -> Batch:
    none = np.zeros(0)
    statistics = UnitStatistics(0, dict.fromkeys(request.needs, none), none.astype(np.int64))
    return Batch(place, tuple((0, 0) for _ in request.kept), statistics)


def _items(
    groups: Sequence[Group], failed: set[int], room: int, weightwise: set[int]
) -> Iterator[Item]:
    """Cut groups into segments, several of them to an item where they are many; skip what failed.

    What is answered to an item takes `room` bytes at most, if a segment does. Single weights are taken to
    lie inside of their bounds, but for those of the groups that are answered `weightwise`.
    """
    total = sum(group.tensor.nbytes for group in groups)
    enough = min(max(2 * BLOCK_BYTES, total // 64), _AT_A_TIME)
    item: list[Segment] = []
    weight = answers = 0
    for group in groups:
        step, boxes = group.grid.segment, len(group.grid)
        for start in range(0, boxes, step):
            if group.requests[0][0] in failed:
                break
            answer = _result_bytes(group, weightwise=id(group) in weightwise)
            if item and (weight >= enough or answers + answer > room):
                yield tuple(item)
                item, weight, answers = [], 0, 0
            item.append(Segment(group, start, min(start + step, boxes)))
            weight += max(group.tensor.nbytes * step // boxes, _LEAST)
            answers += answer
    if item:
        yield tuple(item)


def _assemble(
    requests: Sequence[Request],
    results: Iterable[tuple[Item, list[Answer]]],
    failed: set[int],
    progress: Callable[[int], None] | None,
) -> Iterator[Measurement]:
    """Merge parts of units, in the order of the weights, and pass on what is whole."""
    pending: dict[tuple[int, Box], Part] = {}
    for item, answers in results:
        for answer in answers:
            if answer.request in failed:
                continue
            if isinstance(answer, Failed):
                failed.add(answer.request)
            if not isinstance(answer, Part):
                yield answer
                continue
            before = pending.pop((answer.request, answer.units), None)
            part = answer if before is None else before.followed_by(answer)
            request = requests[part.request]
            if part.weights < request.unit * count_of(part.units):
                pending[part.request, part.units] = part
            else:
                yield request.finished(part.request, part.units, part.partial)
        if progress is not None:
            progress(sum(segment.nbytes for segment in item))
    lost = {request for request, _ in pending} - failed
    assert not lost, f"requests {lost} were left incomplete"


def _joined(
    requests: Sequence[Request], measurements: Iterable[Measurement]
) -> Iterator[Measurement]:
    """Join answers to one request that follow each other, up to so many units.

    Answers to requests about one tensor may come in turns. How much was screened at once is nobody's concern:
    all that follows each other is one answer.
    """
    runs: dict[int, list[Batch]] = {}
    screened: dict[int, Screened] = {}
    tensor: Tensor | None = None
    for item in measurements:
        if requests[item.request].tensor is not tensor:
            yield from _all_flushed(runs)
            yield from screened.values()
            screened.clear()
            tensor = requests[item.request].tensor
        run = runs.setdefault(item.request, [])
        before = screened.pop(item.request, None)
        if isinstance(item, Screened):
            yield from _flush(run)
            screened[item.request] = item if before is None else before.followed_by(item)
            continue
        if before is not None:
            yield before
        if isinstance(item, Failed):
            yield from _flush(run)
            yield item
            continue
        if run and not adjacent(_units(run), item.units):
            yield from _flush(run)
        run.append(item)
        if sum(len(batch.statistics) for batch in run) >= _JOINED:
            yield from _flush(run)
    yield from _all_flushed(runs)
    yield from screened.values()


def _all_flushed(runs: dict[int, list[Batch]]) -> Iterator[Batch]:
    for run in runs.values():
        yield from _flush(run)
    runs.clear()


def _units(run: list[Batch]) -> Box:
    """The box that the units of batches fill that follow each other."""
    return tuple((a, b) for (a, _), (_, b) in zip(run[0].units, run[-1].units, strict=True))


def _flush(run: list[Batch]) -> Iterator[Batch]:
    """The batches of `run` as one, if there are any; none is left."""
    if run:
        joined = UnitStatistics.joined([batch.statistics for batch in run])
        yield Batch(run[0].request, _units(run), joined)
        run.clear()
