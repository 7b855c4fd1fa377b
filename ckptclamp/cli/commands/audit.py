"""``ckptclamp audit``, of a whole checkpoint or of one part of it; the gate is where parts are merged."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ckptclamp.cli.baselines import baseline_options
from ckptclamp.cli.failures import ReportedCommand
from ckptclamp.cli.options import (
    EngineOptions,
    GateOptions,
    ReportOptions,
    RuleOptions,
    attest_option,
    engine_options,
    format_option,
    gather,
    hash_option,
    report_option,
    spec_options,
    suppressed_option,
    verbosity_options,
)
from ckptclamp.cli.parameters import PATH, check_settings, from_settings, not_in_effect, option
from ckptclamp.errors import UsageError

if TYPE_CHECKING:
    from ckptclamp.auditing.parts import Share
    from ckptclamp.auditing.parts.partial import PartialReport
    from ckptclamp.auditing.results import AuditReport
    from ckptclamp.auditing.runs import Run
    from ckptclamp.spec.manifest import Asked

_OF_ALL = ("baseline", "checkpoint_name")
"""What settings may say for those who merge the parts."""


def _outside_settings(
    ctx: click.Context, _param: click.Parameter, checkpoints: tuple[Path, ...]
) -> tuple[Path, ...]:
    """Refuse settings of a checkpoint's own, before any of their values is looked at."""
    for checkpoint in checkpoints:
        check_settings(ctx, checkpoint)
    return checkpoints


def _known_executor(_ctx: click.Context, _param: click.Parameter, name: str | None) -> str | None:
    """Refuse a name that no executor has, before anything is read."""
    if name is None:
        return None
    from ckptclamp.engine.elsewhere.named import check_name

    return check_name(name)


def _named_share(_ctx: click.Context, _param: click.Parameter, text: str | None) -> Share | None:
    """The part that the option names."""
    if text is None:
        return None
    from ckptclamp.auditing.parts import Share

    return Share.named(text)


@click.command("audit", cls=ReportedCommand)
@click.argument("checkpoint", type=PATH, nargs=-1, callback=_outside_settings)
@option(
    "--manifest",
    type=PATH,
    help="A YAML file that names the checkpoints, and how each is judged.",
)
@option(
    "--part",
    metavar="N/M",
    callback=_named_share,
    help="Judge only the N-th of M parts, of about as many bytes each, and write it with "
    "-o partial=PATH for `ckptclamp merge`.",
)
@spec_options
@option("--strict", is_flag=True, help="Warnings fail the audit too.")
@baseline_options
@suppressed_option
@option("--exit-zero", is_flag=True, help="Return 0 where violations would return 1.")
@attest_option
@format_option
@report_option("-o")
@option(
    "--worst",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="How many of the worst units to keep for each tensor.",
)
@hash_option
@option(
    "--executor",
    metavar="NAME",
    callback=_known_executor,
    help="What measures: threads (the default), processes, dask, dask:tcp://HOST:PORT, ray or "
    "ray:ADDRESS; each worker has the budget for itself.",
)
@engine_options
@verbosity_options
@click.pass_context
@gather(rules=RuleOptions, gate=GateOptions, reports=ReportOptions, engine=EngineOptions)
def audit_command(
    ctx: click.Context,
    /,
    checkpoint: tuple[Path, ...],
    *,
    manifest: Path | None,
    part: Share | None,
    rules: RuleOptions,
    gate: GateOptions,
    reports: ReportOptions,
    engine: EngineOptions,
    exit_zero: bool,
) -> None:
    """Judge CHECKPOINT against a spec and what its own model declares.

    The report goes to stdout, everything else to stderr. Several checkpoints, globs, a manifest, or
    without any of these the `checkpoint` tables of the project's settings, make one report with a
    section for each, and one exit code. The exit code of a part is no answer of the gate.
    """
    from ckptclamp.cli.running import finish, program_exit

    asked = _asked_for(checkpoint, manifest)
    if part is not None:
        if asked is not None:
            raise click.UsageError("--part is about one checkpoint")
        found = _audited_part(checkpoint[0], rules, engine, reports, gate, share=part)
        ctx.exit(program_exit(found.exit_code, zero=exit_zero))
    report: AuditReport | Run
    if asked is None:
        report = _audited(checkpoint[0], rules, engine, reports, gate)
    else:
        from ckptclamp.cli.several import SeveralCheckpoints

        report = SeveralCheckpoints(asked, rules, engine, reports, gate, manifest=manifest).run()
    finish(report, reports, gate)
    ctx.exit(program_exit(report.exit_code, zero=exit_zero))


