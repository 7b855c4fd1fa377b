"""``ckptclamp report``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ckptclamp.cli.options import (
    format_option,
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
def command(result: Path, **options: Any) -> None:  # noqa: ANN401
    """Make other formats of RESULT, the JSON report of an earlier audit or apply.

    Returns 0 when they are made, whatever the report says: the gate was where it was made.
    """
    from ckptclamp.cli.gating import check_places
    from ckptclamp.cli.running import emit
    from ckptclamp.reports.formats.json import read_report
    from ckptclamp.reports.writing import STDOUT, UNITS

    if any(output.format == UNITS for output in options["reports"]):
        raise click.UsageError("a saved report has the worst units only; audit lists them all")
    check_places([result], [Path(o.path) for o in options["reports"] if o.path != STDOUT])
    emit(read_report(result), options)
