"""Rules × tensors → Plan: every (tensor, constraint) pair that will be judged, and why."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptclamp.errors import SpecError, SpecProblem, UsageError
from ckptclamp.planning.model import Assignment, NotEvaluated, Plan, combined
from ckptclamp.planning.rules import plan_rules
from ckptclamp.spec.model import Declared, Spec

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from ckptclamp.checkpoints.checkpoint import Checkpoint
    from ckptclamp.checkpoints.description import KerasModel, Tensor

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
            tensor does not have, or has the id of a declared constraint that is judged as well; all
            such problems are in it.
        UsageError: `tolerance` is no relative tolerance, from 0 up to but not including 1.
    """
    if tolerance is not None and not 0 <= tolerance < 1:
        raise UsageError(f"a tolerance of {tolerance:g} makes no sense", hint="0.01 is one percent")
    spec = spec or Spec()
    plan = plan_rules(checkpoint, spec, tolerance)
    if checkpoint.keras is None:
        return plan
    if spec.declared is Declared.AUDIT:
        from ckptclamp.planning.declarations import plan_declarations

        declared = plan_declarations(checkpoint, spec, allow_import, tolerance)
        _refuse_shared_ids(spec, declared)
        plan = combined([plan, declared])
    return replace(plan, twins=_governed_twins(checkpoint, checkpoint.keras, plan))


def _refuse_shared_ids(spec: Spec, declared: Plan) -> None:
    """Refuse a rule with the id of a declared constraint: baselines and ignore rules go by it."""
    taken = {pair.rule for pair in declared.assignments}
    taken |= {pair.rule for pair in declared.not_evaluated}
    problems = tuple(
        SpecProblem(
            f"rule {rule.id}: a constraint that the model declares, and that is judged too, has this id",
            line=None if rule.location is None else rule.location.line,
            column=None if rule.location is None else rule.location.column,
            hint="give the rule another id, or say `declared: ignore`",
        )
        for rule in spec.rules
        if rule.id in taken
    )
    if problems:
        raise SpecError(spec.path or "options", problems)


def _governed_twins(
    checkpoint: Checkpoint, model: KerasModel, plan: Plan
) -> tuple[tuple[Tensor, Tensor], ...]:
    """Copies of one variable of which some constraint governs at least one."""
    from ckptclamp.keras_config import twin_tensors

    governed = {assignment.tensor.name for assignment in plan.assignments}
    return tuple(
        (checkpoint.tensors[one], checkpoint.tensors[other])
        for one, other in twin_tensors(model, checkpoint.tensors)
        if not governed.isdisjoint((one, other))
    )
