"""Two tensors against each other: how far units moved, and whether tied tensors are the same."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ckptclamp.checkpoints.checkpoint import TensorReader
from ckptclamp.checkpoints.source import default_jobs
from ckptclamp.checkpoints.tensor import Box, Chunked, Tensor
from ckptclamp.constraints.base import Statistic
from ckptclamp.engine.blocks import Grid, Workspace, grid_of
from ckptclamp.engine.executors import in_order, threads
from ckptclamp.engine.histogram import Histogram, UnitHistogram
from ckptclamp.engine.kernels import widen
from ckptclamp.engine.measure import unreadable
from ckptclamp.engine.measure.statistics import Partial, measure_box
from ckptclamp.errors import Notice, UnreadableError, printable
from ckptclamp.frozen import frozen
from ckptclamp.plan.units import kept_axes, unit_size, unit_words

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NORM = frozenset({Statistic.NORM})
_WORKSPACE = Workspace()

Side = tuple["TensorReader", Tensor]


@frozen
class TensorDrift:
    """How far the units of one tensor moved.

    `norm_drift` and `distance` are the largest of all units with finite norms on both sides,
    relative to the old norm; infinite where that was 0 and is no longer. `nonfinite` counts the
    other units. `unit` is the one with the largest distance, by its coordinates along the kept
    axes. The histogram counts distances. `failure` says why the tensor could not be read.
    """

    tensor: str
    shape: tuple[int, ...]
    old_dtype: str
    new_dtype: str
    unit_words: str
    old_name: str | None = None
    units: int = 0
    changed: int = 0
    nonfinite: int = 0
    norm_drift: float = 0.0
    distance: float = 0.0
    unit: tuple[int, ...] = ()
    histogram: Histogram | None = None
    failure: str | None = None


@frozen
class _Parts:
    """Statistics of one box: of the old weights, the new ones, and their difference."""

    old: Partial
    new: Partial
    difference: Partial


def measure_drift(
    old: Side, new: Side, axes: tuple[int, ...], *, jobs: int | None = None
) -> TensorDrift:
    """Compare two tensors of one shape; `axes` are the reduced axes, sorted and non-negative."""
    tally = _Drift(old[1], new[1], axes)
    if new[1].size == 0:
        return tally.result()
    grid = _grid(old[1], new[1], axes)
    jobs = jobs or default_jobs()
    boxes = (grid.box(index) for index in range(len(grid)))
    try:
        with threads(jobs if len(grid) > 1 else 1) as pool:
            work = partial(_measure, old, new, axes)
            for box, parts in in_order(work, boxes, pool, 2 * jobs):
                tally.add(box, parts)
    except UnreadableError as error:
        return tally.failed(error.message)
    return tally.result()


def _grid(old: Tensor, new: Tensor, axes: tuple[int, ...]) -> Grid:
    """Cut along the chunks of the side that has some, so that they are decoded once."""
    return grid_of(old if isinstance(old.storage, Chunked) else new, axes)


def _measure(old: Side, new: Side, axes: tuple[int, ...], box: Box) -> _Parts:
    with np.errstate(all="ignore"):  # non-finite weights are counted
        before = widen(old[0].read(old[1], box), _WORKSPACE, "old")
        after = widen(new[0].read(new[1], box), _WORKSPACE, "new")
        difference = _WORKSPACE.float64("difference", after.size).reshape(after.shape)
        np.subtract(after, before, out=difference)
        return _Parts(
            *(measure_box(w, axes, _NORM, _WORKSPACE) for w in (before, after, difference))
        )


class _Drift:
    """Gathers boxes into units, and keeps only what a report needs of these."""

    def __init__(self, old: Tensor, new: Tensor, axes: tuple[int, ...]) -> None:
        self._old, self._new, self._axes = old, new, axes
        self._unmeasured = TensorDrift(
            tensor=new.name,
            shape=new.shape,
            old_dtype=str(old.dtype),
            new_dtype=str(new.dtype),
            unit_words=unit_words(new.shape, axes),
        )
        self._kept = kept_axes(new.shape, axes)
        self._weights = unit_size(new.shape, axes)
        self._pending: dict[Box, tuple[_Parts, int]] = {}
        self._histogram = UnitHistogram()
        self._units = self._changed = self._nonfinite = 0
        self._norm_drift = 0.0
        self._worst: tuple[float, tuple[int, ...]] = (0.0, ())

    def add(self, box: Box, parts: _Parts) -> None:
        """Take in one box; units whose last weights it holds are judged."""
        place = tuple(box[axis] for axis in self._kept)
        seen = math.prod(box[axis][1] - box[axis][0] for axis in self._axes)
        if place in self._pending:
            known, before = self._pending.pop(place)
            for name in ("old", "new", "difference"):
                getattr(known, name).merge(getattr(parts, name))
            parts, seen = known, seen + before
        if seen == self._weights:
            self._judge(place, parts)
        else:
            self._pending[place] = (parts, seen)

    def _judge(self, place: Box, parts: _Parts) -> None:
        count = math.prod(stop - start for start, stop in place)
        norms, broken = [], np.zeros(count, np.bool_)
        for part in (parts.old, parts.new, parts.difference):
            part.close()
            norm = part.values[Statistic.NORM]
            norms.append(norm)
            broken |= ~np.isfinite(norm)  # of finite weights too, where float64 cannot hold it
            if part.nonfinite is not None:
                broken |= part.nonfinite > 0
        old, new, apart = (np.where(broken, 0.0, norm) for norm in norms)
        self._units += count
        self._nonfinite += int(np.count_nonzero(broken))
        self._changed += int(np.count_nonzero(apart))
        distance = _relative(apart, old)
        self._histogram.add(distance[~broken])
        self._norm_drift = max(self._norm_drift, float(_relative(np.abs(new - old), old).max()))
        worst = int(distance.argmax())
        if distance[worst] > self._worst[0]:
            self._worst = (float(distance[worst]), _coordinates(place, worst))

    def result(self) -> TensorDrift:
        """The drift of the tensor, when every box was added."""
        if self._pending:
            return self.failed("not all of its units were measured")
        return replace(
            self._unmeasured,
            old_name=self._old.name if self._old.name != self._new.name else None,
            units=self._units,
            changed=self._changed,
            nonfinite=self._nonfinite,
            norm_drift=self._norm_drift,
            distance=self._worst[0],
            unit=self._worst[1],
            histogram=self._histogram.result(),
        )

    def failed(self, reason: str) -> TensorDrift:
        """The tensor could not be read."""
        return replace(self._unmeasured, failure=reason)


def _relative(values: NDArray[np.float64], old: NDArray[np.float64]) -> NDArray[np.float64]:
    """Relative to the old norm; infinite for an old norm of 0, unless nothing moved."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(values == 0, 0.0, values / old)


