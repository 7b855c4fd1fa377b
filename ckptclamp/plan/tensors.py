"""What every pair of a plan needs to know of its tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ckptclamp.checkpoints.dtypes import Kind
from ckptclamp.checkpoints.tensor import Computed, Unreadable
from ckptclamp.constraints.tolerance import auto_tolerance
from ckptclamp.errors import Notice, NotWrittenError
from ckptclamp.models.families import find_parts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptclamp.checkpoints.checkpoint import Checkpoint
    from ckptclamp.checkpoints.tensor import Tensor
    from ckptclamp.constraints.base import Constraint
    from ckptclamp.models.families import Part
    from ckptclamp.plan.model import Plan


def judged_tensors(checkpoint: Checkpoint) -> Mapping[str, Tensor]:
    """Every tensor by name, as it is judged: a quantised weight of a Keras model as dequantised."""
    if checkpoint.keras is None:
        return checkpoint.tensors
    from ckptclamp.models.keras import dequantised_weights

    return {
        **checkpoint.tensors,
        **dequantised_weights(checkpoint.keras, checkpoint.tensors),
    }


def why_not_projected(tensor: Tensor) -> str | None:
    """Say why the weights of `tensor` can be judged but not changed; ``None`` if they can be."""
    if isinstance(tensor.storage, Computed):
        return "it is quantised, and its integers and scales are not projected"
    return None


def quantised_notice(tensor: Tensor) -> tuple[Notice, ...]:
    """Tell that what is judged is not what is stored."""
    if not isinstance(tensor.storage, Computed):
        return ()
    return (
        Notice(
            "dequantised",
            f"it is judged as the weights that its {tensor.storage.stored_as} stand for",
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


RAW_HINT: Final = "`storage: raw` in a rule, or --storage raw, judges the stored numbers"


def parts_of(checkpoint: Checkpoint) -> Mapping[str, Part]:
    """The tensors that are parts of weights, by name; Keras' files tell of theirs in another way."""
    if checkpoint.keras is not None:
        return {}
    stated = checkpoint.quantisation
    return find_parts(checkpoint.tensors, None if isinstance(stated, Unreadable) else stated)


def why_no_weight(tensor: Tensor, part: Part | None, constraint: Constraint) -> str | None:
    """Say why `constraint` does not judge the stored numbers of `tensor`; ``None`` if it does.

    Integers have no norm that means anything unless somebody says that they are weights.
    """
    if part is not None:
        return part.reason
    return None if constraint.elementwise else why_no_norm(tensor)


def why_no_norm(tensor: Tensor) -> str | None:
    """Say why norms of the stored numbers of `tensor` mean nothing; ``None`` if they may."""
    if isinstance(tensor.storage, Computed | Unreadable) or tensor.dtype is None:
        return None
    if tensor.dtype.kind is not Kind.INTEGER:
        return None
    return f"it holds {tensor.dtype} numbers, and nothing tells what weights they stand for"


def unread_config_notice(checkpoint: Checkpoint) -> tuple[Notice, ...]:
    """Warn that codes may be taken for weights because the config could not be read."""
    if not isinstance(checkpoint.quantisation, Unreadable):
        return ()
    return (
        Notice(
            "config-not-read",
            f"whether its weights are quantised is not known: {checkpoint.quantisation.reason}",
            hint="--follow-symlinks reads a config that is a symbolic link",
        ),
    )


def refuse_no_weights(checkpoint: Checkpoint, plan: Plan) -> None:
    """Refuse rules about numbers that are not the model's weights, which a projection would ruin.

    Raises:
        NotWrittenError: there are such rules.
    """
    found = [entry for entry in plan.not_evaluated if entry.no_weight]
    if found:
        first = found[0]
        others = f" (and {len(found) - 1:,} more)" if len(found) > 1 else ""
        rest = "; --allow-remaining leaves it as it is" if plan.assignments else ""
        raise NotWrittenError(
            f"nothing was written, rule {first.rule} governs what is no weight as it is stored: "
            f"{first.reason}{others}",
            path=checkpoint.path,
            tensor=first.subject,
            hint=f"{first.hint}{rest}",
        )
