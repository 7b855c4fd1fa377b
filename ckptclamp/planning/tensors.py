"""What every pair of a plan needs to know of its tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptclamp.checkpoints.description import Unreadable
from ckptclamp.checkpoints.dtypes import Kind
from ckptclamp.constraints.tolerance import auto_tolerance

if TYPE_CHECKING:
    from ckptclamp.checkpoints.description import Tensor
    from ckptclamp.constraints.base import Constraint


def why_not_judged(tensor: Tensor) -> str | None:
    """Say why the weights of `tensor` cannot be judged by any constraint; ``None`` if they can."""
    if isinstance(tensor.storage, Unreadable):
        return tensor.storage.reason
    if tensor.dtype is None:
        return f"its dtype {tensor.dtype_name} is not known here".replace("  ", " ")
    if tensor.dtype.kind in (Kind.BOOLEAN, Kind.COMPLEX):
        return f"{tensor.dtype} weights are no real numbers"
    return "it has no weights" if tensor.size == 0 else None


def stored(constraint: Constraint, tensor: Tensor) -> Constraint:
    """`constraint` with its bounds as the dtype of `tensor` holds them."""
    return constraint if tensor.dtype is None else constraint.as_stored(tensor.dtype)


def tolerance_for(tensor: Tensor, stated: float | None, override: float | None) -> float:
    """The relative tolerance: the caller's, or else the rule's, or else the dtype's own."""
    if override is not None:
        return override
    if stated is not None:
        return stated
    return 0.0 if tensor.dtype is None else auto_tolerance(tensor.dtype)
