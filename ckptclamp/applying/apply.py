"""A projected copy of a checkpoint: copy, project, audit what was written, publish."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptclamp.applying.projection import Work, project_tensors
from ckptclamp.applying.publication import check_target, find_leftovers, staged
from ckptclamp.auditing.audit import (
    AuditOptions,
    as_spec,
    audit_plan,
    ignored,
    is_hashed,
    judge,
    make_plan,
    opened,
    summarise,
)
from ckptclamp.auditing.results import ApplyReport, AuditReport, Result, TensorChange, Verdict
from ckptclamp.auditing.suppression import suppress_results
from ckptclamp.checkpoints.copying import Preview
from ckptclamp.checkpoints.source import Digests, default_jobs
from ckptclamp.checkpoints.tensor import Dequantised, Role
from ckptclamp.engine.executors import beside
from ckptclamp.engine.kept import Kept
from ckptclamp.errors import NothingEvaluatedError, Notice, NotWrittenError, UnreadableError
from ckptclamp.plan.build import exclusive
from ckptclamp.plan.tensors import refuse_no_weights
from ckptclamp.spec.model import Projection

if TYPE_CHECKING:
    from ckptclamp.checkpoints.checkpoint import Checkpoint, Copy
    from ckptclamp.plan.build import Plan
    from ckptclamp.spec.model import Spec

_ROUNDS = 16
"""How often the rules of one tensor take turns before their sets are said not to meet."""

_KEPT = 16
"""The part of the memory, one in so many, that may go to what is kept of the audit."""

_REMAINING = {
    Projection.EXACT: "the rules of this tensor may exclude each other",
    Projection.KERAS: "--projection exact goes all the way, whatever the rate",
}
"""What to think of where a projection left units outside."""


@dataclass(frozen=True, slots=True)
class ApplyOptions:
    """How to make the copy.

    `audit` is how the input is audited, and the copy; its `on_unit` hears of the input's units.
    `projection` overrides the spec's. `force` replaces an existing output; `in_place` allows the
    input to be that output. `allow_remaining` publishes a copy in which violations remain that no
    projection can mend; the report lists them. `dry_run` only tells what would change.
    """

    audit: AuditOptions = field(default_factory=AuditOptions)
    projection: Projection | None = None
    force: bool = False
    in_place: bool = False
    allow_remaining: bool = False
    dry_run: bool = False


def apply(
    path: str | Path,
    output: str | Path | None = None,
    spec: Spec | Mapping[str, Any] | str | Path | None = None,
    options: ApplyOptions | None = None,
) -> ApplyReport:
    """Write a copy of the checkpoint at `path` to `output` in which every governed unit conforms.

    `output` may be left out for a dry run, and in place.

    Raises:
        UnreadableError: something that a rule governs could not be read or judged.
        NothingEvaluatedError: no rule governs anything.
        NotWrittenError: a conforming copy cannot be made, or would ruin weights that are stored as
            codes or factors; nothing was written.
        UsageError: the output exists, is the input, or the spec makes no sense here.
    """
    options = options or ApplyOptions()
    rules = as_spec(spec, options.audit)
    with opened(path, options.audit) as checkpoint:
        plan = make_plan(checkpoint, rules, options.audit)
        job = _Job(checkpoint, plan, rules, options)
        # A directory may hold a checkpoint that is one file: that is what is replaced.
        itself = path if checkpoint.several_files else checkpoint.path
        target = _target(output or itself, options)
        if not options.dry_run:
            return job.write(target)
        if output is not None or options.in_place:
            check_target(target, like=checkpoint, force=options.force, in_place=options.in_place)
        return job.preview()


class _Job:
    """One apply, from the audit of the input to the published copy."""

    def __init__(
        self, checkpoint: Checkpoint, plan: Plan, spec: Spec | None, options: ApplyOptions
    ) -> None:
        self.checkpoint = checkpoint
        self.plan = plan
        self.spec = spec
        self.options = options
        self.projection = options.projection or (spec.projection if spec else Projection.EXACT)
        # What is kept of the audit, and what is at work beside it, share the budget.
        self.kept = Kept(options.audit.memory // _KEPT)
        self.streaming = replace(
            options.audit, memory=options.audit.memory - options.audit.memory // _KEPT
        )

    def preview(self) -> ApplyReport:
        """Tell what would change, and refuse what could not be mended.

        Each rule is tried on the weights as they are: what several rules of one tensor make of it
        together is not known before they have taken turns.
        """
        before = self._audit_input()
        changes = self._project(Preview(self.checkpoint), before, rounds=1)
        return self._report(before, changes, after=None, output=None)

    def write(self, output: Path) -> ApplyReport:
        """Make the copy at `output`; it appears there only when it is whole and verified."""
        options = self.options
        leftovers = _leftover_notices(output)
        with staged(
            output, like=self.checkpoint, force=options.force, in_place=options.in_place
        ) as stage:
            before = self._audit_input()
            copy = self.checkpoint.copy_to(stage)
            rounds = _ROUNDS if self.projection is Projection.EXACT else 1
            changes = self._project(copy, before, rounds=rounds)
            copy.finish()
            hashed = copy.files if is_hashed(self.checkpoint, options.audit) else ()
            with beside(copy.flush), Digests(hashed, options.audit.jobs) as digests:
                copy.compare(options.audit.jobs or default_jobs())
                after = self._verify(copy, digests, before, changes, output)
            self.checkpoint.verify_unchanged()
            notices = stage.publish()
        return self._report(before, changes, after, str(output), (*leftovers, *notices))

    def _audit_input(self) -> AuditReport:
        if not (self.options.allow_remaining and self.plan.assignments):
            refuse_no_weights(self.checkpoint, self.plan)
        before = audit_plan(self.checkpoint, self.plan, self.spec, self.streaming, self.kept)
        if not (self.options.allow_remaining and self.plan.assignments):
            _refuse_incomplete(before)
        if not self.plan.assignments:
            raise NothingEvaluatedError(
                "nothing was written: it declares no constraint, and no rule governs a tensor of it",
                path=self.checkpoint.path,
                hint="give a spec; `ckptclamp init` writes a first one",
            )
        if not self.options.allow_remaining:
            _refuse_unmendable(before, self.plan)
            self._refuse_exclusive(before)
        return before

    def _refuse_exclusive(self, before: AuditReport) -> None:
        """Refuse rules of which one must be violated, unless that is accepted."""
        outside = {(r.tensor, r.rule) for r in before.results if _to_mend(r)}
        broken = [replace(r, verdict=Verdict.VIOLATION, nonfinite=0) for r in before.results]
        would = suppress_results(broken, *ignored(self.checkpoint, self.spec))
        accepted = {(result.tensor, result.rule) for result in would if result.suppressed}
        binding = [a for a in self.plan.assignments if (a.tensor.name, a.rule) not in accepted]
        for pair in exclusive(binding):
            keys = [(assignment.tensor.name, assignment.rule) for assignment in pair]
            if not outside.isdisjoint(keys):
                raise NotWrittenError(
                    f"nothing was written, rules {pair[0].rule} and {pair[1].rule} exclude each "
                    f"other: {pair[0].constraint}, {pair[1].constraint}",
                    path=self.checkpoint.path,
                    tensor=pair[0].tensor.name,
                    hint="--allow-remaining writes a copy in which one of them is violated",
                )

    def _project(self, copy: Copy, before: AuditReport, *, rounds: int) -> list[TensorChange]:
        """Project every tensor that needs it, in the order of the plan."""
        outside = {
            result.tensor
            for result in before.results
            if _to_mend(result) or (result.within_tolerance and result.suppressed is None)
        }
        everything = self.projection is Projection.KERAS
        accepted = {(result.tensor, result.rule) for result in before.results if result.suppressed}
        todo = [
            a
            for a in self.plan.assignments
            if (everything or a.tensor.name in outside)
            and a.unprojected is None
            and (a.tensor.name, a.rule) not in accepted
        ]
        work = Work(self.checkpoint, copy, self.kept, self.streaming, self.projection)
        return project_tensors(work, todo, rounds)

    def _verify(
        self,
        copy: Copy,
        digests: Digests,
        before: AuditReport,
        changes: Sequence[TensorChange],
        output: Path,
    ) -> AuditReport:
        """Audit what was written, as it is stored.

        What was not written is, byte for byte, what the first audit judged: `Copy.compare` has seen
        to it.
        """
        written = self._affected({change.tensor for change in changes})
        with copy.reopen() as stored:
            if self.options.audit.config is not None:
                stored.assume_config(self.options.audit.config)
            stored.quantisation = self.checkpoint.quantisation  # no config.json is copied
            plan = make_plan(stored, self.spec, self.options.audit)
            _refuse_another_plan(plan, self.plan, output)
            again = [i for i, a in enumerate(plan.assignments) if a.tensor.name in written]
            # Those of the copy are not listed: the list is of the input.
            fresh = judge(
                stored,
                [plan.assignments[i] for i in again],
                replace(self.streaming, on_unit=None),
            )
            stored.verify_integrity()
            stored.verify_unchanged()
            summary = replace(summarise(stored, digests.result()), path=str(output))
        newest = list(before.results)  # first those of the assignments, in the order of the plan
        for index, result in zip(again, fresh, strict=True):
            newest[index] = result
        results = suppress_results(newest, *ignored(self.checkpoint, self.spec))
        after = replace(before, checkpoint=summary, results=results)
        if not self.options.allow_remaining:
            _refuse_remaining(after, self.projection)
        return after

    def _affected(self, changed: set[str]) -> set[str]:
        """The tensors that are no longer what they were: those `changed`, and those computed of them."""
        computed = {
            assignment.tensor.name
            for assignment in self.plan.assignments
            if isinstance(assignment.tensor.storage, Dequantised)
            and any(part.name in changed for part in assignment.tensor.storage.parts)
        }
        return changed | computed

    def _report(
        self,
        before: AuditReport,
        changes: Sequence[TensorChange],
        after: AuditReport | None,
        output: str | None,
        notices: Sequence[Notice] = (),
    ) -> ApplyReport:
        return ApplyReport(
            before=before,
            changes=tuple(changes),
            after=after,
            output=output,
            projection=self.projection.value,
            notices=(*notices, *_optimizer_notice(self.checkpoint, changes)),
        )


def _target(output: str | Path, options: ApplyOptions) -> Path:
    """Where the copy goes: to what a link points to, if links are to be followed."""
    target = Path(output)
    follow = options.audit.follow_symlinks and target.is_symlink()
    return target.resolve() if follow else target


def _to_mend(result: Result) -> bool:
    return result.verdict is Verdict.VIOLATION and result.suppressed is None


def _refuse_another_plan(copy: Plan, original: Plan, output: Path) -> None:
    """Refuse a copy that is not governed, pair by pair, as its original is."""
    pairs = [
        [(a.tensor.name, a.rule, str(a.constraint), a.axes, a.tolerance) for a in plan.assignments]
        for plan in (copy, original)
    ]
    if pairs[0] != pairs[1]:
        raise NotWrittenError("nothing was written, rules govern other tensors there", path=output)


def _refuse_incomplete(report: AuditReport) -> None:
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
            hint="mend the pattern, or say `required: false`",
        )


def _refuse_unmendable(report: AuditReport, plan: Plan) -> None:
    projected = {a.tensor.name for a in plan.assignments if a.unprojected is None}
    kept = {
        (a.tensor.name, a.rule): a.unprojected
        for a in plan.assignments
        if a.tensor.name not in projected
    }
    for result in report.results:
        if _to_mend(result) and (result.tensor, result.rule) in kept:
            raise NotWrittenError(
                f"{result.violating} of {result.units} units violate {result.rule} and stay as they "
                f"are, nothing was written: {kept[result.tensor, result.rule]}",
                path=report.checkpoint.path,
                tensor=result.tensor,
                hint="--allow-remaining writes a copy with these left as they are",
            )
    hopeless = [r for r in report.results if _to_mend(r) and r.unmendable]
    if hopeless:
        first = hopeless[0]
        what = "non-finite weights" if first.nonfinite else f"no point of {first.constraint}"
        raise NotWrittenError(
            f"nothing was written, {_units(first.unmendable, first.units)} beyond mending ({what})",
            path=report.checkpoint.path,
            tensor=first.tensor,
            hint="--allow-remaining writes a copy with these left as they are",
        )


def _refuse_remaining(after: AuditReport, projection: Projection) -> None:
    remaining = [result for result in after.results if _to_mend(result)]
    if remaining:
        first = remaining[0]
        raise NotWrittenError(
            f"nothing was written, {_units(first.violating, first.units)} still outside "
            f"{first.constraint} (rule {first.rule}) after the {projection.value} projection",
            path=after.checkpoint.path,
            tensor=first.tensor,
            hint=f"{_REMAINING[projection]}; --allow-remaining writes the copy all the same",
        )


def _units(some: int, total: int) -> str:
    """``1 of 4 units is``, ``2 of 4 units are``."""
    noun = "unit" if total == 1 else "units"
    return f"{some:,} of {total:,} {noun} {'is' if some == 1 else 'are'}"


def _leftover_notices(output: Path) -> tuple[Notice, ...]:
    """Tell of what killed runs left beside the output; they are never removed unasked."""
    directory = output.parent
    leftovers = find_leftovers(directory) if directory.is_dir() else []
    return tuple(
        Notice(
            "leftover",
            f"{path} was left by a run that was killed, or belongs to one that is at work",
            hint="remove it if no other run is at work",
            informational=True,
        )
        for path in leftovers
    )


def _optimizer_notice(
    checkpoint: Checkpoint, changes: Sequence[TensorChange]
) -> tuple[Notice, ...]:
    """The moments of an optimizer belong to the weights as they were."""
    has_state = any(t.role is Role.OPTIMIZER for t in checkpoint.tensors.values())
    if not (has_state and changes):
        return ()
    return (
        Notice(
            "optimizer-state",
            "the optimizer state in the copy belongs to the weights as they were",
            hint="reset the optimizer before training goes on",
            informational=True,
        ),
    )
