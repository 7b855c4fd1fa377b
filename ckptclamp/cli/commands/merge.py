"""``ckptclamp merge``."""

from __future__ import annotations

from pathlib import Path

import click

from ckptclamp.cli.baselines import baseline_options
from ckptclamp.cli.failures import ReportedCommand
from ckptclamp.cli.options import (
    GateOptions,
    ReportOptions,
    format_option,
    gather,
    report_option,
    suppressed_option,
    verbosity_options,
)
from ckptclamp.cli.parameters import PATH, option


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
    renames: tuple[str, ...],
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
    names = renaming(renames)
    baseline = RunBaseline(gate, names)
    report = merge([read_part(path) for path in parts], [str(path) for path in parts])
    checkpoint = Path(report.checkpoint.path)
    baseline.check(checkpoint)
    check_renames(names, [baseline])
    report = baseline.judged(report, checkpoint)
    finish(report, reports, gate)
    ctx.exit(program_exit(report.exit_code, zero=exit_zero))
