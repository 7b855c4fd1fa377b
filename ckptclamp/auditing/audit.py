"""An audit: from an open checkpoint and its plan to the report."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptclamp import __version__
from ckptclamp.auditing.notices import format_notices
from ckptclamp.auditing.options import MEBIBYTE, AuditOptions, Opening, Running
from ckptclamp.auditing.results import (
    AuditReport,
    CheckpointSummary,
    Fetched,
    FileDigest,
    Result,
    Verdict,
)
from ckptclamp.auditing.verdicts import judge
from ckptclamp.checkpoints.checkpoint import Checkpoint
from ckptclamp.checkpoints.opening import open_checkpoint
from ckptclamp.checkpoints.source import Digests
from ckptclamp.engine.executors import Phases, is_elsewhere
from ckptclamp.errors import CkptclampError, Notice, UnreadableError, UsageError
from ckptclamp.plan import EQUAL, Assignment, NotEvaluated, Origin, Plan
from ckptclamp.plan.build import build_plan
from ckptclamp.plan.tensors import all_names, unmerged
from ckptclamp.spec.model import Preset, Spec, Suppression

if TYPE_CHECKING:
    from ckptclamp.engine.measure.cache import MeasurementCache

_HASHED_UNASKED = 64 * MEBIBYTE


def audit(
    path: str | Path,
    spec: Spec | Mapping[str, Any] | str | Path | None = None,
    options: AuditOptions | None = None,
) -> AuditReport:
    """Audit the checkpoint at `path` against `spec` and what its own model declares.

    `spec` is a `Spec`, the path of a YAML file, or what such a file would hold.

        >>> import ckptclamp
        >>> rule = {"tensors": "**.kernel", "constraint": "MaxNorm", "max_value": 4, "axis": 0}
        >>> report = ckptclamp.audit("model.safetensors", {"version": 1, "rules": [rule]})
        >>> report.passed, report.violations[0].violating, report.violations[0].measured_max
        (False, 3, 6.0)

    Raises:
        UnreadableError: the checkpoint cannot be opened, or changed while it was read.
        UsageError: the spec cannot be understood, or makes no sense for this checkpoint.
    """
    options = options or AuditOptions()
    rules = as_spec(spec, options.allow_import)
    with opened(path, options, rules) as checkpoint:
        plan = build_plan(
            checkpoint, rules, allow_import=options.allow_import, caller=options.leeway
        )
        return audit_plan(checkpoint, plan, rules, options)


def as_spec(
    spec: Spec | Mapping[str, Any] | str | Path | None, allow_import: frozenset[str]
) -> Spec | None:
    """Read `spec`, in whichever form it was given."""
    if spec is None or isinstance(spec, Spec):
        return spec
    from ckptclamp.spec.loader import load_spec, spec_from_mapping

    if isinstance(spec, Mapping):
        return spec_from_mapping(spec, allow_import=allow_import)
    return load_spec(spec, allow_import=allow_import)


def opened(path: str | Path, opening: Opening, spec: Spec | None = None) -> Checkpoint:
    """Open the checkpoint at `path` as `opening` says, and the base of it or of `spec`; close it when done."""
    if path == "":
        raise UsageError("an empty path names no checkpoint")  # it would be the working directory
    if opening.require_isolation:
        check_isolation(path)
    checkpoint = open_checkpoint(
        path, follow_symlinks=opening.follow_symlinks, limits=opening.limits
    )
    if opening.config is not None:
        try:
            checkpoint.assume_config(opening.config)
        except UsageError:
            checkpoint.close()
            raise
    base = opening.base if opening.base is not None or spec is None else spec.base
    if base is not None:
        try:
            _add_base(checkpoint, base, opening)
        except CkptclampError:
            checkpoint.close()
            raise
    if opening.leave_cache:
        checkpoint.leave_cache()
    return checkpoint


def _add_base(checkpoint: Checkpoint, path: Path, opening: Opening) -> None:
    """Open the base checkpoint at `path`; every factor of an adapter must belong to a weight of it."""
    from ckptclamp.models.adapters import is_adapter
    from ckptclamp.plan.base import add_base, compare_with

    adapter = unmerged(checkpoint) is not None or is_adapter(checkpoint.tensors)
    base = open_checkpoint(path, follow_symlinks=opening.follow_symlinks, limits=opening.limits)
    if not adapter:
        compare_with(checkpoint, base)
        return
    try:
        add_base(checkpoint, base)
    except CkptclampError:
        base.close()
        raise
    alone = unmerged(checkpoint)
    if alone is not None:
        raise UsageError(
            f"{path} holds no weight for this update", path=checkpoint.path, tensor=alone
        )


def check_isolation(path: str | Path) -> None:
    """Refuse to open `path`, of any format, where the sandbox for HDF5 would be incomplete.

    Raises:
        UnreadableError: this system lacks a layer of it.
    """
    from ckptclamp.checkpoints.formats.hdf5.sandbox import missing_sandbox_layers

    missing = missing_sandbox_layers()
    if missing:
        raise UnreadableError(
            f"was not opened: isolation is required, and this system lacks {', '.join(missing)}",
            path=path,
            hint="leave out --require-isolation to open it all the same",
        )


def audit_plan(
    checkpoint: Checkpoint,
    plan: Plan,
    spec: Spec | None,
    options: AuditOptions,
    kept: MeasurementCache | None = None,
) -> AuditReport:
    """Judge every assignment of `plan` and gather the report.

    Measurements that will be needed again go to `kept`.
    """
    started = time.monotonic()
    tell_progress(checkpoint, options)
    with digests_of(checkpoint, options.hash, options.jobs) as digests:
        results = [
            *judge_all(checkpoint, plan.assignments, options, kept),
            *(unjudged(entry) for entry in plan.not_evaluated),
        ]
        tied = tuple(warnings_of_ties(checkpoint, plan, options.memory))
        if spec is not None and spec.preset is Preset.HEALTH:
            results += [untied(notice) for notice in tied]
            tied = ()
        report = without_results(checkpoint, plan, spec, options, digests)
    checkpoint.verify_unchanged()
    report = replace(
        report,
        results=tuple(results),
        checkpoint=replace(report.checkpoint, fetched=Fetched.of(checkpoint)),
        notices=(*report.notices, *tied),
        seconds=time.monotonic() - started,
    )
    rules, names = ignored(checkpoint, spec)
    if not rules:
        return report
    from ckptclamp.auditing.suppression import suppress

    return suppress(report, rules, names, settling=plan.settling)


def without_results(
    checkpoint: Checkpoint, plan: Plan, spec: Spec | None, options: AuditOptions, digests: Digests
) -> AuditReport:
    """What a report says beside results, when all that was to be read was read; waits for `digests`.

    Raises:
        UnreadableError: a container does not hold what it promises, or a file cannot be read.
    """
    notices = (*format_notices(checkpoint, spec), *plan.notices)
    for one in filter(None, (checkpoint, checkpoint.base)):
        one.verify_integrity()
    hashed = digests.result()
    return AuditReport(
        checkpoint=summarise(checkpoint, hashed),
        results=(),
        unmatched=plan.unmatched,
        notices=notices,
        spec_path=spec.path if spec else None,
        spec_sha256=spec.sha256 if spec else None,
        parameters=parameters_of(options, spec)
        | configs_of(checkpoint)
        | _base(checkpoint, hashed),
        tool_version=__version__,
        strict=options.strict,
    )


def ignored(
    checkpoint: Checkpoint, spec: Spec | None
) -> tuple[Sequence[Suppression], Mapping[str, Sequence[str]]]:
    """The ignore rules of `spec`, and the names by which they may mean a tensor."""
    rules = spec.ignore if spec else ()
    return rules, all_names(checkpoint) if rules else {}


def warnings_of_ties(checkpoint: Checkpoint, plan: Plan, memory: int) -> Iterator[Notice]:
    """Warn of copies of one variable that differ."""
    if plan.tied:
        from ckptclamp.auditing.comparison.drift import tied_notices

        yield from tied_notices(checkpoint, plan.tied, memory, keras=checkpoint.keras is not None)


def untied(notice: Notice) -> Result:
    """Copies of one variable that differ, as what the health preset calls a violation."""
    from ckptclamp.plan.health import TIED

    return Result(
        tensor=notice.tensor or "",
        rule=TIED,
        constraint=EQUAL,
        origin=Origin.SPEC,
        verdict=Verdict.VIOLATION,
        why="preset: health",
        units=1,
        violating=1,
        notices=(notice,),
    )


def judge_all(
    checkpoint: Checkpoint,
    assignments: Sequence[Assignment],
    options: AuditOptions,
    kept: MeasurementCache | None = None,
) -> list[Result]:
    """Judge `assignments`; for degenerate axes, also say what the intended ones would show."""
    degenerate = [i for i, a in enumerate(assignments) if a.meant is not None]
    intended = [
        replace(assignments[i], axes=assignments[i].meant or (), notices=()) for i in degenerate
    ]
    if options.executor is not None and kept is None and is_elsewhere(options.executor):
        from ckptclamp.auditing.parts.elsewhere import judge_elsewhere

        results = judge_elsewhere(checkpoint, assignments, intended, options)
    else:
        results = judge(checkpoint, assignments, options, options, supposed=intended, kept=kept)
    for index, supposed in zip(degenerate, results[len(assignments) :], strict=True):
        results[index] = _with_figure(results[index], supposed)
    return results[: len(assignments)]


def _with_figure(result: Result, intended: Result) -> Result:
    """Add to the notice of a degenerate axis how many units lie outside over the intended one."""
    figure = (
        f"; taken over axes {list(intended.axes)}, {intended.violating} of {intended.units} units "
        f"({intended.unit_words}) lie outside"
    )
    notices = tuple(
        replace(notice, message=notice.message + figure)
        if notice.code == "degenerate-axis"
        else notice
        for notice in result.notices
    )
    return replace(result, notices=notices)


def unjudged(entry: NotEvaluated) -> Result:
    """What the plan says cannot be judged, as a result."""
    tensor = entry.tensor
    return Result(
        tensor=tensor.name if tensor else entry.subject,
        rule=entry.rule,
        constraint=entry.constraint,
        origin=entry.origin,
        verdict=Verdict.NOT_EVALUATED,
        shape=tensor.shape if tensor else (),
        dtype=str(tensor.dtype or tensor.dtype_name) if tensor else "",
        location=entry.location,
        severity=entry.severity,
        reason=entry.reason,
        reason_code=entry.reason.code,
        hint=entry.hint,
        notices=entry.notices,
    )


def is_hashed(checkpoint: Checkpoint, asked: bool | None) -> bool:
    """Whether the report has digests: where they were `asked` for, or cost nothing.

    Of a remote file they would cost all of its bytes.
    """
    if asked is not None:
        return asked
    sources = dict.fromkeys((*checkpoint.sources, *checkpoint.companions))
    return (
        not any(source.remote for source in sources)
        and sum(source.size for source in sources) <= _HASHED_UNASKED
    )


def tell_progress(checkpoint: Checkpoint, running: Running) -> None:
    """Let the files of `checkpoint` say how much of them is copied, compared, hashed or flushed."""
    sources = list(dict.fromkeys((*checkpoint.files, *checkpoint.sources)))
    phases = Phases(running.progress, sum(source.size for source in checkpoint.files))
    for source in sources:
        source.told = phases.add


def digests_of(checkpoint: Checkpoint, asked: bool | None, jobs: int | None) -> Digests:
    """Hash the files of `checkpoint`, if the report shows digests, while the block reads them."""
    files = tuple(dict.fromkeys((*checkpoint.files, *checkpoint.companions)))
    return Digests(files if is_hashed(checkpoint, asked) else (), jobs)


def summarise(checkpoint: Checkpoint, digests: Mapping[Path, str]) -> CheckpointSummary:
    """Describe what was audited; `digests` are those of its files, or of none of them."""
    producer = checkpoint.producer
    return CheckpointSummary(
        path=str(checkpoint.path),
        format=checkpoint.format,
        files=tuple(
            FileDigest(
                str(source.path),
                source.size,
                digests[source.path] if digests else None,
                source.version if source.remote else None,
            )
            for source in checkpoint.files
        ),
        tensors=len(checkpoint.tensors),
        producer=str(producer) if producer else None,
        isolation=checkpoint.isolation,
        fetched=Fetched.of(checkpoint),
    )


def _text(value: float | str | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, str) else repr(value)


def configs_of(checkpoint: Checkpoint) -> dict[str, str]:
    """The configs beside the checkpoint that may tell how weights are computed of their parts."""
    return {name: f"sha256:{digest}" for name, digest in checkpoint.configs.items()}


def _base(checkpoint: Checkpoint, digests: Mapping[Path, str]) -> dict[str, str]:
    """The base checkpoint, and the digest of each of its files, as far as there are `digests`."""
    base = checkpoint.base
    if base is None:
        return {}
    files = () if checkpoint.merged else base.files  # else they are those of the checkpoint
    named = {f"base/{f.path.name}": f"sha256:{digests[f.path]}" for f in files if digests}
    return {"base": base.path.name, **named}


def parameters_of(options: AuditOptions, spec: Spec | None) -> dict[str, str]:
    """The options that change the answer, as text."""
    parameters = {
        "tolerance": _text(options.tolerance) or "auto",
        "epsilon": _text(options.epsilon),
        "zero-units": _text(options.zero_units),
        "strict": str(options.strict).lower(),
        "allow-import": ",".join(sorted(options.allow_import)),
        "preset": _text(None if spec is None else spec.preset),
        "config": "" if options.config is None else options.config_source or "given",
    }
    return {name: value for name, value in parameters.items() if value}
