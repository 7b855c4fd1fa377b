"""What every pair of a plan needs to know of its tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptclamp.checkpoints.description import Dequantised, Unreadable
from ckptclamp.checkpoints.dtypes import Kind
from ckptclamp.constraints.tolerance import auto_tolerance
from ckptclamp.notices import Notice

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptclamp.checkpoints.checkpoint import Checkpoint
    from ckptclamp.checkpoints.description import Tensor
    from ckptclamp.constraints.base import Constraint


def judged_tensors(checkpoint: Checkpoint) -> Mapping[str, Tensor]:
    """Every tensor by name, as it is judged: a quantised weight of a Keras model as dequantised."""
    if checkpoint.keras is None:
        return checkpoint.tensors
    from ckptclamp.keras_config import dequantised_weights

    return {
        **checkpoint.tensors,
        **dequantised_weights(checkpoint.keras, checkpoint.tensors),
    }


def why_not_projected(tensor: Tensor) -> str | None:
    """Say why the weights of `tensor` can be judged but not changed; ``None`` if they can be."""
    if isinstance(tensor.storage, Dequantised):
        return "it is quantised, and its integers and scales are not projected"
    return None


def quantised_notice(tensor: Tensor) -> tuple[Notice, ...]:
    """Tell that what is judged is not what is stored."""
    if not isinstance(tensor.storage, Dequantised):
        return ()
    bits = "int8" if tensor.storage.packed is None else "int4"
    return (
        Notice(
            "dequantised",
            f"it is judged as the weights that its {bits} values and their scales stand for",
            tensor=tensor.name,
            informational=True,
        ),
    )


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
