"""The preset `health`: what is true of every sound checkpoint, whatever its model.

Every weight is a finite number that the model's own dtype can hold, no weight is all one value, and the
scales of quantised weights are there, finite and positive. All that is asked of one tensor is
measured in one pass: its unit is the whole of it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from ckptclamp.checkpoints.documents import CONFIG
from ckptclamp.checkpoints.dtypes import DTYPES, Kind
from ckptclamp.checkpoints.tensor import Computed, NotComputed, Role, Tensor, Unreadable
from ckptclamp.constraints.sets.soundness import Positive, Sound, Varied
from ckptclamp.errors import Reason
from ckptclamp.models.parts import PartRole
from ckptclamp.plan import EQUAL, Assignment, NotEvaluated, Origin
from ckptclamp.plan.tensors import (
    audited_tensors,
    computed_tensors,
    is_effective,
    keras_model,
    parts_of,
    why_not_audited,
    why_unreadable,
)
from ckptclamp.plan.ties import stored_apart, untied
from ckptclamp.spec.model import Severity

if TYPE_CHECKING:
    from ckptclamp.checkpoints.checkpoint import Checkpoint
    from ckptclamp.constraints.base import Constraint
    from ckptclamp.models.parts import Part
    from ckptclamp.plan import Entry

WEIGHTS: Final = "health/weights"
VARIED: Final = "health/varied"
SCALES: Final = "health/scales"
TIED: Final = "health/tied"
"""The ids of its rules; ignore rules and baselines name them. The last one compares tied tensors."""

_BIAS: Final = re.compile(r"(?:^|[._/])bias(?:es)?(?:_?\d+)?(?::0)?$")


def plan_health(checkpoint: Checkpoint) -> Iterator[Entry]:
    """Yield what is asked of each tensor of `checkpoint` that holds real numbers."""
    bound = keras_model(checkpoint)
    labels = {} if bound is None else bound.distinct_labels
    parts = parts_of(checkpoint)
    yield from _unread_config(checkpoint)
    if bound is None and (apart := stored_apart(checkpoint)) is not None:
        yield _not_evaluated(apart[0], untied(apart[1]), TIED)
    largest = _largest(checkpoint)
    computed = computed_tensors(checkpoint)
    for tensor in audited_tensors(checkpoint).values():
        label = labels.get(tensor.name)
        if isinstance(tensor.storage, NotComputed):
            yield _not_evaluated(tensor, why_unreadable(tensor.storage))
        elif (part := parts.get(tensor.name)) is not None and not is_effective(tensor):
            yield from _of_part(tensor, part, computed=part.weight in computed)
        elif (reason := _why_not(tensor)) is not None:
            yield _not_evaluated(tensor, reason)
        elif tensor.dtype is not None and tensor.dtype.kind is Kind.FLOAT and tensor.size:
            yield from _of_weight(tensor, label, largest)


def _unread_config(checkpoint: Checkpoint) -> Iterator[Entry]:
    """What is asked of the whole checkpoint cannot be told without the config beside it."""
    config = None if checkpoint.keras is not None else checkpoint.config()
    found = next((c for c in (config, checkpoint.quantisation) if isinstance(c, Unreadable)), None)
    if found is not None:
        yield NotEvaluated(
            subject=CONFIG,
            rule=WEIGHTS,
            constraint=str(Sound()),
            origin=Origin.SPEC,
            reason=Reason(
                "config-unread",
                f"what it says of dtypes, ties and quantised weights is not known: {found.reason}",
            ),
            hint="mend it, or remove it; --follow-symlinks reads one that is a symbolic link",
        )


def _of_weight(tensor: Tensor, label: str | None, largest: float) -> Iterator[Entry]:
    """What is asked of one weight; of the state of an optimizer, that it is finite."""
    if tensor.role is not Role.WEIGHT:
        yield _assignment(tensor, WEIGHTS, Sound(varied=False), label)
        return
    if isinstance(tensor.storage, Computed) and not any(
        part.dtype_name == "float64" for part in tensor.storage.parts
    ):
        # What is stored in less than float64 is not computed in it either.
        largest = min(largest, _maximum("float32"))
    bound = largest if largest < _largest_of(tensor) else math.inf
    is_matrix = len(tensor.shape) > 1 and _BIAS.search(label or tensor.name) is None
    yield _assignment(tensor, WEIGHTS, Sound(bound, varied=is_matrix), label)
    if not is_matrix and tensor.size > 1:
        # Vectors, and biases of any shape, begin as ones or zeros, and may rightly stay so; a matrix
        # that does is dead.
        yield _assignment(tensor, VARIED, Varied(), label, Severity.WARNING)


def _of_part(tensor: Tensor, part: Part, *, computed: bool) -> Iterator[Entry]:
    """Numbers that scale codes must be positive; codes count by the weight that is `computed` of them.

    Codes that nobody computes, and parts without the others, are not evaluated.
    """
    is_float = tensor.dtype is not None and tensor.dtype.kind is Kind.FLOAT
    if not computed and (part.role is PartRole.CODES or part.lacks):
        yield _not_evaluated(tensor, part.reason)
    elif part.role in (PartRole.SCALES, PartRole.ACTIVATION) and is_float and tensor.size:
        yield _assignment(tensor, SCALES, Positive(), None)
    elif is_float and tensor.size:
        yield _assignment(tensor, WEIGHTS, Sound(varied=False), None)


def _assignment(
    tensor: Tensor,
    rule: str,
    constraint: Constraint,
    label: str | None,
    severity: Severity = Severity.ERROR,
) -> Assignment:
    return Assignment(
        tensor=tensor,
        constraint=constraint,
        axes=tuple(range(len(tensor.shape))),
        rule=rule,
        origin=Origin.SPEC,
        why="preset: health",
        tolerance=0.0,
        severity=severity,
        label=label,
        unprojected="the health preset shows what is wrong, and mends nothing",
    )


def _why_not(tensor: Tensor) -> Reason | None:
    """Why a tensor that may hold weights cannot be judged; truth values and integers are finite."""
    unreadable = isinstance(tensor.storage, Unreadable)
    if unreadable or tensor.dtype is None or tensor.dtype.kind is Kind.COMPLEX:
        return why_not_audited(tensor)
    return None


def _not_evaluated(tensor: Tensor, reason: Reason, rule: str = WEIGHTS) -> NotEvaluated:
    return NotEvaluated(
        subject=tensor.name,
        rule=rule,
        constraint=EQUAL if rule == TIED else str(Sound()),
        origin=Origin.SPEC,
        reason=reason,
        tensor=tensor,
    )


def _largest_of(tensor: Tensor) -> float:
    """The largest number that the dtype of `tensor` holds."""
    assert tensor.dtype is not None
    return _maximum(tensor.dtype.name)


def _maximum(dtype: str) -> float:
    import ml_dtypes

    limits: Any = ml_dtypes.finfo
    return float(limits(DTYPES[dtype].numpy).max)


def _largest(checkpoint: Checkpoint) -> float:
    """The largest number that the model computes with, as far as its config says."""
    if checkpoint.keras is not None:
        names = set(_policies(checkpoint.keras.config or {}))
    else:
        config = checkpoint.config()
        names = set() if not isinstance(config, Mapping) else set(_stated(config))
    known = [name for name in names if name in DTYPES and DTYPES[name].kind is Kind.FLOAT]
    return max(map(_maximum, known)) if known and len(known) == len(names) else math.inf


def _stated(config: Mapping[str, Any]) -> Iterator[str]:
    """What transformers calls the dtype of a model; the newer key first."""
    for place in (config, config.get("text_config")):
        if isinstance(place, Mapping):
            found = place.get("dtype", place.get("torch_dtype"))
            if isinstance(found, str):
                yield found


def _policies(config: Mapping[str, Any]) -> Iterator[str]:
    """The dtypes that the layers of a Keras model compute with: ``mixed_float16`` is float16."""
    inner = config.get("config")
    layers = inner.get("layers") if isinstance(inner, Mapping) else None
    for layer in layers if isinstance(layers, list) else ():
        settings = layer.get("config") if isinstance(layer, Mapping) else None
        policy = settings.get("dtype") if isinstance(settings, Mapping) else None
        if isinstance(policy, Mapping) and isinstance(policy.get("config"), Mapping):
            policy = policy["config"].get("name")
        if isinstance(policy, str):
            yield policy.removeprefix("mixed_")