def _coordinates(place: Box, position: int) -> tuple[int, ...]:
    extents = tuple(stop - start for start, stop in place)
    local = np.unravel_index(position, extents) if extents else ()
    return tuple(int(i) + start for i, (start, _) in zip(local, place, strict=True))


def worst_first(drifts: Sequence[TensorDrift]) -> list[TensorDrift]:
    """In the order in which a person wants to see them."""
    return sorted(drifts, key=lambda drift: (-drift.nonfinite, -drift.distance, drift.tensor))


def tied_notices(
    reader: TensorReader, tied: Iterable[tuple[Tensor, Tensor]], memory: int, *, keras: bool
) -> Iterator[Notice]:
    """Warn of every pair that differs, or that cannot be read within `memory` bytes.

    Two boxes are in memory at once. `keras` says who will load the file.
    """
    counts = _IN_KERAS if keras else _BY_CONFIG
    for one, other in tied:
        try:
            same = _same(reader, one, other, memory)
        except UnreadableError as error:
            yield _notice(one, other, f"and cannot be compared: {error.message}", counts)
        else:
            if not same:
                yield _notice(one, other, "but hold different weights", counts)


_IN_KERAS = "the last of them counts when Keras loads the file into that model"
_BY_CONFIG = "the config ties them, so the first counts where the model is loaded"


def _notice(one: Tensor, other: Tensor, what: str, counts: str) -> Notice:
    return Notice(
        "shared-twice",
        f"{printable(one.name)} and {printable(other.name)} are copies of one variable, {what}; "
        f"{counts}",
        hint="save the weights anew from the model that is meant",
        tensor=one.name,
    )


def _same(reader: TensorReader, one: Tensor, other: Tensor, memory: int) -> bool:
    for tensor in (one, other):
        refusal = unreadable(tensor, memory)
        if refusal is not None:
            raise UnreadableError(refusal[0], tensor=tensor.name, hint=refusal[1])
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    if one.size == 0:
        return True
    grid = grid_of(one, tuple(range(len(one.shape))))
    boxes = (grid.box(index) for index in range(len(grid)))
    return all(reader.read(one, b).tobytes() == reader.read(other, b).tobytes() for b in boxes)
