"""A projected copy of a checkpoint: copy, project, audit what was written, publish."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptclamp.applying.leftovers import leftover_notices
from ckptclamp.applying.options import ApplyOptions
from ckptclamp.applying.parts import affected, optimizer_notice, part_notices, turns, with_parts
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
from ckptclamp.applying.staging.companions import Companion, bring, companions_in, left_behind
from ckptclamp.applying.staging.directories import DirectoryStage
from ckptclamp.auditing.audit import as_spec, audit_plan, ignored, is_hashed, opened, summarise
from ckptclamp.auditing.results import ApplyReport, AuditReport, Result, TensorChange, Verdict
from ckptclamp.auditing.verdicts import judge
from ckptclamp.checkpoints.checkpoint import Checkpoint, Copy, StoredCopy
from ckptclamp.checkpoints.copying import Preview
from ckptclamp.checkpoints.directories.huggingface import is_blob
from ckptclamp.checkpoints.remote import as_path
from ckptclamp.checkpoints.remote.path import RemotePath
from ckptclamp.checkpoints.source import Digests, default_jobs
from ckptclamp.engine.executors import Meter, concurrently, in_phase
from ckptclamp.engine.measure.cache import MeasurementCache
from ckptclamp.errors import Notice, UsageError
from ckptclamp.plan import Assignment, Plan
from ckptclamp.plan.build import build_plan
from ckptclamp.plan.parts import NOT_WITH_ITS_BASE
from ckptclamp.plan.tensors import refuse_no_weights
from ckptclamp.spec.model import Projection, Spec

if TYPE_CHECKING:
    from ckptclamp.applying.staging import Stage
    from ckptclamp.applying.steps import Steps
    from ckptclamp.applying.steps.record import Bound, Found

__all__ = ["ApplyOptions", "apply"]

_ROUNDS = 16
"""How often the rules of one tensor take turns before their sets are said not to meet."""

_KEPT = 16
"""The part of the memory, one in so many, that may go to what is kept of the audit."""


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
            raise UsageError(NOT_WITH_ITS_BASE, path=path)
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
            copied=True,
        )

    def preview(self, output: Path | None = None) -> ApplyReport:
        """Report what would change, and refuse what could not be fixed, or not written to `output`.

        Each rule is tried on the weights as they are: what several rules of one tensor make of it
        together is not known before they have taken turns.
        """
        where: dict[str, Any] = {"force": self.options.force, "in_place": self.options.in_place}
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
        place = as_output(output, self.options)
        if self.options.dry_run:
            check_elsewhere(place, self.checkpoint, force=self.options.force)
            return self.preview()
        return write_elsewhere(place, self.write, self.checkpoint, force=self.options.force)

    def write(self, output: Path) -> ApplyReport:
        """Make the copy at `output`; it appears there only when it is whole and verified."""
        options = self.options
        where: dict[str, Any] = {"force": options.force, "in_place": options.in_place}
        to = check_target(output, like=self.checkpoint, **where)
        bound = self._bound() if self.checkpoint.in_steps else None
        found = self._found(to, bound)
        self.notices += leftover_notices(output, () if found is None else found.names)
        others = self._check(to)
        with staged(
            output,
            like=self.checkpoint,
            **where,
            found=found,
            bound=bound,
            link=options.link,
            resumable=options.resume,
        ) as stage:
            before = self._audit_input()
            todo = self._todo(before)
            steps = self._steps(stage, todo, found)
            copy, changes = self._copied(stage, todo, steps)
            if isinstance(stage, DirectoryStage):
                bring(stage, others, follow_symlinks=options.audit.follow_symlinks)
            copy.finish()
            with self._settled(copy, steps) as digests:
                after = self._verify(copy, digests, before, changes, output)
            self.checkpoint.verify_unchanged()
            sources = self.checkpoint.sources
            self.notices += stage.publish({sources[n].path.name for n in copy.written})
        return self._report(before, changes, after, str(output), self.notices)

    def _bound(self) -> Bound:
        from ckptclamp.applying.steps import bound_to

        audit = self.options.audit
        return bound_to(self.checkpoint, self.plan, self.spec, audit, self.projection.value)

    def _found(self, to: Destination, bound: Bound | None) -> Found | None:
        """What an earlier run did of the same, where this one is to go on with it."""
        if bound is None or not self.options.resume:
            return None
        from ckptclamp.applying.steps.record import find_record

        found = find_record(to.folder, to.path.name)
        if found is not None:
            found.check(bound)
        return found

    def _steps(self, stage: Stage, todo: Sequence[Assignment], found: Found | None) -> Steps | None:
        """How the copy is made file by file; ``None`` where all are made together."""
        if not self.checkpoint.in_steps:
            return None
        from ckptclamp.applying.steps import Steps

        return Steps(self.checkpoint, stage, todo, found, self.auditing)

    def _copied(
        self, stage: Stage, todo: Sequence[Assignment], steps: Steps | None
    ) -> tuple[StoredCopy, list[TensorChange]]:
        """Copy all files, and project what is to be projected in them."""
        rounds = _ROUNDS if self.projection is Projection.EXACT else 1
        changing = self._changing(todo)
        if steps is None:
            stage.announce(changing)
            copy = self.checkpoint.copy_to(stage)
            return copy, self._project(copy, todo, rounds=rounds)
        made = steps.make(changing, partial(self._project, rounds=rounds))
        if steps.resumed:
            said = f"{steps.resumed} files were done by a run that was interrupted"
            self.notices += (Notice("resumed", said, informational=True),)
        return made

    @contextmanager
    def _settled(
        self, copy: StoredCopy, steps: Steps | None
    ) -> Iterator[Callable[[], Mapping[Path, str]]]:
        """Compare and flush what was not; gives what waits for the digests that the report shows."""
        known = {} if steps is None else steps.digests
        audit, hashed = self.options.audit, is_hashed(self.checkpoint, self.options.audit.hash)
        rest = [file for file in copy.files if hashed and file.path not in known]
        with ExitStack() as beside:
            if steps is None:
                beside.enter_context(concurrently(copy.flush))
            digests = beside.enter_context(Digests(rest, audit.jobs))
            if steps is None:
                copy.compare(audit.jobs or default_jobs())
            yield lambda: {**known, **digests.result()} if hashed else {}

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
        # What is there already, or is linked, takes no room: the stage sees to the rest of the shards.
        few = self.options.resume or self.options.link is not None
        to.check(places, sum(() if few else files.values()) + sum(other.size for other in others))
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
        self, copy: Copy, todo: Sequence[Assignment], meter: Meter | None = None, *, rounds: int
    ) -> list[TensorChange]:
        """Project every tensor that needs it."""
        work = Work(self.checkpoint, copy, self.kept, self.auditing, self.projection)
        return project_tensors(work, todo, rounds, meter)

    def _verify(
        self,
        copy: StoredCopy,
        digests: Callable[[], Mapping[Path, str]],
        before: AuditReport,
        changes: Sequence[TensorChange],
        output: Path,
    ) -> AuditReport:
        """Audit what was written, as it is stored.

        What was not written is, byte for byte, what the first audit judged: `StoredCopy.compare` has
        seen to it.
        """
        written = affected(self.plan, {change.tensor for change in changes})
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
            summary = replace(summarise(stored, digests()), path=str(output))
        newest = list(before.results)  # first those of the assignments, in the order of the plan
        for index, result in zip(again, fresh, strict=True):
            newest[index] = result
        after = replace(before, checkpoint=summary, results=self._suppressed(newest))
        if not self.options.allow_remaining:
            refuse_remaining(after, self.plan, self.projection)
        return after

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
                *optimizer_notice(self.checkpoint, changes),
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
