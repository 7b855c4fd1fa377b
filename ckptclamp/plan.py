"""Rules × tensors → Plan: every (tensor, constraint) pair that will be judged, and why."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ckptclamp.errors import UsageError
from ckptclamp.planning.model import Assignment, NotEvaluated, Plan, combined
from ckptclamp.planning.rules import plan_rules
from ckptclamp.spec.model import Declared, Spec

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from ckptclamp.checkpoints.checkpoint import Checkpoint

__all__ = ["Assignment", "NotEvaluated", "Plan", "build_plan"]


def build_plan(
    checkpoint: Checkpoint,
    spec: Spec | None,
    *,
    allow_import: AbstractSet[str] = frozenset(),
    tolerance: float | None = None,
) -> Plan:
    """Decide what will be judged of `checkpoint`; no weight is read.

    The rules of `spec` come first, in their order, then what the checkpoint's own model declares,
    unless the spec ignores it. The same tensor may be judged under several constraints.

    Args:
        checkpoint: what is audited.
        spec: the rules; ``None`` leaves only declared constraints.
        allow_import: modules from which a declared custom constraint may be imported.
        tolerance: a relative tolerance that replaces every rule's own.

    Raises:
        SpecError: a rule makes no sense for a tensor that it matches, such as an axis that the
            tensor does not have; all such problems are in it.
        UsageError: `tolerance` is no relative tolerance.
    """
    if tolerance is not None and not (math.isfinite(tolerance) and tolerance >= 0):
        raise UsageError(f"a tolerance of {tolerance:g} makes no sense", hint="0.01 is one percent")
    spec = spec or Spec()
    plan = plan_rules(checkpoint, spec, tolerance)
    if spec.declared is Declared.IGNORE or checkpoint.keras is None:
        return plan
    from ckptclamp.planning.declarations import plan_declarations

    return combined([plan, plan_declarations(checkpoint, spec, allow_import, tolerance)])
