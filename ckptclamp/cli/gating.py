"""What stands between a report and the exit code: baseline, settings, attestation, safe outputs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from ckptclamp.checkpoints.opening import CHECKPOINTS, PARTS
from ckptclamp.cli.parameters import SETTINGS, from_settings, settings_in_effect
from ckptclamp.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from ckptclamp.auditing.results import ApplyReport, AuditReport
    from ckptclamp.cli.options import GateOptions, ReportOptions, RuleOptions
    from ckptclamp.gate.baseline import Baseline

Report = TypeVar("Report", "AuditReport", "ApplyReport")


def read_baseline(gate: GateOptions) -> Baseline | None:
    """Read the baseline to compare with, or the one whose reasons a new one keeps.

    Called before the audit, so that a wrong path costs no hour of measuring.
    """
    old, new = gate.baseline, gate.write_baseline
    if old is not None and new is not None and not from_settings("baseline"):
        raise click.UsageError("--baseline and --write-baseline exclude each other")
    path = old if new is None else new if new.exists() else None
    if path is None:
        return None
    from ckptclamp.gate.baseline import load_baseline

    return load_baseline(path)


def judged(report: AuditReport, known: Baseline | None, gate: GateOptions) -> AuditReport:
    """Write the baseline if that is asked for, and mark what it knows.

    None is written from an audit that did not judge what it was to: its exit code is not 0 anyway.
    """
    if known is None and gate.write_baseline is None:
        return report
    from ckptclamp.gate.baseline import compare, record, render_baseline, unfit
    from ckptclamp.reports import write_whole

    if gate.write_baseline is not None:
        reason = unfit(report)
        if reason is not None:
            return _not_recorded(report, reason)
        known = record(report, known)
        write_whole(gate.write_baseline, render_baseline(known))
    assert known is not None
    import hashlib

    digest = hashlib.sha256(render_baseline(known).encode()).hexdigest()
    parameters = {**report.parameters, "baseline": f"sha256:{digest}"}
    return replace(compare(report, known), parameters=parameters)


def _not_recorded(report: AuditReport, reason: str) -> AuditReport:
    from ckptclamp.errors import Notice

    notice = Notice("baseline-not-written", f"the baseline was not written: {reason}")
    return replace(report, notices=(*report.notices, notice))


def check_attest(checkpoint: Path, rules: RuleOptions, gate: GateOptions) -> None:
    """Refuse a statement that could not be made, before there is anything to attest."""
    if gate.attest is None:
        return
    from ckptclamp.gate.attestation import check_attestable

    if gate.hash is False:
        raise UsageError("--attest needs the digests that --no-hash leaves out", hint="pass --hash")
    # The files of a directory have names of their own, the copy of a file that of the output.
    attested = [] if checkpoint.is_dir() else [checkpoint, gate.output]
    named = [*attested, rules.spec, rules.config]
    check_attestable(path.name for path in named if path is not None)


def finish(report: Report, reports: ReportOptions, gate: GateOptions) -> None:
    """Write the statement about `report`, if one is asked for, and the report wherever it goes."""
    from ckptclamp.cli.running import emit

    try:
        if gate.attest is not None:
            from ckptclamp.gate.attestation import render_attestation
            from ckptclamp.reports import write_whole

            write_whole(gate.attest, render_attestation(report))
    finally:  # the report is written even if the statement cannot be written
        emit(report, reports)


def with_settings(report: Report) -> Report:
    """Tell in the report which settings file gave options their defaults."""
    settings = click.get_current_context().meta.get(SETTINGS)
    names = settings_in_effect()
    if settings is None or not names:
        return report
    from ckptclamp.errors import Notice

    said = f"{', '.join(names)} set by {settings.path}"
    notice = Notice("settings", said, informational=True)
    return replace(report, notices=(*report.notices, notice))


def program_exit(code: ExitCode, *, zero: bool) -> int:
    """The exit code that the program returns; with `zero`, violations do not count."""
    if zero and code is ExitCode.VIOLATIONS:
        click.echo("ckptclamp: exit code 1 is returned as 0 (--exit-zero)", err=True)
        return 0
    return int(code)


Name = str | tuple[int, int]
"""What a file is known by: its real path, or its device and inode."""


def check_outputs(
    checkpoint: Path, rules: RuleOptions, reports: ReportOptions, gate: GateOptions
) -> None:
    """Refuse to write a report, a statement, a baseline or a copy over what is read, or twice.

    Called before anything is read.
    """
    read = [rules.spec, rules.config]
    if gate.output is not None:
        _check_copy(gate.output, read)
    read += [checkpoint, gate.output]
    # The baseline that a project's settings name may be the one that is written again.
    check_places(read, [gate.write_baseline])
    known = [gate.baseline, gate.write_baseline]
    copy = checkpoint if gate.in_place else gate.output
    check_places([*read, *known], [*report_files(reports), gate.attest], copy)


def report_files(reports: ReportOptions) -> list[Path]:
    """The files that reports go to."""
    return [Path(report.path) for report in reports.reports if report.path != "-"]


def check_places(
    read: Iterable[Path | None], written: Iterable[Path | None], copy: Path | None = None
) -> None:
    """Refuse to write over what is `read`, into a directory that is a `copy`, or twice.

    A file that is there and has a checkpoint's name is never replaced. Into a directory that is a
    checkpoint nothing goes that has the name of a part of it; the working directory may be one, so
    reports may. `None` stands for nothing.

    Raises:
        UsageError: one of `written` is such a place, or cannot be a file.
    """
    from ckptclamp.reports import check_place

    kept = [path for path in (*read, _settings_file()) if path is not None]
    taken = {name for path in kept for file in _files(path) for name in _names(file)}
    folders = {name for path in kept if path.is_dir() for name in _names(path)}
    copied = set() if copy is None else _names(copy)
    for path in written:
        if path is None:
            continue
        check_place(path)
        names = _names(path)
        if names & taken or _is_checkpoint(path):
            raise UsageError("would be overwritten by what is written about it", path=path)
        around = list(Path(os.path.realpath(path)).parents)
        is_part = path.name.endswith(PARTS) and bool(_names(around[0]) & folders)
        if is_part or any(_names(folder) & copied for folder in around):
            raise UsageError(
                "would become a part of the checkpoint that it is about",
                path=path,
                hint="write it outside of that directory",
            )
        taken |= names


def _check_copy(output: Path, read: Iterable[Path | None]) -> None:
    """Refuse a copy that would replace what decides what it is; `--force` is about older copies."""
    for path in (*read, _settings_file()):
        if path is not None and _names(path) & _names(output):
            raise UsageError("is read, and would be replaced by the copy", path=path)


def _settings_file() -> Path | None:
    context = click.get_current_context(silent=True)
    settings = context.meta.get(SETTINGS) if context else None
    return None if settings is None else Path(settings.path)


def _files(path: Path) -> Iterator[Path]:
    """`path`, and what belongs to it if it is a checkpoint of several files.

    Which files an index names is not known before it is read; all that may be shards lie beside it.
    """
    yield path
    inside = path.is_dir()
    try:
        entries = list((path if inside else path.parent).iterdir())
    except OSError:  # whoever opens the checkpoint tells why
        return
    yield from (e for e in entries if e.name.endswith(PARTS if inside else CHECKPOINTS))


def _names(path: Path) -> set[Name]:
    """What `path` is known by; another path may lead to the same file."""
    names: set[Name] = {os.path.realpath(path)}
    try:
        status = path.stat()
    except OSError:
        return names
    return names | {(status.st_dev, status.st_ino)}


def _is_checkpoint(path: Path) -> bool:
    names = (path.name, Path(os.path.realpath(path)).name)
    return path.is_file() and any(name.endswith(CHECKPOINTS) for name in names)
