"""The commands that start from what an earlier run wrote: a report, a part, a baseline, a statement."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ckptclamp.cli.baselines import baseline_options, name_option, rename_option
from ckptclamp.cli.failures import ReportedCommand
from ckptclamp.cli.options import (
    EngineOptions,
    GateOptions,
    ReportOptions,
    RuleOptions,
    engine_options,
    format_option,
    gather,
    plain_format_option,
    report_option,
    spec_options,
    suppressed_option,
    verbosity_options,
)
from ckptclamp.cli.parameters import PATH, option, outside_settings
from ckptclamp.errors import UsageError, printable

if TYPE_CHECKING:
    from ckptclamp.auditing.results import AuditReport
    from ckptclamp.auditing.runs import Document, Run
    from ckptclamp.gate.attestation import Checked, Verification

_OF_A_REPORT = {
    "audited",
    "baseline",
    "checkpoint_name",
    "renames",
    "quiet",
    "verbose",
    "color",
    "settings",
}
"""What means something where nothing is audited any more."""


@click.command("report", cls=ReportedCommand)
@click.argument("result", type=PATH, nargs=-1, required=True)
@format_option
@report_option("-o", units=False)
@suppressed_option
@verbosity_options
@gather(reports=ReportOptions)
def report_command(result: tuple[Path, ...], reports: ReportOptions) -> None:
    """Convert RESULT, the JSON report of an earlier audit or apply, into other formats.

    Several are merged into one report with a section for each. Return 0 when these are written, whatever
    the report says: the gate was where it was made.
    """
    from ckptclamp.cli.places import check_written, report_files
    from ckptclamp.cli.running import emit
    from ckptclamp.reports import UNITS
    from ckptclamp.reports.formats.json import read_document

    if any(output.format == UNITS for output in reports.reports):
        raise click.UsageError("a saved report has the worst units only; audit lists them all")
    check_written(result, report_files(reports))
    documents = [read_document(path) for path in result]
    emit(documents[0] if len(documents) == 1 else _merged(documents), reports)


def _merged(documents: Sequence[Document]) -> Run:
    """One run over all that was asked for in several."""
    from ckptclamp import __version__
    from ckptclamp.auditing.runs import Run, answers_of, seconds_of

    return Run(
        answers=tuple(answer for document in documents for answer in answers_of(document)),
        notices=tuple(n for d in documents if isinstance(d, Run) for n in d.notices),
        tool_version=__version__,
        seconds=sum(map(seconds_of, documents)),
    )


@click.group("baseline", no_args_is_help=False)
def baseline_command() -> None:
    """Look after a baseline, the violations that a gate takes for known.

    One is made by: ckptclamp audit CHECKPOINT --write-baseline PATH
    """


def _outside_settings(ctx: click.Context, param: click.Parameter, audited: Path) -> Path:
    """Refuse settings of a checkpoint's own; a report is no checkpoint, and may lie anywhere."""
    from ckptclamp.reports.formats.json import is_report

    return audited if is_report(audited) else outside_settings(ctx, param, audited)


@baseline_command.command("prune")
@click.argument("audited", type=PATH, callback=_outside_settings)
@option("--baseline", required=True, type=PATH, help="The one to tighten.")
@name_option
@rename_option
@spec_options
@engine_options
@verbosity_options
@gather(rules=RuleOptions, engine=EngineOptions, reports=ReportOptions)
def prune_command(
    audited: Path,
    *,
    baseline: Path,
    checkpoint_name: str | None,
    renames: tuple[str, ...],
    rules: RuleOptions,
    engine: EngineOptions,
    reports: ReportOptions,
) -> None:
    """Drop what is resolved from a baseline, and lower the limits of what got better.

    AUDITED is a checkpoint, or the JSON report of an audit of it. Nothing is added or raised.
    """
    from ckptclamp.gate.baseline import checkpoint_identity, prune, renamed, renames_of
    from ckptclamp.gate.known import load_baselines, render_baselines
    from ckptclamp.reports import write_whole

    known = load_baselines(baseline)
    report = _report(audited, rules, engine, reports)
    name = checkpoint_name or report.parameters.get("checkpoint-name")
    identity = checkpoint_identity(report.checkpoint.path, baseline, name)
    renaming = renames_of(renames)
    old = renamed(known.of(identity), renaming)
    renaming.refuse_idle()
    new = prune(old, report, identity)
    if new != known.of(identity):
        write_whole(baseline, render_baselines(known.replaced(new)))
    if not reports.quiet:
        kept = {entry.identity: entry for entry in new.entries}
        lowered = sum(e.identity in kept and kept[e.identity] != e for e in old.entries)
        click.echo(
            f"{len(old.entries) - len(new.entries)} removed, {lowered} lowered, "
            f"{len(new.entries)} known"
        )


def _report(
    audited: Path, rules: RuleOptions, engine: EngineOptions, reports: ReportOptions
) -> AuditReport:
    from ckptclamp.auditing.audit import audit
    from ckptclamp.auditing.results import AuditReport
    from ckptclamp.cli.progress import progress_bar
    from ckptclamp.cli.running import audit_options, load_rules
    from ckptclamp.reports.formats.json import is_report, read_report

    if is_report(audited):
        _check_options_of_a_report()
        report = read_report(audited)
        if not isinstance(report, AuditReport):
            raise UsageError("is the report of an apply, not of an audit", path=audited)
        return report
    spec = load_rules(rules)
    with progress_bar(reports) as progress:
        return audit(audited, spec, audit_options(rules, engine, progress=progress))


