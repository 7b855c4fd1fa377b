"""Axes that were probably not meant: the oldest mistake with norm constraints."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ckptclamp.notices import Notice
from ckptclamp.unit_words import unit_words

if TYPE_CHECKING:
    from ckptclamp.constraints.base import Constraint

Shape = tuple[int, ...]
Axes = tuple[int, ...]


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
