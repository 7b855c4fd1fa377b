"""What one unit is: the axes that a rule states, resolved for one shape."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptclamp.errors import UsageError
from ckptclamp.unit_words import unit_words

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
