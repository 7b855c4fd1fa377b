"""What a rule compares with: the tensors of the base checkpoint, each by the name that it has here."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptclamp.checkpoints.base import elsewhere
from ckptclamp.checkpoints.tensor import Tensor, View
from ckptclamp.errors import UsageError, printable
from ckptclamp.plan import Assignment, Entry, NotEvaluated
from ckptclamp.plan.tensors import audited_tensors, parts_of, why_no_weight, why_not_audited
from ckptclamp.spec.model import Storage

if TYPE_CHECKING:
    from ckptclamp.checkpoints.checkpoint import Checkpoint
    from ckptclamp.constraints.base import Constraint
    from ckptclamp.spec.model import Rule, Spec

_HINT = "--base PATH names it, or `base: PATH` in the spec"


def compares(constraint: Constraint) -> bool:
    """Whether `constraint` is about a base checkpoint."""
    from ckptclamp.constraints.sets.distance import Distance

    return isinstance(constraint, Distance)


def refuse_idle_base(checkpoint: Checkpoint, spec: Spec) -> None:
    """Refuse a base that nothing is added to and nothing compared with.

    Raises:
        UsageError: that is so.
    """
    if not checkpoint.merged and not any(compares(rule.constraint) for rule in spec.rules):
        raise UsageError(
            "it is no adapter, and no rule is about its distance to a base",
            path=checkpoint.path,
            hint="leave the base out, or add a rule with constraint: Distance",
        )


def compared(entry: Entry, rule: Rule, checkpoint: Checkpoint) -> Entry:
    """Return `entry` with the tensor of the base that it is compared with, if its constraint does that.

    Raises:
        UsageError: there is no base checkpoint.
    """
    if not isinstance(entry, Assignment) or not compares(entry.constraint):
        return entry
    if checkpoint.base is None:
        raise UsageError(
            f"{entry.constraint} is about a base checkpoint, and none is given", hint=_HINT
        )
    found = _counterpart(entry.tensor.whole, rule, checkpoint.base)
    if isinstance(found, str):
        return NotEvaluated(
            subject=entry.tensor.name,
            rule=entry.rule,
            constraint=str(entry.constraint),
            origin=entry.origin,
            reason=found,
            location=entry.location,
            tensor=entry.tensor,
            severity=entry.severity,
        )
    base = elsewhere(found, checkpoint.base)
    storage = entry.tensor.storage
    if isinstance(storage, View):
        base = replace(base, shape=entry.tensor.shape, storage=replace(storage, whole=base))
    why = f"{entry.why}; compared with {checkpoint.base.path}"
    return replace(entry, base=base, why=why)


def _counterpart(tensor: Tensor, rule: Rule, base: Checkpoint) -> Tensor | str:
    """The tensor of `base` that is called as `tensor` is, or why there is none to compare with."""
    raw = rule.storage is Storage.RAW
    found = (base.tensors if raw else audited_tensors(base)).get(tensor.name)
    if found is None:
        return f"the base {printable(str(base.path))} holds no tensor of this name"
    if found.shape != tensor.shape and found.dtype is not None:
        here, there = ("x".join(map(str, one.shape)) or "()" for one in (tensor, found))
        return f"its shape is {here}, and {there} in the base {printable(str(base.path))}"
    part = parts_of(base).get(found.name)
    why = None if raw else why_no_weight(found, part, rule.constraint)
    reason = why or why_not_audited(found, rule.constraint)
    return found if reason is None else f"in the base {printable(str(base.path))}, {reason}"
