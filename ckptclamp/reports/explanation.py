"""An explanation, as text for people or as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

from ckptclamp.checkpoints.tensor import Computed
from ckptclamp.errors import plural, printable
from ckptclamp.reports.codec import json_text
from ckptclamp.reports.names import grouped, merged, template
from ckptclamp.reports.wording import file_size, interval, shape_words, unmatched_words

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckptclamp.auditing.inspection import AtOnce, Explanation
    from ckptclamp.errors import Notice
    from ckptclamp.plan import Assignment, NotEvaluated
    from ckptclamp.reports import RenderOptions

_SHOWN_UNMATCHED = 10


def render_explanation(explanation: Explanation, format_: str, options: RenderOptions) -> str:
    """Return the explanation as ``text`` or ``json``, without a line break at the end."""
    if format_ == "json":
        return json_text(_as_json(explanation), indent=2, allow_nan=True)
    return "\n".join(_lines(explanation, options))


def _lines(explanation: Explanation, options: RenderOptions) -> Iterator[str]:
    plan = explanation.plan
    if options.verbose >= 0:
        yield from _pairs(explanation, options)
    yield (
        f"{plural(len(plan.assignments), 'pair')} to judge, "
        f"{len(plan.not_evaluated)} that cannot be, "
        f"{plural(len(plan.unmatched), 'rule')} without a match; "
        f"exit {int(explanation.exit_code)}"
    )


def _pairs(explanation: Explanation, options: RenderOptions) -> Iterator[str]:
    plan = explanation.plan
    yield printable(explanation.checkpoint.path, limit=None)
    yield f"layout of weights: {explanation.layout}"
    yield ""
    pairs = list(zip(plan.assignments, explanation.at_once, strict=True))
    judged = [
        _Told(printable(a.rule), _tensor_name(a), tuple(_assignment(a, needed)))
        for a, needed in pairs
    ]
    missing = [
        _Told(
            printable(e.rule),
            printable(e.tensor.name if e.tensor else e.subject),
            tuple(_not_evaluated(e)),
        )
        for e in plan.not_evaluated
    ]
    for told in (judged, missing):
        yield from _by_rule(told, whole=options.verbose > 0)
    for unmatched in plan.unmatched:
        yield f"{printable(unmatched.rule)}: {unmatched_words(unmatched)}"
        yield ""
    yield from _notices(plan.notices)
    yield from _unmatched_tensors(explanation.ungoverned, options)


class _Told(NamedTuple):
    """A rule, a tensor that it applies to, and the lines about the two."""

    rule: str
    tensor: str
    lines: tuple[str, ...]

    @property
    def kind(self) -> tuple[str, ...]:
        """What pairs have in common that are told as one."""
        return tuple(map(template, (self.rule, self.tensor, *self.lines)))


def _by_rule(told: Sequence[_Told], *, whole: bool) -> Iterator[str]:
    """The pairs of each rule together, and unless the `whole` is asked for, what is alike as one."""
    for of_rule in grouped(told, lambda one: template(one.rule)):
        for alike in [[one] for one in of_rule] if whole else grouped(of_rule, lambda o: o.kind):
            names = list(dict.fromkeys(one.tensor for one in alike))
            yield merged(names) + (f" ({len(names):,} tensors)" if len(names) > 1 else "")
            rules = merged([one.rule for one in alike])
            first, *others = [
                merged(lines) for lines in zip(*(o.lines for o in alike), strict=True)
            ]
            yield f"  rule: {rules}: {first}"
            yield from others
            yield ""


def _tensor_name(assignment: Assignment) -> str:
    label = f" ({printable(assignment.label)})" if assignment.label else ""
    return f"{printable(assignment.tensor.name)}{label}"


def _assignment(assignment: Assignment, needed: AtOnce | None) -> Iterator[str]:
    """The constraint, and a line for each other thing to know."""
    tensor = assignment.tensor
    yield printable(str(assignment.constraint))
    computed = "computed in " if isinstance(tensor.whole.storage, Computed) else ""
    yield f"  shape: {shape_words(tensor.shape)}, {computed}{tensor.dtype}"
    yield f"  why: {printable(assignment.why, limit=None)}"
    yield f"  unit: {assignment.unit_words}"
    if words := assignment.constraint.measures:
        yield f"  measured: {words} {interval(assignment.constraint.interval())}"
    yield f"  tolerance: {_tolerance(assignment)}"
    if needed is not None:
        yield f"  note: {_at_once(needed)}"
    yield from _notices(assignment.notices, indent="  ")


def _at_once(needed: AtOnce) -> str:
    what, audit, apply = needed.what, file_size(needed.audit), file_size(needed.apply)
    if not needed.audit:
        return f"apply needs {what} in memory at once: {apply}"
    if needed.audit == needed.apply:
        return f"audit and apply need {what} in memory at once: {apply}"
    return f"{what} must be in memory: {audit} for an audit, {apply} for an apply"


def _tolerance(assignment: Assignment) -> str:
    words = f"{assignment.tolerance:.3g} (relative"
    if assignment.shortfall:
        words += f"; below a minimum {assignment.tolerance + assignment.shortfall:.3g}"
    words += f"; {assignment.history})" if assignment.history else ")"
    return f"{words}; zero units are allowed" if assignment.allow_zero else words


def _not_evaluated(entry: NotEvaluated) -> Iterator[str]:
    yield printable(entry.constraint)
    yield f"  NOT EVALUATED: {printable(entry.reason, limit=None)}"
    if entry.hint:
        yield f"  help: {printable(entry.hint, limit=None)}"
    yield from _notices(entry.notices, indent="  ")


def _notices(notices: tuple[Notice, ...], indent: str = "") -> Iterator[str]:
    for notice in notices:
        level = "note" if notice.informational else "warning"
        yield f"{indent}{level}[{notice.code}]: {printable(notice.message, limit=None)}"
        if notice.hint:
            yield f"{indent}  = help: {printable(notice.hint, limit=None)}"


def _unmatched_tensors(names: tuple[str, ...], options: RenderOptions) -> Iterator[str]:
    if not names:
        return
    yield f"No rule governs {plural(len(names), 'tensor')}:"
    if options.verbose > 0:
        yield from (f"  {printable(name)}" for name in names)
    else:
        yield from _few_kinds(names)
    yield ""


def _few_kinds(names: Sequence[str]) -> Iterator[str]:
    """Those whose names differ in numbers alone as one, and not too many of these."""
    kinds = grouped(map(printable, names), template)
    for kind in kinds[:_SHOWN_UNMATCHED]:
        yield f"  {merged(kind)}" + (f" ({len(kind):,} tensors)" if len(kind) > 1 else "")
    rest = sum(map(len, kinds[_SHOWN_UNMATCHED:]))
    if rest:
        yield f"  … {rest:,} more (-v lists them)"


def _as_json(explanation: Explanation) -> dict[str, Any]:
    plan = explanation.plan
    return {
        "schema": "ckptclamp-explanation-1",
        "checkpoint": explanation.checkpoint.path,
        "layout": explanation.layout,
        "exit_code": int(explanation.exit_code),
        "assignments": [
            _assignment_json(assignment, needed)
            for assignment, needed in zip(plan.assignments, explanation.at_once, strict=True)
        ],
        "not_evaluated": [
            {
                "subject": entry.tensor.name if entry.tensor else entry.subject,
                "rule": entry.rule,
                "constraint": entry.constraint,
                "reason": entry.reason,
                "reason_code": entry.reason.code,
                "hint": entry.hint,
            }
            for entry in plan.not_evaluated
        ],
        "unmatched": [unmatched.rule for unmatched in plan.unmatched],
        "notices": [_notice_json(notice) for notice in plan.notices],
        "ungoverned": list(explanation.ungoverned),
    }


def _assignment_json(assignment: Assignment, needed: AtOnce | None) -> dict[str, Any]:
    tensor = assignment.tensor
    return {
        "tensor": tensor.name,
        "label": assignment.label,
        "shape": list(tensor.shape),
        "dtype": str(tensor.dtype),
        "rule": assignment.rule,
        "origin": assignment.origin.value,
        "constraint": str(assignment.constraint),
        "axes": list(assignment.axes),
        "unit": assignment.unit_words,
        "why": assignment.why,
        "tolerance": assignment.tolerance,
        "shortfall": assignment.shortfall,
        "history": assignment.history,
        "allow_zero": assignment.allow_zero,
        "at_once": None if needed is None else asdict(needed),
        "location": assignment.location,
        "notices": [_notice_json(notice) for notice in assignment.notices],
    }


def _notice_json(notice: Notice) -> dict[str, Any]:
    return {"code": notice.code, "message": notice.message, "hint": notice.hint}
