"""Why no copy is written: what was not judged, what cannot be fixed, and what was not fixed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path

from ckptclamp.applying.parts import turns
from ckptclamp.auditing.results import AuditReport, Result, Verdict
from ckptclamp.checkpoints.tensor import Computed
from ckptclamp.constraints.sets.norms import MinMaxNorm
from ckptclamp.errors import NothingEvaluatedError, NotWrittenError, UnreadableError, printable
from ckptclamp.plan import Assignment, Plan
from ckptclamp.plan.build import exclusive
from ckptclamp.spec.model import Projection


def to_fix(result: Result) -> bool:
    """Whether it is a violation that nothing suppresses."""
    return result.verdict is Verdict.VIOLATION and result.suppressed is None


def refuse_incomplete(report: AuditReport) -> None:
    """Refuse a copy of what could not be judged, or of which a rule matched nothing."""
    missing = [r for r in report.results if r.verdict is Verdict.NOT_EVALUATED]
    if missing:
        first = missing[0]
        some = len(missing) < len(report.results)
        others = f" (and {len(missing) - 1:,} more)" if len(missing) > 1 else ""
        raise UnreadableError(
            f"nothing was written, rule {first.rule} could not be evaluated: "
            f"{first.reason}{others}",
            path=report.checkpoint.path,
            tensor=first.tensor,
            hint=first.hint or ("--allow-remaining writes a copy all the same" if some else None),
        )
    if report.unmatched:
        rules = ", ".join(unmatched.rule for unmatched in report.unmatched)
        raise NothingEvaluatedError(
            f"nothing was written, these rules match no tensor: {rules}",
            path=report.checkpoint.path,
            hint="fix the pattern, or say `required: false`",
        )


def refuse_ungoverned(plan: Plan, path: Path) -> None:
    """Refuse a copy in which nothing could have been fixed."""
    if not plan.assignments:
        raise NothingEvaluatedError(
            "nothing was written: it declares no constraint, and no rule applies to a tensor of it",
            path=path,
            hint="give a spec; `ckptclamp init` writes a first one",
        )


def refuse_unmendable(report: AuditReport, plan: Plan) -> None:
    """Refuse where no projection helps: units beyond fixing, tensors that stay as they are."""
    # What a declaration has only audited, a rule may have projected for it.
    projected = {
        (a.tensor.name, str(a.constraint)) for a in plan.assignments if a.unprojected is None
    }
    unprojected = {
        (a.tensor.name, a.rule): a.unprojected
        for a in plan.assignments
        if (a.tensor.name, str(a.constraint)) not in projected
    }
    for result in report.results:
        if to_fix(result) and (reason := _why_left(result, plan, unprojected)) is not None:
            raise NotWrittenError(
                f"{result.violating} of {result.units} units violate {result.rule} and stay as they "
                f"are, nothing was written: {reason}",
                path=report.checkpoint.path,
                tensor=result.tensor,
                hint="--allow-remaining writes a copy with these left as they are",
            )
    unfixable = [r for r in report.results if to_fix(r) and r.unmendable]
    if unfixable:
        first = unfixable[0]
        allowed = "`zero_units: allow`, or --zero-units allow, excepts zero vectors; " * bool(
            first.zero
        )
        raise NotWrittenError(
            f"nothing was written, {_units(first.unmendable, first.units)} beyond fixing "
            f"({_why_unfixable(first)})",
            path=report.checkpoint.path,
            tensor=first.tensor,
            hint=f"{allowed}--allow-remaining writes a copy with these left as they are",
        )


def _why_left(
    result: Result, plan: Plan, unprojected: Mapping[tuple[str, str], str | None]
) -> str | None:
    """Why nothing projects what `result` is about; ``None`` where something does."""
    key = (result.tensor, result.rule)
    if key in unprojected:
        return unprojected[key]
    known = any((a.tensor.name, a.rule) == key for a in plan.assignments)
    return None if known else "no projection is about that"


def _why_unfixable(result: Result) -> str:
    if result.nonfinite:
        return "no number is nearest to non-finite weights"
    if result.zero == result.unmendable:
        return f"zero vectors, which have no direction towards {result.constraint}"
    return f"no point of {result.constraint} is nearest"


def refuse_untying(
    plan: Plan, accepted: AbstractSet[tuple[str, str]], todo: Iterable[Assignment], path: Path
) -> None:
    """Refuse to leave a tied tensor alone (`accepted`: tensor and rule) whose like is in `todo`."""
    group_of = {name: index for index, group in enumerate(plan.same) for name in group}
    kept = {
        _tied_key(a, group_of): a.tensor.name
        for a in plan.assignments
        if (a.tensor.name, a.rule) in accepted and a.tensor.whole.name in group_of
    }
    for assignment in todo if kept else ():
        if (alone := kept.get(_tied_key(assignment, group_of))) is not None:
            raise NotWrittenError(
                f"nothing was written: an ignore rule accepts {assignment.rule} here, and not in what "
                f"this is tied to ({printable(assignment.tensor.name)})",
                path=path,
                tensor=alone,
                hint="ignore both or neither",
            )


def _tied_key(assignment: Assignment, group_of: Mapping[str, int]) -> tuple[int | None, str, str]:
    """What is the same of a rule's assignments to tied tensors, and to the same part of each."""
    tensor = assignment.tensor
    part = tensor.name.removeprefix(tensor.whole.name)
    return group_of.get(tensor.whole.name), part, assignment.rule


