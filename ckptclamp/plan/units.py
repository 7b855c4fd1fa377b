"""What one unit is: the axes that a rule states, resolved for one shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ckptclamp.errors import Notice, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptclamp.constraints.base import Constraint
    from ckptclamp.spec.model import Units


Shape = tuple[int, ...]
Axes = tuple[int, ...]


def reduced_axes(units: Units, constraint: Constraint, shape: Shape) -> Axes:
    """Return the axes that one unit spans, sorted and non-negative.

    Empty for elementwise constraints. A rule that says nothing means the whole of a vector, the
    first axis of a matrix (Keras' default) and the whole tensor for constraints that are about it;
    for more dimensions it has to say.

    Raises:
        UsageError: the axes do not exist, are there twice, or must be stated and are not; or the
            constraint cannot be about such a shape.
    """
    constraint.check_shape(shape)
    everything = tuple(range(len(shape)))
    if constraint.elementwise or not constraint.streaming:
        if units.stated:
            raise UsageError(_no_axis(constraint))
        return () if constraint.elementwise else everything
    if units.whole:
        return everything
    if units.axis is not None:
        return _existing(units.axis, shape)
    if units.unit_axis is not None:
        return _complement(units.unit_axis, shape)
    if len(shape) > 2 and not constraint.whole_by_default:
        raise UsageError(f"its {len(shape)} axes need an axis to be stated", hint=_advice(shape))
    return (0,) if len(shape) == 2 and not constraint.whole_by_default else everything


def _no_axis(constraint: Constraint) -> str:
    if constraint.elementwise:
        return f"{constraint} is about each weight by itself, so it has no axis"
    return f"{constraint} is given whole tensors, so a rule states no axis for it"


def _existing(axes: Sequence[int], shape: Shape) -> Axes:
    rank = len(shape)
    if not axes:
        raise UsageError("an empty axis names no axis at all")
    for axis in axes:
        if not -rank <= axis < rank:
            raise UsageError(f"axis {axis} does not exist", hint=_axes_there_are(rank))
    found = sorted(axis % rank for axis in axes)
    if len(set(found)) < len(found):
        raise UsageError(f"axis {list(axes)} names one axis twice")
    return tuple(found)


def _complement(kept: Sequence[int], shape: Shape) -> Axes:
    there = _existing(kept, shape)
    axes = tuple(axis for axis in range(len(shape)) if axis not in there)
    if not axes:
        raise UsageError(
            f"unit_axis {list(kept)} leaves no axis to take a norm over",
            hint="Clip bounds each weight by itself",
        )
    return axes


def _axes_there_are(rank: int) -> str:
    return f"there are 0 to {rank - 1}" if rank else "a scalar has no axes"


def _advice(shape: Shape) -> str:
    last = tuple(range(len(shape) - 1))
    return f"axis {list(last)} would make a unit {unit_words(shape, last)}"


def meant_axes(shape: Shape, layer_class: str = "", argument: str = "") -> Axes:
    """The axes over which a norm is usually meant: what feeds one output.

    All but the last, unless the layer's class says that its outputs lie elsewhere: transposed
    convolutions before the last axis, depthwise ones along the last two. A row of an embedding
    is one vector.
    """
    rank = len(shape)
    if argument == "embeddings_constraint" or layer_class == "Embedding":
        return (rank - 1,)
    if argument == "depthwise_constraint" or "DepthwiseConv" in layer_class:
        return tuple(range(rank - 2))
    if layer_class.endswith("Transpose"):
        return (*range(rank - 2), rank - 1)
    return tuple(range(rank - 1))


def degenerate(tensor: str, shape: Shape, axes: Axes, meant: Axes) -> Notice | None:
    """Warn where each norm spans a single weight, so that the constraint is a clip.

    Matrices are let be: a layer with one input has such a kernel rightly.
    """
    if len(shape) < 3 or _extent(shape, axes) != 1 or _extent(shape, meant) <= 1:
        return None
    return Notice(
        "degenerate-axis",
        f"over axis {_written(axes)} of shape {_shape(shape)} each norm spans one weight: "
        "it bounds weights one by one, and no filter as a whole",
        hint=_as_meant(shape, meant),
        tensor=tensor,
    )


def suspicious(
    tensor: str, shape: Shape, axes: Axes, layer_class: str, argument: str
) -> Notice | None:
    """Warn where a convolution or an embedding was left with Keras' default axis of 0."""
    is_known = "Conv" in layer_class or "Embedding" in layer_class
    meant = meant_axes(shape, layer_class, argument)
    if not is_known or axes != (0,) or len(shape) < 2 or _same(shape, axes, meant):
        return None
    return Notice(
        "suspicious-axis",
        f"axis 0 of shape {_shape(shape)}, Keras' default, makes a unit {unit_words(shape, axes)}",
        hint=_as_meant(shape, meant),
        tensor=tensor,
    )


def defaulted(tensor: str, shape: Shape, axes: Axes, constraint: Constraint) -> Notice | None:
    """Tell which axis of a matrix was taken where the rule states none."""
    if constraint.elementwise or not constraint.streaming or len(shape) != 2 or axes != (0,):
        return None
    return Notice(
        "default-axis",
        f"no axis is stated, so it is Keras' default of 0: a unit is {unit_words(shape, axes)}",
        hint="state axis or unit_axis; a PyTorch Linear weight has its units along axis 0",
        tensor=tensor,
        informational=True,
    )


def _same(shape: Shape, axes: Axes, others: Axes) -> bool:
    """Whether two sets of axes make the same units, since axes of extent 1 do not count."""
    return {a for a in axes if shape[a] != 1} == {a for a in others if shape[a] != 1}


def _extent(shape: Shape, axes: Axes) -> int:
    return math.prod(shape[axis] for axis in axes)


def _as_meant(shape: Shape, meant: Axes) -> str:
    return f"axis {_written(meant)} was probably meant: {unit_words(shape, meant)}"


def _written(axes: Axes) -> str:
    return str(axes[0]) if len(axes) == 1 else str(list(axes))


def _shape(shape: Shape) -> str:
    return "x".join(map(str, shape))


def default_axes(rank: int, units: Units | None, *, keras: bool) -> tuple[int, ...]:
    """Return the reduced axes of a tensor with `rank` axes, sorted and non-negative.

    `units` decides where it states something. Otherwise a unit is one index of the last axis in
    Keras' files and of the first in others, as PyTorch lays weights out. A vector or a scalar is
    one unit. Of the axes that `units` states those count that the tensor has.

    Raises:
        UsageError: a tensor of several axes has none of them, so that nothing would be as meant.
    """
    if rank <= 1:
        return tuple(range(rank))
    if units is None or not units.stated:
        return tuple(range(rank - 1)) if keras else tuple(range(1, rank))
    if units.whole:
        return tuple(range(rank))
    stated = units.axis if units.axis is not None else units.unit_axis or ()
    inside = {axis % rank for axis in stated if -rank <= axis < rank}
    if not inside:
        axes = ", ".join(map(str, stated))
        raise UsageError(f"axis {axes} does not exist in a tensor of {rank} axes")
    reduced = inside if units.axis is not None else set(range(rank)) - inside
    return tuple(sorted(reduced))


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
