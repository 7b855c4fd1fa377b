"""What a unit is: the part of a tensor that one norm belongs to.

A unit spans the *reduced* axes, and there is one for each index along the axes that are kept. A spec,
an option or a declaration states them; else they follow from the constraint or from how the file's
producer lays weights out. Axes are handed on sorted and non-negative.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ckptclamp.errors import Notice, UsageError
from ckptclamp.frozen import frozen
from ckptclamp.models.producers import Layout

if TYPE_CHECKING:
    from ckptclamp.checkpoints.tensor import Tensor
    from ckptclamp.constraints.base import Constraint
    from ckptclamp.spec.model import Units

Shape = tuple[int, ...]
Axes = tuple[int, ...]

_KERNEL_RANKS = (4, 5)
"""Ranks that in practice belong to convolutions over two or three dimensions."""


@frozen
class Unit:
    """The reduced `axes`, what to tell of them, and the axes `meant` where these say nothing."""

    axes: Axes
    notices: tuple[Notice, ...] = ()
    meant: Axes | None = None


def unit_of(
    tensor: Tensor,
    constraint: Constraint,
    units: Units,
    declared: tuple[str, str] | None = None,
    *,
    layout: Layout = Layout.LAST,
) -> Unit:
    """What a unit of `tensor` is under `constraint`, with a warning where that is probably not meant.

    `declared` is the layer's class and the argument where the model's own config says so. `layout`
    is the producer's; hints follow it.

    Raises:
        UsageError: as `reduced_axes` does; or such a unit cannot be under `constraint`.
    """
    shape = tensor.shape
    axes = reduced_axes(units, constraint, shape, layout=layout)
    _check_matrix(constraint, tuple(shape[axis] for axis in axes))
    if not has_axes(constraint):
        return Unit(axes)
    if declared is None and not units.stated:
        notice = defaulted(tensor.name, shape, axes, layout)
        return Unit(axes, () if notice is None else (notice,))
    meant = intended_axes(shape, *(declared or ()))
    if declared is None and layout is not Layout.LAST and len(shape) > 1 and shape[0] > 1:
        meant = default_axes(len(shape), None, layout=layout)
    notice = degenerate(tensor.name, shape, axes, meant, layout)
    if notice is not None:
        return Unit(axes, (notice,), meant)
    if declared is not None:
        notice = suspicious(tensor.name, shape, axes, *declared)
    return Unit(axes, () if notice is None else (notice,))


def _check_matrix(constraint: Constraint, extents: Shape) -> None:
    """Refuse units that are no matrices where the constraint is about matrices."""
    if constraint.streaming:
        return
    from ckptclamp.constraints.sets.whole import MatrixConstraint

    if isinstance(constraint, MatrixConstraint):
        constraint.check_unit(extents)


def has_axes(constraint: Constraint) -> bool:
    """Whether `constraint` is about units: not each weight by itself, nor the whole tensor at once."""
    if constraint.streaming:
        return not constraint.elementwise
    from ckptclamp.constraints.sets.whole import WholeTensorConstraint

    return not isinstance(constraint, WholeTensorConstraint)


def reduced_axes(
    units: Units, constraint: Constraint, shape: Shape, *, layout: Layout = Layout.LAST
) -> Axes:
    """Return the axes that one unit spans; empty for elementwise constraints.

    A rule that says nothing means the whole of a vector, the first axis of a matrix (Keras' default)
    and the whole tensor for constraints that are about it; for more dimensions it has to say.

    Raises:
        UsageError: the axes do not exist, are there twice, or must be stated and are not; or the
            constraint cannot be about such a shape.
    """
    constraint.check_shape(shape)
    everything = tuple(range(len(shape)))
    if not has_axes(constraint):
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
        raise UsageError(
            f"its {len(shape)} axes need an axis to be stated", hint=_advice(shape, layout)
        )
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
            there = f"there are 0 to {rank - 1}" if rank else "a scalar has no axes"
            raise UsageError(f"axis {axis} does not exist", hint=there)
    found = sorted(axis % rank for axis in axes)
    if len(set(found)) < len(found):
        raise UsageError(f"axis {list(axes)} names one axis twice")
    return tuple(found)


def _complement(unit_axis: Sequence[int], shape: Shape) -> Axes:
    axes = kept_axes(shape, _existing(unit_axis, shape))
    if not axes:
        raise UsageError(
            f"unit_axis {list(unit_axis)} leaves no axis to take a norm over",
            hint="Clip bounds each weight by itself",
        )
    return axes


_WHOSE = {Layout.LAST: "Keras and Flax have it", Layout.FIRST: "PyTorch and MLX have it"}


def _advice(shape: Shape, layout: Layout) -> str:
    """What a unit usually is in the producer's layout; where that is not known, in both."""
    first, last = (
        default_axes(len(shape), None, layout=way) for way in (Layout.FIRST, Layout.LAST)
    )
    if layout is not Layout.UNKNOWN:
        usual = default_axes(len(shape), None, layout=layout)
        return (
            f"axis {list(usual)} would make a unit {unit_words(shape, usual)}, as {_WHOSE[layout]}"
        )
    return (
        f"nothing says whose layout this is: as {_WHOSE[Layout.FIRST]}, axis {list(first)} would make a "
        f"unit {unit_words(shape, first)}; as {_WHOSE[Layout.LAST]}, axis {list(last)}: "
        f"{unit_words(shape, last)}"
    )


def default_axes(rank: int, units: Units | None, *, layout: Layout) -> Axes:
    """Return the reduced axes of a tensor with `rank` axes where no constraint asks for them.

    `units` decides where it states something. Otherwise a unit is one index of the axis along which
    `layout` has outputs, the first where that is not known. A vector or a scalar is one unit. Of the axes
    that `units` states those count that the tensor has.

    Raises:
        UsageError: a tensor of several axes has none of them, so that nothing would be as meant.
    """
    if rank <= 1:
        return tuple(range(rank))
    if units is None or not units.stated:
        return tuple(range(rank - 1)) if layout is Layout.LAST else tuple(range(1, rank))
    if units.whole:
        return tuple(range(rank))
    stated = units.axis if units.axis is not None else units.unit_axis or ()
    inside = {axis % rank for axis in stated if -rank <= axis < rank}
    if not inside:
        axes = ", ".join(map(str, stated))
        raise UsageError(f"axis {axes} does not exist in a tensor of {rank} axes")
    reduced = inside if units.axis is not None else set(range(rank)) - inside
    return tuple(sorted(reduced))


def intended_axes(shape: Shape, layer_class: str = "", argument: str = "") -> Axes:
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


def kept_axes(shape: Sequence[int], axes: Sequence[int]) -> Axes:
    """The axes along which units are counted."""
    return tuple(axis for axis in range(len(shape)) if axis not in axes)


def unit_size(shape: Sequence[int], axes: Sequence[int]) -> int:
    """How many weights one unit has."""
    return math.prod(shape[axis] for axis in axes)


def unit_words(shape: Sequence[int], axes: Sequence[int], names: Sequence[str] = ()) -> str:
    """Say what one unit is, for example ``one of 64 columns (last axis): 128 weights``.

    `names` are those of the axes, where a rule gives them any.
    """
    if not axes:
        return "each weight"
    if names:
        return _named_unit(shape, axes, names)
    weights = _product([shape[axis] for axis in axes])
    weights += " weight" if unit_size(shape, axes) == 1 else " weights"
    kept, rank = kept_axes(shape, axes), len(shape)
    if not kept:
        return f"the whole {'vector' if rank == 1 else 'tensor'}: {weights}"
    if len(kept) == 1:
        count, noun = shape[kept[0]], _noun(kept[0], rank)
        noun = noun.removesuffix("s") if count == 1 else noun
        return f"one of {count} {noun} ({_place(kept[0], rank)} axis): {weights}"
    *most, last = map(str, kept)
    positions = _product([shape[axis] for axis in kept])
    return f"one of {positions} positions along axes {', '.join(most)} and {last}: {weights}"


def _named_unit(shape: Sequence[int], axes: Sequence[int], names: Sequence[str]) -> str:
    """``one of 32 along head: dim x in = 128x4096 = 524288 weights``."""
    kept = kept_axes(shape, axes)
    weights = f"{' x '.join(names[axis] for axis in axes)} = {_product([shape[a] for a in axes])}"
    weights += " weight" if unit_size(shape, axes) == 1 else " weights"
    if not kept:
        return f"the whole tensor: {weights}"
    positions = _product([shape[axis] for axis in kept])
    return f"one of {positions} along {' and '.join(names[axis] for axis in kept)}: {weights}"


def _noun(axis: int, rank: int) -> str:
    if rank == 2:
        return "rows" if axis == 0 else "columns"
    return "filters" if rank in _KERNEL_RANKS and axis in (0, rank - 1) else "slices"


def _place(axis: int, rank: int) -> str:
    if axis == rank - 1:
        return "last"
    return ("first", "second", "third")[axis] if axis < 3 else f"{axis + 1}th"


def _product(extents: list[int]) -> str:
    total = str(math.prod(extents))
    return total if len(extents) == 1 else f"{'x'.join(map(str, extents))} = {total}"


def degenerate(
    tensor: str, shape: Shape, axes: Axes, meant: Axes, layout: Layout = Layout.LAST
) -> Notice | None:
    """Warn where each norm spans a single weight, so that the constraint is a clip.

    Matrices are let be: a layer with one input has such a kernel rightly.
    """
    if len(shape) < 3 or unit_size(shape, axes) != 1 or unit_size(shape, meant) <= 1:
        return None
    return Notice(
        "degenerate-axis",
        f"over axis {_written(axes)} of shape {_shape(shape)} each norm spans one weight: "
        "it bounds weights one by one, and no filter as a whole",
        hint=_advice(shape, layout) if layout is Layout.UNKNOWN else _as_intended(shape, meant),
        tensor=tensor,
    )


def suspicious(
    tensor: str, shape: Shape, axes: Axes, layer_class: str, argument: str
) -> Notice | None:
    """Warn where a convolution or an embedding was left with Keras' default axis of 0."""
    is_known = "Conv" in layer_class or "Embedding" in layer_class
    meant = intended_axes(shape, layer_class, argument)
    if not is_known or axes != (0,) or len(shape) < 2 or _same(shape, axes, meant):
        return None
    return Notice(
        "suspicious-axis",
        f"axis 0 of shape {_shape(shape)}, Keras' default, makes a unit {unit_words(shape, axes)}",
        hint=_as_intended(shape, meant),
        tensor=tensor,
    )


def defaulted(
    tensor: str, shape: Shape, axes: Axes, layout: Layout = Layout.UNKNOWN
) -> Notice | None:
    """Tell which axis of a matrix was taken where the rule states none.

    In a file that has its units along that axis it is a warning: other units were probably meant.
    """
    if len(shape) != 2 or axes != (0,):
        return None
    return Notice(
        "default-axis",
        f"no axis is stated, so it is Keras' default of 0: a unit is {unit_words(shape, axes)}",
        hint=_STATED[layout],
        tensor=tensor,
        informational=layout is not Layout.FIRST,
    )


_STATED = {
    Layout.LAST: "state axis or unit_axis to say so",
    Layout.FIRST: "state axis or unit_axis; PyTorch and MLX have units along axis 0: unit_axis: 0",
    Layout.UNKNOWN: "state axis or unit_axis; a PyTorch Linear weight has its units along axis 0",
}


def _same(shape: Shape, axes: Axes, others: Axes) -> bool:
    """Whether two sets of axes make the same units, since axes of extent 1 do not count."""
    return {a for a in axes if shape[a] != 1} == {a for a in others if shape[a] != 1}


def _as_intended(shape: Shape, meant: Axes) -> str:
    return f"axis {_written(meant)} was probably meant: {unit_words(shape, meant)}"


def _written(axes: Axes) -> str:
    return str(axes[0]) if len(axes) == 1 else str(list(axes))


def _shape(shape: Shape) -> str:
    return "x".join(map(str, shape))