def refuse_exclusive(
    report: AuditReport, plan: Plan, acceptable: AbstractSet[tuple[str, str]]
) -> None:
    """Refuse rules of which one must be violated, unless that is `acceptable` (tensor and rule)."""
    outside = {(result.tensor, result.rule) for result in report.results if to_fix(result)}
    binding = [a for a in plan.assignments if (a.tensor.name, a.rule) not in acceptable]
    for pair in exclusive(binding):
        keys = [(assignment.tensor.name, assignment.rule) for assignment in pair]
        if not outside.isdisjoint(keys):
            raise NotWrittenError(
                f"nothing was written, rules {pair[0].rule} and {pair[1].rule} exclude each "
                f"other: {pair[0].constraint}, {pair[1].constraint}",
                path=report.checkpoint.path,
                tensor=pair[0].tensor.name,
                hint="--allow-remaining writes a copy in which one of them is violated",
            )


def refuse_another_plan(copy: Plan, original: Plan, output: Path) -> None:
    """Refuse a copy that is not governed, pair by pair, as its original is."""
    pairs = [
        [(a.tensor.name, a.rule, str(a.constraint), a.axes, a.tolerance) for a in plan.assignments]
        for plan in (copy, original)
    ]
    if pairs[0] != pairs[1]:
        raise NotWrittenError(
            "nothing was written, rules apply to other tensors there", path=output
        )


def refuse_remaining(after: AuditReport, plan: Plan, projection: Projection) -> None:
    """Refuse a copy, which `plan` governs, in which violations remain."""
    remaining = [result for result in after.results if to_fix(result)]
    if remaining:
        first = remaining[0]
        raise NotWrittenError(
            f"nothing was written, {_units(first.violating, first.units)} still outside "
            f"{first.constraint} (rule {first.rule}) after the {projection.value} projection",
            path=after.checkpoint.path,
            tensor=first.tensor,
            hint=f"{_why_remaining(first, plan, projection)}; --allow-remaining writes the copy all the "
            "same",
        )


def _why_remaining(result: Result, plan: Plan, projection: Projection) -> str:
    """What to think of where a projection left units of `result` outside."""
    computed = any(
        isinstance(a.tensor.whole.storage, Computed)
        for a in plan.assignments
        if (a.tensor.name, a.rule) == (result.tensor, result.rule)
    )
    if computed and not _has_rules_of_parts(result, plan):
        return "its parts hold no weights that conform and are near to what they were to become"
    if projection is Projection.EXACT:
        return "the rules of this tensor may exclude each other"
    constraint = next(
        a.constraint
        for a in plan.assignments
        if (a.tensor.name, a.rule) == (result.tensor, result.rule)
    )
    if isinstance(constraint, MinMaxNorm) and constraint.rate < 1:
        rate = f"a step of Keras' goes a part of the way, {constraint.rate:g}"
        return f"{rate}; --projection exact goes all of it"
    if result.epsilon is not None:
        return (
            f"Keras divides by norm + {constraint.epsilon:g}, which leaves them short; `tolerance: trained` "
            "forgives that, --projection exact leaves none"
        )
    return "Keras' formula rounds as training does; --projection exact goes all the way"


def _has_rules_of_parts(result: Result, plan: Plan) -> bool:
    """Whether other rules are about what is stored of the weight that `result` is about."""
    (group,) = (
        group
        for group in turns(plan.assignments)
        if any((a.tensor.name, a.rule) == (result.tensor, result.rule) for a in group)
    )
    return any(not isinstance(a.tensor.whole.storage, Computed) for a in group)


def _units(some: int, total: int) -> str:
    """``1 of 4 units is``, ``2 of 4 units are``."""
    noun = "unit" if total == 1 else "units"
    return f"{some:,} of {total:,} {noun} {'is' if some == 1 else 'are'}"
