"""Boxes that follow each other in a local file, read and measured by one call of a compiled kernel.

Where each is read and measured by calls of its own, threads wait for each other at the interpreter's lock
for about a third of the time. The sums are those of `measure_box`, in the same order.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from ckptclamp.checkpoints.tensor import box_shape, one_run
from ckptclamp.engine.kernels.native.runs import FileRun
from ckptclamp.engine.kernels.numpy_kernels import merged
from ckptclamp.engine.measure.statistics import Partial, measure_run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptclamp.checkpoints.checkpoint import TensorReader
    from ckptclamp.checkpoints.tensor import Box, Tensor
    from ckptclamp.constraints.base import Statistic
    from ckptclamp.engine.blocks import Grid, Workspace


def measure_boxes(
    reader: TensorReader,
    tensor: Tensor,
    grid: Grid,
    numbers: range,
    *,
    axes: tuple[int, ...],
    needs: frozenset[Statistic],
    workspace: Workspace,
) -> list[tuple[Box, Partial]] | None:
    """Measure the boxes of `grid` that have these `numbers`, as `measure_box` measures each.

    What boxes of whole units say is joined. ``None`` where it takes more than one kernel: boxes that do not
    follow each other in a local file, units that are not their rows or columns.
    """
    in_file = getattr(reader, "in_file", None)
    if not axes or in_file is None or (place := in_file(tensor)) is None:
        return None
    cut = _cut(grid)
    if cut is None or tensor.dtype is None:
        return None
    descriptor, origin = place
    dtype, whole_units = tensor.dtype.numpy, grid.completes(axes)
    found: list[tuple[Box, Partial]] = []
    for alike in _alike(grid, cut, numbers):
        box, last = grid.box(alike[0]), grid.box(alike[-1])
        matrix, at = _matrix(box_shape(box), axes), one_run(grid.shape, box, dtype.itemsize)
        if matrix is None or at is None:
            return None
        run = FileRun(descriptor, origin + at[0], dtype, len(alike), *matrix)
        partial = measure_run(run, needs, workspace)
        if partial is None:
            return None
        if whole_units:
            found.append((tuple((a, b) for (a, _), (_, b) in zip(box, last, strict=True)), partial))
        else:
            found += zip(map(grid.box, alike), partial.split(len(alike)), strict=True)
    return found


def _cut(grid: Grid) -> int | None:
    """The axis along which boxes follow each other in C order, if they do."""
    cut = max((axis for axis, count in enumerate(grid.counts) if count > 1), default=0)
    single = all(extent == 1 for extent in grid.tile[:cut])
    return cut if single and grid.order == tuple(range(len(grid.shape))) else None


def _alike(grid: Grid, cut: int, numbers: range) -> Iterator[range]:
    """Cut `numbers` into ranges of boxes that have one shape and only differ in their place along `cut`."""
    count = grid.counts[cut]
    uneven = grid.shape[cut] % grid.tile[cut] > 0
    borders = {numbers.start, numbers.stop}
    for end in range(numbers.start - numbers.start % count + count, numbers.stop + count, count):
        borders |= {end, end - uneven}
    inside = sorted(border for border in borders if numbers.start <= border <= numbers.stop)
    return (range(a, b) for a, b in pairwise(inside))


def _matrix(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, int, bool] | None:
    """How many rows, of which length, a box of `shape` is, and whether its units are its columns."""
    extents, rows = merged(shape, axes)
    if len(extents) > 2:
        return None
    if not rows and len(extents) == 2:
        return extents[0], extents[1], True
    return (extents[0] if len(extents) == 2 or not rows else 1), extents[-1] if rows else 1, False
