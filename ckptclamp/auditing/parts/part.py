"""One part of an audit: the weights of its own tensors are measured, and nobody else's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptclamp.auditing.audit import (
    as_spec,
    digests_of,
    ignored,
    judge_all,
    opened,
    tell_progress,
    unjudged,
    untied,
    warnings_of_ties,
    without_results,
)
from ckptclamp.auditing.options import AuditOptions
from ckptclamp.auditing.parts import Share, portion_of
from ckptclamp.auditing.parts.partial import (
    PartialReport,
    answered_by,
    files_of,
    layout_digest,
    plan_digest,
)
from ckptclamp.auditing.suppression import suppress
from ckptclamp.plan.build import build_plan
from ckptclamp.spec.model import Preset, Spec

if TYPE_CHECKING:
    from ckptclamp.auditing.parts import Portion
    from ckptclamp.auditing.results import AuditReport, Result
    from ckptclamp.checkpoints.checkpoint import Checkpoint
    from ckptclamp.errors import Notice
    from ckptclamp.plan import Plan


def audit_part(
    path: str | Path,
    share: Share | str,
    spec: Spec | Mapping[str, Any] | str | Path | None = None,
    options: AuditOptions | None = None,
) -> PartialReport:
    """Audit one part of the checkpoint at `path`, such as ``"3/16"``; see `audit` for the rest.

    The parts are of about as many bytes each. The same part gives the same answer, time apart, whoever
    asks for it, and `merge` makes the report of the whole of all parts.

    Raises:
        UnreadableError: the checkpoint cannot be opened, or changed while it was read.
        UsageError: the spec cannot be understood, or makes no sense for this checkpoint, or there is no
            such part.
    """
    options = options or AuditOptions()
    share = Share.named(share) if isinstance(share, str) else share
    rules = as_spec(spec, options.allow_import)
    with opened(path, options, rules) as checkpoint:
        plan = build_plan(
            checkpoint, rules, allow_import=options.allow_import, caller=options.leeway
        )
        return _audited(checkpoint, plan, rules, options, share)


def _audited(
    checkpoint: Checkpoint, plan: Plan, spec: Spec | None, options: AuditOptions, share: Share
) -> PartialReport:
    portion = portion_of(plan, share)
    health = spec is not None and spec.preset is Preset.HEALTH
    tell_progress(checkpoint, options)
    with digests_of(checkpoint, options.hash, options.jobs) as digests:
        results = _results(checkpoint, plan, options, portion)
        if share.number == 1:
            first = len(plan.assignments)
            results |= {first + i: unjudged(entry) for i, entry in enumerate(plan.not_evaluated)}
        due = len(plan.assignments) + len(plan.not_evaluated)
        tied = _tied(checkpoint, plan, options, portion)
        if health:
            results |= {due + place: untied(notice) for place, notice in tied.items()}
            tied = {}
        whole = without_results(checkpoint, plan, spec, options, digests)
        versions = tuple(
            f"sha256:{taken[source.path]}" if source.path in taken else source.version
            for taken in [digests.result()]
            for source in files_of(checkpoint)
        )
    checkpoint.verify_unchanged()
    judged = _without_ignored(
        replace(whole, results=tuple(results.values())), checkpoint, plan, spec
    )
    return PartialReport(
        part=share.number,
        of=share.of,
        # How often something had to be asked for again is no part of an answer.
        whole=replace(whole, checkpoint=replace(whole.checkpoint, fetched=None)),
        versions=versions,
        layout=layout_digest(checkpoint),
        plan=plan_digest(plan),
        worst=options.worst,
        due=due,
        places=due + len(plan.tied),
        answered=answered_by(portion, plan, share),
        results=tuple(zip(results, judged.results, strict=True)),
        tied=tuple(tied.items()),
        ignoring=judged.notices,
        nbytes=portion.nbytes,
        total=portion.total,
    )


def _results(
    checkpoint: Checkpoint, plan: Plan, options: AuditOptions, portion: Portion
) -> dict[int, Result]:
    """The results of the assignments of one part, by their places."""
    chosen = [plan.assignments[place] for place in portion.assignments]
    found = judge_all(checkpoint, chosen, options)
    return dict(zip(portion.assignments, found, strict=True))


def _tied(
    checkpoint: Checkpoint, plan: Plan, options: AuditOptions, portion: Portion
) -> dict[int, Notice]:
    """What is to be said of the tied pairs of one part, by their places."""
    return {
        place: notice
        for place in portion.tied
        for notice in warnings_of_ties(
            checkpoint, replace(plan, tied=(plan.tied[place],)), options.memory
        )
    }


def _without_ignored(
    report: AuditReport, checkpoint: Checkpoint, plan: Plan, spec: Spec | None
) -> AuditReport:
    """Mark what ignore rules accept; the notices are those about such rules alone."""
    rules, names = ignored(checkpoint, spec)
    return suppress(replace(report, notices=()), rules, names, settling=plan.settling)
