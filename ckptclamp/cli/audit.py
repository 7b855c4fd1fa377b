"""``ckptclamp audit``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from ckptclamp.cli.options import (
    attest_option,
    baseline_options,
    checkpoint_argument,
    engine_options,
    format_option,
    hash_option,
    load_rules,
    option,
    report_option,
    spec_options,
    suppressed_option,
    verbosity_options,
)


@click.command("audit")
@checkpoint_argument
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
@engine_options
@verbosity_options
@click.pass_context
def command(ctx: click.Context, /, checkpoint: Path, **options: Any) -> None:  # noqa: ANN401
    """Judge CHECKPOINT against a spec and what its own model declares.

    The report goes to stdout, everything else to stderr.
    """
    from ckptclamp.auditing.audit import audit
    from ckptclamp.cli.gating import (
        attest,
        check_attest,
        check_outputs,
        judged,
        program_exit,
        read_baseline,
        with_settings,
    )
    from ckptclamp.cli.running import audit_options, emit, progress_bar, units_output

    check_outputs(checkpoint, options)
    check_attest(checkpoint, options)
    spec = load_rules(options)
    known = read_baseline(options)
    with units_output(options) as on_unit, progress_bar(options) as progress:
        chosen = replace(audit_options(options, progress), on_unit=on_unit)
        report = audit(checkpoint, spec, chosen)
    report = with_settings(judged(report, known, options))
    try:
        attest(report, options["attest"])
    finally:  # the report is told even if the statement cannot be written
        emit(report, options)
    ctx.exit(program_exit(report.exit_code, zero=options["exit_zero"]))