def _check_options_of_a_report() -> None:
    """Refuse options that say how to audit: a report was made by those of its own audit."""
    context = click.get_current_context()
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if source is click.core.ParameterSource.COMMANDLINE and name not in _OF_A_REPORT:
            spelt = max(parameter.opts, key=len)
            raise click.UsageError(f"{spelt} is for an audit, and AUDITED is the report of one")


@click.command("verify-attestation", cls=ReportedCommand)
@click.argument("statement", type=PATH)
@option(
    "--directory",
    type=PATH,
    help="Where the files are; by default beside the statement.",
)
@option(
    "--spec",
    type=PATH,
    help="Require that this spec was audited against, byte for byte.",
)
@option(
    "--map",
    "maps",
    multiple=True,
    metavar="NAME=PATH",
    help="Where a file of the statement is now, if renamed or moved. May be repeated.",
)
@option("--follow-symlinks", is_flag=True, help="Allow files that are symbolic links.")
@plain_format_option
@click.pass_context
def verify_attestation_command(
    ctx: click.Context,
    /,
    statement: Path,
    directory: Path | None,
    spec: Path | None,
    *,
    maps: tuple[str, ...],
    follow_symlinks: bool,
    format: str,
) -> None:
    """Compare STATEMENT, as --attest wrote it, with the files on disk.

    So are the configs beside them and the files of a base, on which the answer hung as well; files of
    a base that are nowhere to be found are said to be "not compared". It may be in the DSSE envelope or the
    Sigstore bundle that a signer put around it.

    Returns 0 if every file is the one that was audited and the audit passed, 1 if a file or the
    spec differs or the audit had failed, 3 if a file cannot be read. Who wrote the statement is
    not checked here; that is what a signature over it is for.
    """
    from ckptclamp.gate.attestation import verify

    verification = verify(
        statement,
        directory,
        spec=spec,
        renamed=dict(map(_renamed, maps)),
        follow_symlinks=follow_symlinks,
    )
    lines = [_json(verification)] if format == "json" else _lines(verification)
    for line in lines:
        click.echo(line)
    ctx.exit(verification.exit_code)


def _renamed(text: str) -> tuple[str, str]:
    name, separator, path = text.partition("=")
    if not (separator and name and path):
        raise click.UsageError(f"--map: {text!r} is not NAME=PATH")
    return name, path


def _json(verification: Verification) -> str:
    from ckptclamp.gate.attestation import Verification
    from ckptclamp.reports.codec import codec, json_text

    document = {"schema": "ckptclamp-verification-1", "exit_code": int(verification.exit_code)}
    return json_text(document | codec(Verification).encode(verification), indent=1)


def _lines(verification: Verification) -> list[str]:
    from ckptclamp.errors import plural

    lines = [_line(checked) for checked in (*verification.files, *verification.decided)]
    if verification.spec is not None:
        lines.append(f"spec {_line(verification.spec)}")
    if verification.envelope is not None:
        held = verification.envelope
        count = plural(held.signatures, "signature")
        lines.append(f"envelope: {held.kind}, {count}, not verified here")
    answer = "passed" if verification.attested == 0 else "did not pass"
    lines.append(
        f"the attested audit {answer} (exit {verification.attested}, "
        f"ckptclamp {printable(verification.version)}); exit {int(verification.exit_code)}"
    )
    return lines


def _line(checked: Checked) -> str:
    detail = f": {printable(checked.detail)}" if checked.detail else ""
    return f"{printable(checked.name)}: {checked.match}{detail}"


@click.command("merge", cls=ReportedCommand)
@click.argument("parts", metavar="PART...", type=PATH, nargs=-1, required=True)
@baseline_options
@suppressed_option
@option("--exit-zero", is_flag=True, help="Return 0 where violations would return 1.")
@format_option
@report_option("-o", units=False)
@verbosity_options
@click.pass_context
@gather(gate=GateOptions, reports=ReportOptions)
def merge_command(
    ctx: click.Context,
    /,
    parts: tuple[Path, ...],
    *,
    gate: GateOptions,
    reports: ReportOptions,
    exit_zero: bool,
) -> None:
    """Merge every PART of an audit, as `audit --part` wrote them, into the report of the whole.

    The report and the exit code are those of an audit in one piece. Parts of different checkpoints,
    specs or options are refused, and so are parts that are missing or there twice.
    """
    from ckptclamp.auditing.parts.partial import merge
    from ckptclamp.cli.baselines import RunBaseline, check_renames, renaming
    from ckptclamp.cli.places import check_written, report_files
    from ckptclamp.cli.running import finish, program_exit
    from ckptclamp.reports import UNITS
    from ckptclamp.reports.formats.partial import read_part

    if any(output.format == UNITS for output in reports.reports):
        raise click.UsageError("parts hold the worst units only; audit --part lists all of its own")
    check_written([*parts, gate.baseline], [*report_files(reports), gate.write_baseline])
    names = renaming(gate.renames)
    baseline = RunBaseline(gate, names)
    report = merge([read_part(path) for path in parts], [str(path) for path in parts])
    checkpoint = Path(report.checkpoint.path)
    baseline.check(checkpoint)
    check_renames(names, [baseline])
    report = baseline.judged(report, checkpoint)
    finish(report, reports, gate)
    ctx.exit(program_exit(report.exit_code, zero=exit_zero))
