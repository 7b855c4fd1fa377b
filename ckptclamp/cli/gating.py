"""What stands between a report and the exit code: baseline, settings, attestation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ckptclamp.cli.options import SETTINGS, from_settings, settings_in_effect
from ckptclamp.errors import UsageError
from ckptclamp.results import ExitCode

if TYPE_CHECKING:
    from ckptclamp.baseline import Baseline
    from ckptclamp.results import ApplyReport, AuditReport

Report = TypeVar("Report", "AuditReport", "ApplyReport")


def read_baseline(options: Mapping[str, Any]) -> Baseline | None:
    """Read the baseline to compare with, or the one whose reasons a new one keeps.

    Called before the audit, so that a wrong path costs no hour of measuring.
    """
    old, new = options["baseline"], options["write_baseline"]
    if old is not None and new is not None and not from_settings("baseline"):
        raise click.UsageError("--baseline and --write-baseline exclude each other")
    path = old if new is None else new if new.exists() else None
    if path is None:
        return None
    from ckptclamp.baseline import load_baseline

    return load_baseline(path)


def judged(report: AuditReport, known: Baseline | None, options: Mapping[str, Any]) -> AuditReport:
    """Write the baseline if that is asked for, and mark what it knows.

    None is written from an audit that did not judge what it was to: its exit code is not 0 anyway.
    """
    if known is None and options["write_baseline"] is None:
        return report
    from ckptclamp.baseline import compare, record, render_baseline, unfit
    from ckptclamp.reports.writing import write_whole

    if options["write_baseline"] is not None:
        reason = unfit(report)
        if reason is not None:
            return _not_recorded(report, reason)
        known = record(report, known)
        write_whole(options["write_baseline"], render_baseline(known))
    assert known is not None
    import hashlib

    digest = hashlib.sha256(render_baseline(known).encode()).hexdigest()
    parameters = {**report.parameters, "baseline": f"sha256:{digest}"}
    return replace(compare(report, known), parameters=parameters)


def _not_recorded(report: AuditReport, reason: str) -> AuditReport:
    from ckptclamp.notices import Notice

    notice = Notice("baseline-not-written", f"the baseline was not written: {reason}")
    return replace(report, notices=(*report.notices, notice))


def check_attest(checkpoint: Path, options: Mapping[str, Any]) -> None:
    """Refuse a statement that could not be made, before there is anything to attest."""
    if options["attest"] is None:
        return
    from ckptclamp.attestation import check_attestable

    if options["hash"] is False:
        raise UsageError("--attest needs the digests that --no-hash leaves out", hint="pass --hash")
    # The files of a directory have names of their own, the copy of a file that of the output.
    attested = [] if checkpoint.is_dir() else [checkpoint, options.get("output")]
    named = [*attested, options["spec"], options["config"]]
    check_attestable(path.name for path in named if path is not None)


def attest(report: AuditReport | ApplyReport, path: Path | None) -> None:
    """Write the statement about `report` to `path`, if there is one."""
    if path is None:
        return
    from ckptclamp.attestation import render_statement
    from ckptclamp.reports.writing import write_whole

    write_whole(path, render_statement(report))


def with_settings(report: Report) -> Report:
    """Tell in the report which settings file gave options their defaults."""
    settings = click.get_current_context().meta.get(SETTINGS)
    names = settings_in_effect()
    if settings is None or not names:
        return report
    from ckptclamp.notices import Notice

    notice = Notice(
        "settings",
        f"{', '.join(names)} set by {settings.path}",
        informational=True,
    )
    return replace(report, notices=(*report.notices, notice))


def program_exit(code: ExitCode, *, zero: bool) -> int:
    """The exit code that the program returns; with `zero`, violations do not count."""
    if zero and code is ExitCode.VIOLATIONS:
        click.echo("ckptclamp: exit code 1 is returned as 0 (--exit-zero)", err=True)
        return 0
    return int(code)
