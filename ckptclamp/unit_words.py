"""What one unit of a tensor is, in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

_KERNEL_RANKS = (4, 5)
"""Ranks that in practice belong to convolutions over two or three dimensions."""


def unit_words(shape: Sequence[int], axes: Sequence[int]) -> str:
    """Say what one unit is, for example ``one of 64 columns (last axis): 128 weights``.

    Args:
        shape: the tensor's shape.
        axes: the reduced axes, sorted and non-negative; empty where each weight is a unit.
    """
    if not axes:
        return "each weight"
    weights = _weights([shape[axis] for axis in axes])
    kept = [axis for axis in range(len(shape)) if axis not in axes]
    if not kept:
        whole = "vector" if len(shape) == 1 else "tensor"
        return f"the whole {whole}: {weights}"
    if len(kept) == 1:
        place = _place(kept[0], len(shape))
        units = _counted(shape[kept[0]], _noun(kept[0], len(shape)))
        return f"{units} ({place} axis): {weights}"
    positions = _product([shape[axis] for axis in kept])
    return f"one of {positions} positions along axes {_listed(kept)}: {weights}"


def _counted(count: int, noun: str) -> str:
    return f"one of {count} {noun.removesuffix('s') if count == 1 else noun}"


def _noun(axis: int, rank: int) -> str:
    if rank == 2:
        return "rows" if axis == 0 else "columns"
    return "filters" if rank in _KERNEL_RANKS and axis in (0, rank - 1) else "slices"


def _place(axis: int, rank: int) -> str:
    if axis == rank - 1:
        return "last"
    return ("first", "second", "third")[axis] if axis < 3 else f"{axis + 1}th"


def _weights(extents: list[int]) -> str:
    return f"{_product(extents)} weight{'' if math.prod(extents) == 1 else 's'}"


def _product(extents: list[int]) -> str:
    total = str(math.prod(extents))
    return total if len(extents) == 1 else f"{'x'.join(map(str, extents))} = {total}"


def _listed(axes: list[int]) -> str:
    *most, last = map(str, axes)
    return f"{', '.join(most)} and {last}"