def _asked_for(named: tuple[Path, ...], manifest: Path | None) -> tuple[Asked, ...] | None:
    """What is asked for, or ``None`` where it is one checkpoint that is named itself."""
    if manifest is None and len(named) == 1 and not set("*?[{") & set(str(named[0])):
        return None  # as nearly always: what reads manifests need not be there
    from ckptclamp.cli.several import asked_for

    return asked_for(named, manifest)


def _audited(
    checkpoint: Path,
    rules: RuleOptions,
    engine: EngineOptions,
    reports: ReportOptions,
    gate: GateOptions,
) -> AuditReport:
    """The report about one checkpoint, compared with what is known of it."""
    from ckptclamp.auditing.audit import audit
    from ckptclamp.cli.baselines import RunBaseline, check_renames, renaming
    from ckptclamp.cli.places import check_outputs
    from ckptclamp.cli.running import load_rules, reported_options

    check_outputs(checkpoint, rules, reports, gate)
    spec = load_rules(rules)
    names = renaming(gate.renames)
    baseline = RunBaseline(gate, names)
    baseline.check(checkpoint)
    check_renames(names, [baseline])
    with reported_options(rules, engine, reports, gate) as options:
        report = audit(checkpoint, spec, options)
    return baseline.judged(report, checkpoint)


def _audited_part(
    checkpoint: Path,
    rules: RuleOptions,
    engine: EngineOptions,
    reports: ReportOptions,
    gate: GateOptions,
    *,
    share: Share,
) -> PartialReport:
    """Audit one part of `checkpoint`, write what it found, and print it.

    Raises:
        UsageError: something is asked for that only all parts together can answer.
    """
    from ckptclamp.auditing.parts.part import audit_part
    from ckptclamp.cli.places import check_outputs
    from ckptclamp.cli.running import load_rules, reported_options, settings_notice

    _check_asked(reports, gate)
    check_outputs(checkpoint, rules, reports, gate)
    spec = load_rules(rules)
    with reported_options(rules, engine, reports, gate) as options:
        part = audit_part(checkpoint, share, spec, options)
    for name in _OF_ALL:
        not_in_effect(name)
    notice = settings_notice()
    part = replace(part, closing=() if notice is None else (notice,))
    _emit(part, reports)
    return part


def _check_asked(reports: ReportOptions, gate: GateOptions) -> None:
    from ckptclamp.reports import PARTIAL, UNITS

    known = {name: getattr(gate, name) for name in _OF_ALL if not from_settings(name)}
    of_all = {
        "--baseline": known.get("baseline") is not None,
        "--write-baseline": gate.write_baseline is not None,
        "--checkpoint-name": known.get("checkpoint_name") is not None,
        "--rename": bool(gate.renames),
        "--attest": gate.attest is not None,
        f"--format {reports.format}": reports.format != "text",
    }
    for name, given in of_all.items():
        if given:
            raise UsageError(
                f"{name} is about the whole audit, and --part about a part of it",
                hint="`ckptclamp merge` has reports and baselines",
            )
    formats = {output.format for output in reports.reports}
    if PARTIAL not in formats or formats - {PARTIAL, UNITS}:
        raise UsageError(
            "a part is written as partial=PATH, and reports are made of all parts",
            hint="-o partial=part-3.json, then: ckptclamp merge part-*.json -o json=report.json",
        )


def _emit(part: PartialReport, reports: ReportOptions) -> None:
    """Write the part to its files, and print what it found."""
    from ckptclamp.cli.failures import report_is_written
    from ckptclamp.cli.running import render_options
    from ckptclamp.reports import PARTIAL, STDOUT, whole_file, write_stream
    from ckptclamp.reports.formats.partial import stream
    from ckptclamp.reports.formats.text import render_part

    report_is_written()
    for output in reports.reports:
        if output.format == PARTIAL and output.path != STDOUT:
            with whole_file(Path(output.path)) as file:
                file.writelines(text.encode() for text in stream(part))
    write_stream(render_part(part, render_options(reports)), sys.stdout)
