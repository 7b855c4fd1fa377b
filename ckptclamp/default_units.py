"""What a unit is where nobody says: what makes one output of a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptclamp.errors import UsageError

if TYPE_CHECKING:
    from ckptclamp.spec.model import Units


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
