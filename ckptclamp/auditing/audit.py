"""Measurements → verdicts → AuditReport."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptclamp._version import __version__
from ckptclamp.auditing.drift import twin_notices
from ckptclamp.auditing.results import AuditReport, CheckpointSummary, FileDigest, Result, Verdict
from ckptclamp.auditing.suppression import suppress
from ckptclamp.auditing.verdicts import OnUnit, Tally
from ckptclamp.checkpoints.opening import open_checkpoint
from ckptclamp.checkpoints.source import (
    DEFAULT_EXPANSION_LIMIT,
    DEFAULT_HEADER_LIMIT,
    DEFAULT_UNPACKED_LIMIT,
    Digests,
    Limits,
)
from ckptclamp.constraints.whole import WholeTensorConstraint
from ckptclamp.engine.executors import Meter, Progress
from ckptclamp.engine.measure import measure
from ckptclamp.engine.requests import Measurement, Request
from ckptclamp.engine.whole import measure_whole
from ckptclamp.errors import Notice, UnreadableError, UsageError
from ckptclamp.plan.build import Assignment, NotEvaluated, Plan, build_plan
from ckptclamp.plan.matching import all_names
from ckptclamp.spec.model import Declared, Spec

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ckptclamp.checkpoints.checkpoint import Checkpoint, TensorReader
    from ckptclamp.engine.kept import Kept
    from ckptclamp.spec.model import Suppression

MEBIBYTE = 1 << 20
HASHED_UNASKED = 64 * MEBIBYTE


@dataclass(frozen=True, slots=True)
class AuditOptions:
    """How to audit. Only `tolerance`, `strict`, `allow_import` and `config` change the answer.

    `memory` is the budget in bytes; `jobs` the number of threads that measure, and of those that
    hash (``None``: one a core); `executor` measures instead, in threads of this process.
    `tolerance` overrides every rule's. `worst` is how many violating units are kept for each
    result. `hash` adds sha256 digests; ``None`` means
    only where the checkpoint is small enough not to notice. `config` stands in for the model config
    of a weights-only Keras file, and `config_source` tells the report where that came from.
    `require_isolation` refuses to open anything where a wall around
    the HDF5 parser is missing. `header_limit` bounds the header of a safetensors file, in bytes;
    `expansion_limit` and `unpacked_limit` how many times its stored bytes, and how many bytes,
    what is compressed may unpack to (see `checkpoints.limits`).
    `leave_cache` reads without filling the system's page cache, where the system can.
    """

    memory: int = 256 * MEBIBYTE
    jobs: int | None = None
    executor: Executor | None = None
    tolerance: float | None = None
    strict: bool = False
    worst: int = 10
    histogram: bool = False
    hash: bool | None = None
    allow_import: frozenset[str] = frozenset()
    follow_symlinks: bool = False
    require_isolation: bool = False
    header_limit: int = DEFAULT_HEADER_LIMIT
    expansion_limit: int = DEFAULT_EXPANSION_LIMIT
    unpacked_limit: int = DEFAULT_UNPACKED_LIMIT
    leave_cache: bool = False
    config: Mapping[str, Any] | None = None
    config_source: str | None = None
    progress: Progress | None = None
    on_unit: OnUnit | None = None


def audit(
    path: str | Path,
    spec: Spec | Mapping[str, Any] | str | Path | None = None,
    options: AuditOptions | None = None,
) -> AuditReport:
    """Audit the checkpoint at `path` against `spec` and what its own model declares.

    `spec` is a `Spec`, the path of a YAML file, or what such a file would hold.

    Raises:
        UnreadableError: the checkpoint cannot be opened, or changed while it was read.
        UsageError: the spec cannot be understood, or makes no sense for this checkpoint.
    """
    options = options or AuditOptions()
    rules = as_spec(spec, options)
    with opened(path, options) as checkpoint:
        plan = make_plan(checkpoint, rules, options)
        return audit_plan(checkpoint, plan, rules, options)


def as_spec(
    spec: Spec | Mapping[str, Any] | str | Path | None, options: AuditOptions
) -> Spec | None:
    """Read `spec`, in whichever form it was given."""
    if spec is None or isinstance(spec, Spec):
        return spec
    from ckptclamp.spec.loader import load_spec, spec_from_mapping

    if isinstance(spec, Mapping):
        return spec_from_mapping(spec, allow_import=options.allow_import)
    return load_spec(spec, allow_import=options.allow_import)


def opened(path: str | Path, options: AuditOptions) -> Checkpoint:
    """Open the checkpoint at `path` as `options` ask for it; close it when done."""
    if path == "":
        raise UsageError("an empty path names no checkpoint")  # it would be the working directory
    if options.require_isolation:
        check_isolation(path)
    limits = Limits(options.header_limit, options.expansion_limit, options.unpacked_limit)
    checkpoint = open_checkpoint(path, follow_symlinks=options.follow_symlinks, limits=limits)
    if options.config is not None:
        try:
            checkpoint.assume_config(options.config)
        except UsageError:
            checkpoint.close()
            raise
    if options.leave_cache:
        checkpoint.leave_cache()
    return checkpoint


def check_isolation(path: str | Path) -> None:
    """Refuse to open `path`, of whatever format, where HDF5 would be parsed without every wall.

    Raises:
        UnreadableError: this system cannot raise one of them.
    """
    from ckptclamp.checkpoints.sandbox.process import missing_walls

    missing = missing_walls()
    if missing:
        raise UnreadableError(
            f"was not opened: isolation is required, and this system lacks {', '.join(missing)}",
            path=path,
            hint="leave out --require-isolation to open it all the same",
        )


def make_plan(checkpoint: Checkpoint, spec: Spec | None, options: AuditOptions) -> Plan:
    """Build the plan as `options` ask for it."""
    return build_plan(
        checkpoint, spec, allow_import=options.allow_import, tolerance=options.tolerance
    )


def audit_plan(
    checkpoint: Checkpoint,
    plan: Plan,
    spec: Spec | None,
    options: AuditOptions,
    kept: Kept | None = None,
) -> AuditReport:
    """Judge every assignment of `plan` and gather the report.

    Measurements that will be needed again go to `kept`.
    """
    started = time.monotonic()
    with digests_of(checkpoint, options) as digests:
        results = [
            *_judge_with_meant(checkpoint, plan.assignments, options, kept),
            *(_not_evaluated(entry) for entry in plan.not_evaluated),
        ]
        torn = twin_notices(checkpoint, plan.twins, options.memory)
        notices = (*_format_notices(checkpoint, spec), *plan.notices, *torn)
        checkpoint.verify_integrity()
        summary = summarise(checkpoint, digests.result())
    checkpoint.verify_unchanged()
    report = AuditReport(
        checkpoint=summary,
        results=tuple(results),
        unmatched=plan.unmatched,
        notices=notices,
        spec_path=spec.path if spec else None,
        spec_sha256=spec.sha256 if spec else None,
        parameters=_parameters(options),
        tool_version=__version__,
        strict=options.strict,
        seconds=time.monotonic() - started,
    )
    return suppress(report, *ignored(checkpoint, spec))


def ignored(
    checkpoint: Checkpoint, spec: Spec | None
) -> tuple[Sequence[Suppression], Mapping[str, Sequence[str]]]:
    """The ignore rules of `spec`, and the names by which they may mean a tensor."""
    rules = spec.ignore if spec else ()
    return rules, all_names(checkpoint) if rules else {}


def _format_notices(checkpoint: Checkpoint, spec: Spec | None) -> tuple[Notice, ...]:
    """What opening the checkpoint had to tell, such as a name that disagrees with the content."""
    notices = tuple(Notice("format", note, informational=True) for note in checkpoint.notes)
    weights_only = checkpoint.keras is not None and checkpoint.keras.config is None
    if weights_only and (spec or Spec()).declared is Declared.AUDIT:
        without = Notice(
            "no-config",
            "it holds the weights of a Keras model, but not the config that declares constraints, so "
            "none of these is audited",
            hint="--config names the JSON, or the .keras, that has it; declared: ignore says that "
            "only rules count",
            informational=True,
        )
        return (*notices, without)
    return notices


def _judge_with_meant(
    checkpoint: Checkpoint,
    assignments: Sequence[Assignment],
    options: AuditOptions,
    kept: Kept | None,
) -> list[Result]:
    """Judge `assignments`, and tell of vacuous ones what the probably meant axes would show."""
    vacuous = [i for i, a in enumerate(assignments) if a.meant is not None]
    as_meant = [
        replace(assignments[i], axes=assignments[i].meant or (), notices=()) for i in vacuous
    ]
    results = judge(checkpoint, assignments, options, supposed=as_meant, kept=kept)
    for index, meant in zip(vacuous, results[len(assignments) :], strict=True):
        results[index] = _with_figure(results[index], meant)
    return results[: len(assignments)]


def _with_figure(result: Result, meant: Result) -> Result:
    """Add to the notice about a vacuous axis how many units lie outside as it was meant."""
    figure = (
        f"; taken over axes {list(meant.axes)}, {meant.violating} of {meant.units} units "
        f"({meant.unit_words}) lie outside"
    )
    notices = tuple(
        replace(notice, message=notice.message + figure)
        if notice.code == "degenerate-axis"
        else notice
        for notice in result.notices
    )
    return replace(result, notices=notices)


def judge(
    reader: TensorReader,
    assignments: Sequence[Assignment],
    options: AuditOptions,
    *,
    supposed: Sequence[Assignment] = (),
    kept: Kept | None = None,
) -> list[Result]:
    """Measure the tensors of `assignments` and return a result for each, in order.

    Results of `supposed` follow: nobody asked for these, so `AuditOptions.on_unit` hears of no unit
    of theirs. What is measured of the others goes to `kept` as well.
    """
    tallies = [
        Tally(a, keep=options.worst, histogram=options.histogram, on_unit=options.on_unit)
        for a in assignments
    ]
    tallies += [Tally(a, keep=0) for a in supposed]
    for index, item in _measured(reader, [*assignments, *supposed], options):
        tallies[index].add(item)
        if kept is not None and index < len(assignments):
            assignment = assignments[index]
            kept.add(assignment.tensor, assignment.rule, item)
    return [tally.result() for tally in tallies]


def _measured(
    reader: TensorReader, assignments: Sequence[Assignment], options: AuditOptions
) -> Iterator[tuple[int, Measurement]]:
    """Everything measured, each with the index of its assignment."""
    streamed = [i for i, a in enumerate(assignments) if a.constraint.streaming]
    requests = [_request(assignments[i]) for i in streamed]
    total = sum({r.tensor.name: r.tensor.nbytes for r in requests}.values())
    for item in measure(
        reader,
        requests,
        memory=options.memory,
        jobs=options.jobs,
        executor=options.executor,
        progress=Meter(options.progress, total).add,
    ):
        yield streamed[item.request], item
    for index, assignment in enumerate(assignments):
        constraint = assignment.constraint
        if isinstance(constraint, WholeTensorConstraint):
            yield index, measure_whole(reader, assignment.tensor, constraint, options.memory)


def _request(assignment: Assignment) -> Request:
    constraint = assignment.constraint
    return Request(
        tensor=assignment.tensor,
        axes=assignment.axes,
        needs=constraint.needs,
        bounds=constraint.bounds() if constraint.elementwise else None,
    )


def _not_evaluated(entry: NotEvaluated) -> Result:
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
        hint=entry.hint,
        notices=entry.notices,
    )


def is_hashed(checkpoint: Checkpoint, options: AuditOptions) -> bool:
    """Whether the report has digests: where they were asked for, or cost nothing."""
    if options.hash is not None:
        return options.hash
    return sum(source.size for source in checkpoint.sources) <= HASHED_UNASKED


def digests_of(checkpoint: Checkpoint, options: AuditOptions) -> Digests:
    """Hash the files of `checkpoint`, if the report is to tell, while the block inside reads them."""
    return Digests(checkpoint.files if is_hashed(checkpoint, options) else (), options.jobs)


def summarise(checkpoint: Checkpoint, digests: Mapping[Path, str]) -> CheckpointSummary:
    """Describe what was audited; `digests` are those of its files, or of none of them."""
    producer = checkpoint.producer
    return CheckpointSummary(
        path=str(checkpoint.path),
        format=checkpoint.format,
        files=tuple(
            FileDigest(str(source.path), source.size, digests[source.path] if digests else None)
            for source in checkpoint.files
        ),
        tensors=len(checkpoint.tensors),
        producer=str(producer) if producer else None,
        isolation=checkpoint.isolation,
    )


def _parameters(options: AuditOptions) -> dict[str, str]:
    """The options that change the answer, as text."""
    parameters = {
        "tolerance": "auto" if options.tolerance is None else repr(options.tolerance),
        "strict": str(options.strict).lower(),
        "allow-import": ",".join(sorted(options.allow_import)),
        "config": "" if options.config is None else options.config_source or "given",
    }
    return {name: value for name, value in parameters.items() if value}
