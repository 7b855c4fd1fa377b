"""How many units of one tensor are other bytes in two places."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ckptclamp.streaming.change import changed_units
from ckptclamp.streaming.grid import Grid, grid_of

if TYPE_CHECKING:
    from ckptclamp.checkpoints.checkpoint import TensorReader
    from ckptclamp.checkpoints.description import Tensor


def differing_units(
    one: TensorReader, other: TensorReader, tensor: Tensor, axes: tuple[int, ...]
) -> int:
    """Count the units of `tensor`, spanning `axes`, in which `one` and `other` differ.

    Two boxes are in memory at once, and a bit for each unit of a box: all boxes of some units are
    visited before those of the next.
    """
    kept = tuple(axis for axis in range(len(tensor.shape)) if axis not in axes)
    cut = grid_of(tensor, axes)
    grid = Grid(cut.shape, cut.tile, (*kept, *axes))
    total, current, differ = 0, None, np.zeros(0, np.bool_)
    for box in map(grid.box, range(len(grid))):
        units = tuple(box[axis] for axis in kept)
        if units != current:
            total += int(np.count_nonzero(differ))
            current, differ = units, np.zeros(math.prod(b - a for a, b in units), np.bool_)
        differ |= changed_units(one.read(tensor, box), other.read(tensor, box), axes)
    return total + int(np.count_nonzero(differ))
