"""``ckptclamp apply``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from ckptclamp.cli.options import (
    attest_option,
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
from ckptclamp.cli.parameters import PATH


@click.command("apply")
@checkpoint_argument
@option("-o", "--output", type=PATH, help="Where the copy goes.")
@spec_options
@option(
    "--projection",
    type=click.Choice(["exact", "keras"]),
    help="exact: the nearest conforming weights, of violating units only (the default). "
    "keras: Keras' own formula, for every governed unit.",
)
@option("-n", "--dry-run", is_flag=True, help="Only tell what would change.")
@option("--force", is_flag=True, help="Replace an existing output.")
@option("--in-place", is_flag=True, help="Replace the input by the copy.")
@option(
    "--allow-remaining",
    is_flag=True,
    help="Write the copy even if violations remain in it; they are listed.",
)
@suppressed_option
@attest_option
@format_option
@report_option()
@hash_option
@engine_options
@verbosity_options
@click.pass_context
def command(ctx: click.Context, /, checkpoint: Path, **options: Any) -> None:  # noqa: ANN401
    """Write a copy of CHECKPOINT in which every governed unit conforms.

    The input is never touched. The copy appears under its name only when it is whole, has been
    audited as it is stored, and is on disk.
    """
    from ckptclamp.applying.apply import ApplyOptions, apply
    from ckptclamp.cli.gating import attest, check_attest, check_outputs, with_settings
    from ckptclamp.cli.running import audit_options, emit, progress_bar, units_output
    from ckptclamp.spec.model import Projection

    _check_output(options)
    check_outputs(checkpoint, options)
    check_attest(checkpoint, options)
    spec = load_rules(options)
    with units_output(options) as on_unit, progress_bar(options) as progress:
        report = apply(
            checkpoint,
            options["output"],
            spec,
            ApplyOptions(
                audit=replace(audit_options(options, progress), on_unit=on_unit),
                projection=Projection(options["projection"]) if options["projection"] else None,
                force=options["force"],
                in_place=options["in_place"],
                allow_remaining=options["allow_remaining"],
                dry_run=options["dry_run"],
            ),
        )
    report = with_settings(report)
    try:
        attest(report, options["attest"])
    finally:  # the report is told even if the statement cannot be written
        emit(report, options)
    ctx.exit(report.exit_code)


def _check_output(options: dict[str, Any]) -> None:
    from ckptclamp.reports.formats import REPORTERS
    from ckptclamp.reports.writing import UNITS

    given = [options["output"] is not None, options["in_place"], options["dry_run"]]
    if not any(given):
        raise click.UsageError("say where the copy goes: -o OUT (or --dry-run, or --in-place)")
    if options["output"] == Path("-"):
        raise click.UsageError("a copy cannot go to stdout: it is audited as it is stored")
    if options["output"] is not None and options["in_place"]:
        raise click.UsageError("-o and --in-place exclude each other")
    name, separator, _ = str(options["output"] or "").partition("=")
    if separator and (name in REPORTERS or name == UNITS):
        raise click.UsageError(f"-o is where the copy goes; for a report: --report {name}=PATH")
    if options["attest"] is not None and options["dry_run"]:
        raise click.UsageError("--attest tells of a copy, and --dry-run makes none")
