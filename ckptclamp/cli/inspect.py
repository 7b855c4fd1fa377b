"""``ckptclamp inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ckptclamp.cli.options import (
    checkpoint_argument,
    config_option,
    engine_options,
    hash_option,
    option,
    plain_format_option,
    units_options,
    verbosity_options,
)


@click.command("inspect")
@checkpoint_argument
@option("--norms", is_flag=True, help="Measure the norms of the units of every tensor.")
@units_options
@plain_format_option
@config_option
@hash_option
@engine_options
@verbosity_options
def command(checkpoint: Path, **options: Any) -> None:  # noqa: ANN401
    """Show what CHECKPOINT holds and declares: format, producer, tensors, constraints."""
    if not options["norms"] and (options["axis"] is not None or options["unit_axis"] is not None):
        raise click.UsageError("--axis and --unit-axis belong to --norms")
    from ckptclamp.auditing.inspection import inspect
    from ckptclamp.cli.running import engine, render_options
    from ckptclamp.reports.inspection import render_inspection
    from ckptclamp.spec.rules import units

    inspection = inspect(
        checkpoint,
        norms=options["norms"],
        units=units(options["axis"], options["unit_axis"]),
        options=engine(options),
    )
    click.echo(render_inspection(inspection, options["format"], render_options(options)))
