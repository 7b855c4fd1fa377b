"""A projected copy of a checkpoint: copy, project, audit what was written, publish."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ckptclamp.applying.companions import Companion, bring, companions_in, left_behind
from ckptclamp.applying.directories import DirectoryStage
from ckptclamp.applying.leftovers import find_leftovers
from ckptclamp.applying.parts import changed_parts, part_notices, turns, with_parts
from ckptclamp.applying.projection import Work, project_tensors
from ckptclamp.applying.publication import (
    Destination,
    as_output,
    check_elsewhere,
    check_target,
    staged,
    write_elsewhere,
)
from ckptclamp.applying.refusals import (
    refuse_another_plan,
    refuse_exclusive,
    refuse_incomplete,
    refuse_remaining,
    refuse_ungoverned,
    refuse_unmendable,
    refuse_untying,
    to_fix,
)
from ckptclamp.auditing.audit import as_spec, audit_plan, ignored, is_hashed, opened, summarise
from ckptclamp.auditing.options import AuditOptions
from ckptclamp.auditing.results import ApplyReport, AuditReport, Result, TensorChange, Verdict
from ckptclamp.auditing.verdicts import judge
from ckptclamp.checkpoints.checkpoint import Checkpoint, Copy, StoredCopy
from ckptclamp.checkpoints.copying import Preview
from ckptclamp.checkpoints.directories.huggingface import is_blob
from ckptclamp.checkpoints.remote import as_path
from ckptclamp.checkpoints.remote.path import RemotePath
from ckptclamp.checkpoints.source import Digests, default_jobs
from ckptclamp.checkpoints.tensor import Role
from ckptclamp.engine.executors import concurrently, in_phase
from ckptclamp.engine.measure.requests import MeasurementCache
from ckptclamp.errors import Notice, UsageError
from ckptclamp.plan import Assignment, Plan
from ckptclamp.plan.build import build_plan
from ckptclamp.plan.tensors import refuse_no_weights
from ckptclamp.spec.model import Projection, Spec

_ROUNDS = 16
"""How often the rules of one tensor take turns before their sets are said not to meet."""

_KEPT = 16
"""The part of the memory, one in so many, that may go to what is kept of the audit."""


@dataclass(frozen=True, slots=True)
class ApplyOptions:
    """How to make the copy.

    `audit` is how the input is audited, and the copy; its `on_unit` gets the input's units.
    `projection` overrides the spec's. `force` replaces an existing output; `in_place` allows the
    input to be that output. `allow_remaining` publishes a copy in which violations remain that no
    projection can fix; the report lists them. `dry_run` only reports what would change.
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

        >>> import ckptclamp
        >>> report = ckptclamp.apply("model.safetensors", "fixed.safetensors", "constraints.yaml")
        >>> report.passed, report.changes[0].changed
        (True, 3)

    Raises:
        UnreadableError: something that a rule governs could not be read or judged.
        NothingEvaluatedError: no rule governs anything.
        NotWrittenError: a conforming copy cannot be made, or would ruin weights that are stored as
            codes or factors; nothing was written.
        UsageError: the output exists, is the input, or the spec makes no sense here.
    """
    options = options or ApplyOptions()
    rules = as_spec(spec, options.audit.allow_import)
    with opened(path, options.audit, rules) as checkpoint:
        if checkpoint.merged:
            raise UsageError("an adapter is not projected together with its base", path=path)
        checkpoint.check_copyable()
        job = _Job(checkpoint, rules, options)
        if output is None and not options.in_place:
            return job.preview()
        target = as_path(output or checkpoint.folder or checkpoint.path)
        if isinstance(target, RemotePath):
            return job.elsewhere(target)
        target = _target(target, job)
        return job.preview(target) if options.dry_run else job.write(target)


class _Job:
    """One apply, from the audit of the input to the published copy."""

    def __init__(self, checkpoint: Checkpoint, spec: Spec | None, options: ApplyOptions) -> None:
        self.checkpoint = checkpoint
        self.spec = spec
        self.options = options
        self.plan = self._plan(checkpoint)
        self.projection = options.projection or (spec.projection if spec else Projection.EXACT)
        self.notices: tuple[Notice, ...] = ()
        # What is kept of the audit, and what is at work meanwhile, share the budget.
        self.kept = MeasurementCache(options.audit.memory // _KEPT)
        self.auditing = replace(
            options.audit, memory=options.audit.memory - options.audit.memory // _KEPT
        )

    def _plan(
        self, checkpoint: Checkpoint, same: tuple[tuple[str, ...], ...] | None = None
    ) -> Plan:
        audit = self.options.audit
        return build_plan(
            checkpoint,
            self.spec,
            allow_import=audit.allow_import,
            caller=audit.leeway,
            same=same,
        )

    def preview(self, output: Path | None = None) -> ApplyReport:
        """Report what would change, and refuse what could not be fixed, or not written to `output`.

        Each rule is tried on the weights as they are: what several rules of one tensor make of it
        together is not known before they have taken turns.
        """
        where = {"force": self.options.force, "in_place": self.options.in_place}
        to = check_target(output, like=self.checkpoint, **where) if output is not None else None
        if to is not None:
            self._check(to)
        before = self._audit_input()
        todo = self._todo(before)
        if to is not None and to.is_set:
            to.check((), sum(self._changing(todo).values()))
        changes = self._project(Preview(self.checkpoint), todo, rounds=1)
        return self._report(before, changes, after=None, output=None, notices=self.notices)

    def elsewhere(self, output: RemotePath) -> ApplyReport:
        """Preview what goes to a remote place, or make it and send it there."""
        place = as_output(output, in_place=self.options.in_place)
        if self.options.dry_run:
            check_elsewhere(place, self.checkpoint, force=self.options.force)
            return self.preview()
        return write_elsewhere(place, self.write, self.checkpoint, force=self.options.force)

    def write(self, output: Path) -> ApplyReport:
        """Make the copy at `output`; it appears there only when it is whole and verified."""
        options = self.options
        self.notices += _leftover_notices(output)
        where = {"force": options.force, "in_place": options.in_place}
        others = self._check(check_target(output, like=self.checkpoint, **where))
        with staged(output, like=self.checkpoint, **where) as stage:
            before = self._audit_input()
            todo = self._todo(before)
            stage.announce(self._changing(todo))
            copy = self.checkpoint.copy_to(stage)
            if isinstance(stage, DirectoryStage):
                bring(stage, others, follow_symlinks=options.audit.follow_symlinks)
            rounds = _ROUNDS if self.projection is Projection.EXACT else 1
            changes = self._project(copy, todo, rounds=rounds)
            copy.finish()
            hashed = copy.files if is_hashed(self.checkpoint, options.audit.hash) else ()
            with concurrently(copy.flush), Digests(hashed, options.audit.jobs) as digests:
                copy.compare(options.audit.jobs or default_jobs())
                after = self._verify(copy, digests, before, changes, output)
            self.checkpoint.verify_unchanged()
            sources = self.checkpoint.sources
            self.notices += stage.publish({sources[n].path.name for n in copy.written})
        return self._report(before, changes, after, str(output), self.notices)

    def _check(self, to: Destination) -> list[Companion]:
        """Refuse what cannot be written to `to`; return what a new directory gets beside the weights."""
        if to.is_set:
            return []
        checkpoint, links = self.checkpoint, self.options.audit.follow_symlinks
        files = {source.path.name: source.size for source in checkpoint.files}
        others: list[Companion] = []
        if checkpoint.folder is not None:
            others = companions_in(checkpoint.folder, files, follow_symlinks=links)
        places = [*files, *(other.place for other in others)]
        to.check(places, sum(files.values()) + sum(other.size for other in others))
        self.notices += left_behind(checkpoint, files)
        return others

    def _changing(self, todo: Sequence[Assignment]) -> dict[str, int]:
        """The files that hold what is in `todo`, with their sizes."""
        tensors = [part for a in todo for part in with_parts(a.tensor.whole)]
        numbers = {getattr(tensor.storage, "source", None) for tensor in tensors}
        files = [self.checkpoint.sources[number] for number in numbers if number is not None]
        return {source.path.name: source.size for source in files}

    def _audit_input(self) -> AuditReport:
        allowed = self.options.allow_remaining
        complete = not (allowed and self.plan.assignments)
        if complete:
            refuse_no_weights(self.checkpoint, self.plan)
        before = audit_plan(self.checkpoint, self.plan, self.spec, self.auditing, self.kept)
        if complete:
            refuse_incomplete(before)
        refuse_ungoverned(self.plan, self.checkpoint.path)
        if not allowed:
            refuse_unmendable(before, self.plan)
            refuse_exclusive(before, self.plan, self._acceptable(before))
        return before

    def _acceptable(self, before: AuditReport) -> set[tuple[str, str]]:
        """The tensors and rules that ignore rules would accept if they were violated."""
        broken = [replace(r, verdict=Verdict.VIOLATION, nonfinite=0) for r in before.results]
        return {(r.tensor, r.rule) for r in self._suppressed(broken) if r.suppressed}

    def _suppressed(self, results: Sequence[Result]) -> tuple[Result, ...]:
        """`results`, marked where an ignore rule accepts them."""
        rules, names = ignored(self.checkpoint, self.spec)
        if not rules:
            return tuple(results)
        from ckptclamp.auditing.suppression import suppress_results

        return suppress_results(results, rules, names)

    def _todo(self, before: AuditReport) -> list[Assignment]:
        """What is to be projected, in the order of the plan: where one rule is broken, all that take turns."""
        outside = {
            result.tensor
            for result in before.results
            if to_fix(result) or (result.within_tolerance and result.suppressed is None)
        }
        everything = self.projection is Projection.KERAS
        accepted = {(result.tensor, result.rule) for result in before.results if result.suppressed}
        todo = [
            a
            for group in turns(self.plan.assignments)
            if everything or any(a.tensor.name in outside for a in group)
            for a in group
            if a.unprojected is None and (a.tensor.name, a.rule) not in accepted
        ]
        refuse_untying(self.plan, accepted, todo, self.checkpoint.path)
        return todo

    def _project(
        self, copy: Copy, todo: Sequence[Assignment], *, rounds: int
    ) -> list[TensorChange]:
        """Project every tensor that needs it."""
        work = Work(self.checkpoint, copy, self.kept, self.auditing, self.projection)
        return project_tensors(work, todo, rounds)

    def _verify(
        self,
        copy: StoredCopy,
        digests: Digests,
        before: AuditReport,
        changes: Sequence[TensorChange],
        output: Path,
    ) -> AuditReport:
        """Audit what was written, as it is stored.

        What was not written is, byte for byte, what the first audit judged: `StoredCopy.compare` has
        seen to it.
        """
        written = self._affected({change.tensor for change in changes})
        with copy.reopen() as stored:
            if self.options.audit.config is not None:
                stored.assume_config(self.options.audit.config)
            stored.quantisation = self.checkpoint.quantisation  # configs are not read again
            stored.config = self.checkpoint.config
            stored.adapter = self.checkpoint.adapter
            stored.base = self.checkpoint.base
            plan = self._plan(stored, self.plan.same)
            refuse_another_plan(plan, self.plan, output)
            again = [i for i, a in enumerate(plan.assignments) if a.tensor.name in written]
            # Those of the copy are not listed: the list is of the input.
            fresh = judge(
                stored,
                [plan.assignments[i] for i in again],
                replace(self.auditing, progress=in_phase(self.auditing.progress, "auditing again")),
                replace(self.auditing, on_unit=None),
            )
            stored.verify_integrity()
            stored.verify_unchanged()
            summary = replace(summarise(stored, digests.result()), path=str(output))
        newest = list(before.results)  # first those of the assignments, in the order of the plan
        for index, result in zip(again, fresh, strict=True):
            newest[index] = result
        after = replace(before, checkpoint=summary, results=self._suppressed(newest))
        if not self.options.allow_remaining:
            refuse_remaining(after, self.plan, self.projection)
        return after

    def _affected(self, changed: set[str]) -> set[str]:
        """The tensors that differ from before: those with `changed` bytes, and those computed of them."""
        tensors = [assignment.tensor for assignment in self.plan.assignments]
        wholes = {tensor.name: tensor.whole.name for tensor in tensors}
        stored = {wholes.get(name, name) for name in changed}
        stored |= {part.name for _, part in changed_parts(self.plan, changed)}
        return {
            tensor.name
            for tensor in tensors
            if any(part.name in stored for part in with_parts(tensor.whole))
        }

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
            notices=(
                *notices,
                *part_notices(self.plan, changes),
                *_optimizer_notice(self.checkpoint, changes),
            ),
        )


def _target(output: Path, job: _Job) -> Path:
    """Where the copy goes: to what a link points to, if links are to be followed."""
    if not (job.options.audit.follow_symlinks and output.is_symlink()):
        return output
    target = output.resolve()
    if job.options.in_place and is_blob(target):
        return output  # a blob stays as it is: the link is replaced
    said = f"{output} is a symbolic link: the copy was written to {target}"
    job.notices += (Notice("link-followed", said, informational=True),)
    return target


def _leftover_notices(output: Path) -> tuple[Notice, ...]:
    """Note what killed runs left where the output goes; it is never removed unasked."""
    leftovers = find_leftovers(output) if output.parent.is_dir() else []
    return tuple(
        Notice(
            "leftover",
            f"{path} was left by a run that was killed, or belongs to one that is at work",
            hint=f"`ckptclamp clean {output}` removes it if no run is at work on it",
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
