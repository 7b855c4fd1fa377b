"""``ckptclamp report``."""

from __future__ import annotations

from pathlib import Path

import click

from ckptclamp.cli.options import (
    ReportOptions,
    format_option,
    gather,
    report_option,
    suppressed_option,
    verbosity_options,
)
from ckptclamp.cli.parameters import PATH


@click.command("report")
@click.argument("result", type=PATH)
@format_option
@report_option("-o", units=False)
@suppressed_option
@verbosity_options
@gather(reports=ReportOptions)
def report_command(result: Path, reports: ReportOptions) -> None:
    """Make other formats of RESULT, the JSON report of an earlier audit or apply.

    Returns 0 when they are made, whatever the report says: the gate was where it was made.
    """
    from ckptclamp.cli.gating import check_places, report_files
    from ckptclamp.cli.running import emit
    from ckptclamp.reports.saved import read_report
    from ckptclamp.reports.writing import UNITS

    if any(output.format == UNITS for output in reports.reports):
        raise click.UsageError("a saved report has the worst units only; audit lists them all")
    check_places([result], report_files(reports))
    emit(read_report(result), reports)
