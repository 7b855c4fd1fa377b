"""Which stored tensors are not the weights that the model computes with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ckptclamp.checkpoints.description import Dequantised, Unreadable
from ckptclamp.checkpoints.dtypes import Kind
from ckptclamp.errors import NotWrittenError
from ckptclamp.models.families import find_parts
from ckptclamp.notices import Notice

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptclamp.checkpoints.checkpoint import Checkpoint
    from ckptclamp.checkpoints.description import Tensor
    from ckptclamp.constraints.base import Constraint
    from ckptclamp.models.families import Part
    from ckptclamp.planning.model import Plan

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
    if isinstance(tensor.storage, Dequantised | Unreadable) or tensor.dtype is None:
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
